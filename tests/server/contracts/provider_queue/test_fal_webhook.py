"""Webhooks in the shape of fal."""

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from server.contracts.provider_queue.answers import outcome
from server.contracts.provider_queue.webhooks import webhook_body
from server.job import Job, JobStatus
from tests.live_server import LiveServer, until
from tests.server.contracts.provider_queue.client import FAL, a_job, job_count, post, submit


async def test_webhook_of_a_success_carries_the_result() -> None:
    service: Any = None
    job = a_job(JobStatus.SUCCEEDED)
    delivered = json.loads(await webhook_body(service, job, "https://edit.example.org"))
    _, expected = await outcome(service, job, "https://edit.example.org")

    assert delivered == {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "OK",
        "payload": expected.model_dump(mode="json"),
    }
    assert delivered["payload"]["images"][0]["url"] == (
        f"https://edit.example.org/outputs/{job.outputs[0].name}"
    )


@pytest.mark.parametrize(
    ("job", "message", "error_type"),
    [
        (a_job(JobStatus.FAILED, "timeout"), "It failed: timeout.", "INFERENCE_TIMEOUT"),
        (a_job(JobStatus.CANCELED), "The request was cancelled.", "CANCELED"),
    ],
)
async def test_webhook_of_a_failure_carries_the_reason(
    job: Job, message: str, error_type: str
) -> None:
    service: Any = None
    assert json.loads(await webhook_body(service, job, "https://edit.example.org")) == {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "ERROR",
        "payload": {"detail": message, "message": message, "error_type": error_type},
        "error": message,
    }


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Records each webhook, and answers 503 to the first."""

    calls: "list[tuple[dict[str, str], Any]]"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.calls.append((dict(self.headers), body))
        self.send_response(503 if len(self.calls) == 1 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], Any]]]]:
    calls: list[tuple[dict[str, str], Any]] = []
    handler = type("Handler", (_Receiver,), {"calls": calls})
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}/hook", calls
    host.shutdown()
    host.server_close()


def test_webhook_is_retried_until_accepted_and_carries_the_result(
    fetching_server: LiveServer,
    body: dict[str, Any],
    receiver: tuple[str, list[tuple[dict[str, str], Any]]],
) -> None:
    url, calls = receiver
    server = fetching_server

    answer = submit(server, f"{FAL}?fal_webhook={url}", body)
    until(lambda: len(calls) == 2)
    headers, delivered = calls[1]

    assert calls[0][1] == delivered
    assert headers["x-fal-webhook-request-id"] == answer["request_id"]
    assert delivered == {
        "request_id": answer["request_id"],
        "gateway_request_id": answer["request_id"],
        "status": "OK",
        "payload": server.http.get(answer["response_url"]).json(),
    }

    failed = submit(server, f"{FAL}?fal_webhook={url}", body | {"images": [f"{url}/none.png"]})
    until(lambda: len(calls) == 3)
    delivered = calls[2][1]
    assert (delivered["request_id"], delivered["status"]) == (failed["request_id"], "ERROR")
    assert delivered["payload"] == server.http.get(failed["response_url"]).json()
    assert delivered["error"] == delivered["payload"]["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/hook", "http://10.0.0.1/", "nonsense", ""])
def test_private_or_malformed_webhook_url_is_rejected_at_submit(
    server: LiveServer, body: dict[str, Any], url: str
) -> None:
    before = job_count(server)
    answer = post(server, f"{FAL}?fal_webhook={url}", body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "fal_webhook"]
    assert job_count(server) == before
