"""Cancellation, and fal's synchronous run."""

import re
from typing import Any

import pytest

from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.provider_queue.client import (
    NOWHERE,
    PLAIN,
    ROOT,
    RUN,
    cancel,
    completed,
    native,
    post,
    status,
    submit,
)


def test_cancel_ends_a_waiting_request_at_once_and_a_running_one_soon(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    waiting = submit(server, PLAIN, body)

    for answer in (waiting, running):
        found = cancel(server, answer)
        assert found.status_code == 202
        assert found.json() == {"status": "CANCELLATION_REQUESTED"}
        assert found.headers["x-fal-request-id"] == answer["request_id"]
    assert status(server, waiting)["status"] == "COMPLETED"

    for answer in (waiting, running):
        ended = completed(server, answer)
        assert (ended["error"], ended["error_type"]) == ("The request was cancelled.", "CANCELED")
        gone = server.http.get(answer["response_url"])
        assert gone.status_code == 410
        assert gone.json() == {
            "detail": "The request was cancelled.",
            "message": "The request was cancelled.",
            "error_type": "CANCELED",
        }
        assert cancel(server, answer).json() == {"status": "ALREADY_COMPLETED"}


def test_cancel_returns_400_for_a_completed_request(
    server: LiveServer, done: dict[str, Any], failed: dict[str, Any]
) -> None:
    for answer in (done, failed):
        found = cancel(server, answer)
        assert found.status_code == 400
        assert found.json() == {"status": "ALREADY_COMPLETED"}


@pytest.mark.parametrize("request_id", ["0" * 32, "%0d%0aX-Evil:%201", "%E2%82%AC"])
def test_cancel_returns_404_for_an_unknown_request(server: LiveServer, request_id: str) -> None:
    found = server.http.put(f"{server.url}{PLAIN}/requests/{request_id}/cancel")
    assert found.status_code == 404
    assert found.json() == {"status": "NOT_FOUND"}
    assert re.fullmatch(r"[0-9a-f]{32}", found.headers["x-fal-request-id"])


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}-lora", RUN, f"{RUN}-lora"])
def test_run_returns_the_result(server: LiveServer, body: dict[str, Any], path: str) -> None:
    answer = post(server, path, body)
    found = answer.json()
    assert answer.status_code == 200
    assert found["images"][0]["width"] == 512
    assert answer.headers["x-fal-request-id"] == found["request_id"]
    url = f"{server.url}{ROOT}/requests/{found['request_id']}"
    assert server.http.get(url).json() == found


def test_run_returns_the_error_of_its_result_when_it_fails(
    server: LiveServer, body: dict[str, Any]
) -> None:
    answer = post(server, RUN, body | NOWHERE)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "REQUEST_INVALID"


@pytest.mark.parametrize("path", [ROOT, RUN])
def test_disconnect_cancels_the_job_during_a_run(
    server: LiveServer, body: dict[str, Any], path: str
) -> None:
    request_id = server.post_and_hang_up(path, body | LONG)

    def ended() -> str | None:
        state: str = native(server, request_id)["status"]
        return state if state not in ("queued", "running") else None

    assert native(server, request_id)["model"] == "fal-ai/qwen-image-edit-plus"
    assert until(ended) == "canceled"
