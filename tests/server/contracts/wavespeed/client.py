"""Requests to WaveSpeed's paths on a live server, without the SDK."""

import base64
import io
from typing import Any

import httpx2
import PIL.Image

from tests.live_server import LiveServer, until

MODEL = "wavespeed-ai/qwen-image/edit-plus-lora"


SUBMIT = f"/api/v3/{MODEL}"


# Takes seconds on any machine: for tests that wait for the result.
MEDIUM = {"num_inference_steps": 100, "size": "512*512"}


def submit(server: LiveServer, body: dict[str, Any], path: str = SUBMIT) -> httpx2.Response:
    return server.http.post(server.url + path, json=body)


def finished(server: LiveServer, data: dict[str, Any]) -> dict[str, Any]:
    """Wait until the prediction is completed or failed, and return it."""

    def ask() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get(data["urls"]["get"]).json()["data"]
        return found if found["status"] in ("completed", "failed") else None

    return until(ask)


def run(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = submit(server, body)
    assert answer.status_code == 200, answer.text
    return finished(server, answer.json()["data"])


def error_of(response: httpx2.Response) -> str:
    """Return the message of an error, which clients read under either of two keys (rule 17)."""
    found = response.json()
    assert found["code"] == response.status_code
    assert found["message"] == found["error"]
    message: str = found["message"]
    return message


def status_of(server: LiveServer, data: dict[str, Any]) -> str:
    status: str = server.http.get(data["urls"]["get"]).json()["data"]["status"]
    return status


def pixels_of(data: dict[str, Any]) -> bytes:
    return PIL.Image.open(io.BytesIO(base64.b64decode(data["outputs"][0]))).tobytes()
