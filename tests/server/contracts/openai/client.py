"""Requests to OpenAI's paths on a live server, without the SDK."""

import base64
import io
import json
import socket
from typing import Any

import httpx2
import PIL.Image

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer

EDITS = "/v1/images/edits"


IMAGE = encoded(gradient())


LONG = {"num_inference_steps": 100, "seed": 1}


SEEDED = {"seed": 1}


def post(
    server: LiveServer, *parts: tuple[str, Any], path: str = EDITS, **headers: str
) -> httpx2.Response:
    """Send multipart in the given order: bytes as files, everything else as text."""
    files = [
        (name, ("x.bin", value) if isinstance(value, bytes) else (None, str(value)))
        for name, value in parts
    ]
    return server.http.post(server.url + path, files=files, headers=headers)


def edit(server: LiveServer, **fields: Any) -> httpx2.Response:
    """Edit one image with a prompt, a fixed seed and `fields`."""
    given = {"prompt": "make it blue", "seed": 1} | fields
    return post(server, ("image", IMAGE), *given.items())


def image_of(answer: httpx2.Response | dict[str, Any], index: int = 0) -> PIL.Image.Image:
    found = answer if isinstance(answer, dict) else answer.json()
    data = base64.b64decode(found["data"][index]["b64_json"], validate=True)
    image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data))
    return image


def pixels(answer: httpx2.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return image_of(answer).tobytes()


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """Return the error, which must have the shape whose message the SDK reads."""
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert answer.headers["x-request-id"]
    return error


def jobs(server: LiveServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.http.get(f"{server.url}/v1/edits").json()["items"]
    return items


def total(server: LiveServer) -> int:
    count: int = server.http.get(f"{server.url}/v1/edits").json()["total"]
    return count


def job(server: LiveServer, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
    return found


def ended(server: LiveServer, job_id: str) -> bool:
    return job(server, job_id)["status"] not in ("queued", "running")


def events(answer: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    return [(event.event, json.loads(event.data)) for event in httpx2.EventSource(answer)]


def submit_and_leave(server: LiveServer) -> socket.socket:
    """Request a long edit on a new connection, without waiting for the response."""
    fields = {"prompt": "a", "size": "1024x1024", **LONG}
    request = httpx2.Request(
        "POST",
        server.url + EDITS,
        files=[("image", ("a.png", IMAGE)), *((k, (None, str(v))) for k, v in fields.items())],
    )
    return server.send(request)
