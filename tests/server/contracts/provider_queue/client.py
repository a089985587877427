"""Requests to the paths of the provider queue and of fal on a live server."""

import io
from typing import Any

import httpx2
import PIL.Image
import PIL.ImageChops

from server.contracts.provider_queue.schemas import EditRequest
from server.job import Job, JobError, JobStatus, Output
from tests.live_server import LiveServer, until
from tests.make_job import make_job

PLAIN = "/v1/queue/qwen_image_edit_plus"


FAL = "/v1/queue/fal-ai/qwen-image-edit-plus"


ROOT = "/fal-ai/qwen-image-edit-plus"


RUN = "/run/fal-ai/qwen-image-edit-plus"


MOUNTED = [
    f"{mount}/{name}{suffix}"
    for mount in ("/v1/queue", "/model/v1/queue")
    for name, suffix in (
        ("qwen_image_edit_plus", ""),
        ("fal-ai/qwen-image-edit-plus", ""),
        ("fal-ai/qwen-image-edit-plus", "-lora"),
    )
]


SUBMIT = {"x-fal-queue-priority": "normal"}


NOWHERE = {"images": ["http://127.0.0.1:9/cat.png"]}


def post(
    server: LiveServer, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> httpx2.Response:
    return server.http.post(server.url + path, json=body, headers=headers or {})


def submit(server: LiveServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = post(server, path, body, SUBMIT)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def status(server: LiveServer, answer: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(answer["status_url"]).json()
    return found


def completed(server: LiveServer, answer: dict[str, Any]) -> dict[str, Any]:
    def ask() -> dict[str, Any] | None:
        found = status(server, answer)
        return found if found["status"] == "COMPLETED" else None

    return until(ask)


def result(server: LiveServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = submit(server, path, body)
    completed(server, answer)
    found = server.http.get(answer["response_url"])
    assert found.status_code == 200, found.text
    content: dict[str, Any] = found.json()
    return content


def cancel(server: LiveServer, answer: dict[str, Any]) -> httpx2.Response:
    return server.http.put(answer["cancel_url"])


def native(server: LiveServer, request_id: str) -> dict[str, Any]:
    """Return the job in the shape of the native contract."""
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{request_id}").json()
    return found


def job_count(server: LiveServer) -> int:
    total: int = server.http.get(f"{server.url}/v1/edits?limit=1").json()["total"]
    return total


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


def a_job(state: JobStatus, code: str | None = None) -> Job:
    params = EditRequest(prompt="a", images=["x"], seed=5).params()
    error = JobError(code, f"It failed: {code}.") if code else None
    output = Output("0" * 32 + ".png", "image/png", 9, 512, 512, 5)
    result = {"error": error, "outputs": (output,) if state is JobStatus.SUCCEEDED else ()}
    return make_job(
        contract="provider_queue", params=params, status=state, **result if state.is_final else {}
    )
