"""The status of a request, polled and streamed."""

import json
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer
from tests.server.contracts.provider_queue.client import PLAIN, cancel, native, status, submit


def test_status_of_a_waiting_request_has_its_position_and_null_logs(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    """Position 0 is next; the running request does not count."""
    waiting = [submit(server, PLAIN, body) for _ in range(2)]
    for position, answer in enumerate(waiting):
        assert answer["queue_position"] == position
        assert status(server, answer) == {
            "status": "IN_QUEUE",
            "request_id": answer["request_id"],
            "queue_position": position,
            "response_url": answer["response_url"],
            "status_url": answer["status_url"],
            "cancel_url": answer["cancel_url"],
            "logs": None,
        }

    cancel(server, waiting[0])
    assert status(server, waiting[1])["queue_position"] == 0
    cancel(server, waiting[1])


def test_status_of_a_running_request_has_empty_logs(
    server: LiveServer, running: dict[str, Any]
) -> None:
    assert status(server, running) == {
        "status": "IN_PROGRESS",
        "request_id": running["request_id"],
        "response_url": running["response_url"],
        "logs": [],
    }


def test_status_of_a_finished_request_has_its_seconds(
    server: LiveServer, done: dict[str, Any]
) -> None:
    found = status(server, done)
    seconds = native(server, done["request_id"])["seconds"]

    assert found == {
        "status": "COMPLETED",
        "request_id": done["request_id"],
        "response_url": done["response_url"],
        "logs": [],
        "metrics": {"inference_time": found["metrics"]["inference_time"]},
    }
    spent = seconds["encode"] + seconds["denoise"] + seconds["decode"]
    assert found["metrics"]["inference_time"] == pytest.approx(spent, abs=0.001)
    assert spent > 0


def test_status_of_a_failed_request_is_completed_with_an_error(
    server: LiveServer, failed: dict[str, Any]
) -> None:
    found = status(server, failed)
    assert found == {
        "status": "COMPLETED",
        "request_id": failed["request_id"],
        "response_url": failed["response_url"],
        "logs": [],
        "error": found["error"],
        "error_type": "REQUEST_INVALID",
    }
    assert "http://127.0.0.1:9/cat.png is refused" in found["error"]


@pytest.mark.parametrize("logs", ["logs=1", "logs=0", "logs=true", "logs=false"])
def test_status_accepts_the_logs_parameter_of_every_client(
    server: LiveServer, done: dict[str, Any], logs: str
) -> None:
    answer = server.http.get(f"{done['status_url']}?{logs}")
    assert answer.json() == status(server, done)
    assert answer.headers["x-fal-request-id"] == done["request_id"]


def test_stream_sends_each_status_once_until_completed(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    answer = submit(server, PLAIN, body)
    seen = []
    with server.http.stream("GET", f"{answer['status_url']}/stream") as response:
        for event in httpx2.EventSource(response):
            seen.append(json.loads(event.data))
            if len(seen) == 1:
                cancel(server, running)

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-fal-request-id"] == answer["request_id"]
    assert [state["status"] for state in seen] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert seen[0]["queue_position"] == 0
    assert seen[-1] == status(server, answer)


def test_stream_of_a_failed_request_ends_with_its_error(
    server: LiveServer, failed: dict[str, Any]
) -> None:
    text = server.http.get(f"{failed['status_url']}/stream").text
    assert json.loads(text.removeprefix("data:")) == status(server, failed)
