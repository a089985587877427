"""The result of a request, and the response to each kind of failure."""

from types import ModuleType
from typing import Any

import httpx2
import pytest

from pipelines.api import errors as engine_errors
from server import errors
from server.contracts.provider_queue.answers import outcome
from server.contracts.provider_queue.codes import ERROR_TYPES, STATUSES, ErrorType
from server.job import JobStatus
from tests.live_server import LiveServer
from tests.server.contracts.provider_queue.client import (
    MOUNTED,
    PLAIN,
    ROOT,
    a_job,
    cancel,
    opened,
    status,
    submit,
)


def test_result_has_the_fields_of_the_provider_and_of_fal(
    server: LiveServer, done: dict[str, Any], body: dict[str, Any]
) -> None:
    answer = server.http.get(done["response_url"])
    found = answer.json()
    [output], [image] = found["outputs"], found["images"]

    assert answer.status_code == 200
    assert answer.headers["x-fal-request-id"] == done["request_id"]
    assert found == {
        "request_id": done["request_id"],
        "outputs": [output],
        "metadata": {"prompt": body["prompt"], "prompt_extended": False},
        "images": [image],
        "seed": 1,
        "has_nsfw_concepts": [False],
        "prompt": body["prompt"],
        "timings": {"inference": status(server, done)["metrics"]["inference_time"]},
    }
    name = output["url"].rpartition("/")[2]
    file = {"content_type": "image/png", "file_name": name, "width": 512, "height": 512}
    assert output == {"type": "image", "url": output["url"], **file}
    data = httpx2.get(output["url"]).content
    assert image == {"url": output["url"], "file_size": len(data), **file}
    assert (opened(data).format, opened(data).size) == ("PNG", (512, 512))


def test_result_is_the_same_at_every_address(server: LiveServer, done: dict[str, Any]) -> None:
    expected = server.http.get(done["response_url"]).json()
    for path in (*MOUNTED, ROOT):
        for end in ("", "/response"):
            url = f"{server.url}{path}/requests/{done['request_id']}{end}"
            assert server.http.get(url).json() == expected


def test_result_returns_202_with_the_status_while_unfinished(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    waiting = submit(server, PLAIN, body)
    for answer, word in ((running, "IN_PROGRESS"), (waiting, "IN_QUEUE")):
        for url in (answer["response_url"], answer["response_url"].removesuffix("/response")):
            found = server.http.get(url)
            assert found.status_code == 202
            assert found.json()["status"] == word
            assert found.json() == status(server, answer)
    cancel(server, waiting)


def test_result_returns_422_for_a_rejected_input(
    server: LiveServer, failed: dict[str, Any]
) -> None:
    answer = server.http.get(failed["response_url"])
    message = status(server, failed)["error"]
    assert answer.status_code == 422
    assert answer.headers["x-fal-request-id"] == failed["request_id"]
    assert answer.json() == {
        "detail": message,
        "message": message,
        "error_type": "REQUEST_INVALID",
    }


OUTCOMES = [
    ("invalid_parameter", 422, "REQUEST_INVALID"),
    ("invalid_picture", 422, "REQUEST_INVALID"),
    ("payload_too_large", 422, "REQUEST_INVALID"),
    ("fetch_failed", 422, "REQUEST_INVALID"),
    ("lora_not_found", 422, "REQUEST_INVALID"),
    ("lora_invalid", 422, "REQUEST_INVALID"),
    ("lora_overflow", 422, "REQUEST_INVALID"),
    ("content_blocked", 422, "CONTENT_BLOCKED"),
    ("timeout", 500, "INFERENCE_TIMEOUT"),
    ("inference_failed", 500, "INFERENCE_FAILURE"),
    ("out_of_memory", 500, "INFERENCE_FAILURE"),
    ("non_finite_output", 500, "INFERENCE_FAILURE"),
    ("device_failed", 500, "INFERENCE_FAILURE"),
    ("worker_lost", 500, "INFERENCE_FAILURE"),
    ("server_lost", 500, "INTERNAL_SERVER_ERROR"),
    ("internal_error", 500, "INTERNAL_SERVER_ERROR"),
    ("a code of tomorrow", 500, "INTERNAL_SERVER_ERROR"),
]


@pytest.mark.parametrize(("code", "expected_status", "error_type"), OUTCOMES)
async def test_failed_job_returns_the_status_of_its_cause(
    code: str, expected_status: int, error_type: str
) -> None:
    service: Any = None
    found, answer = await outcome(service, a_job(JobStatus.FAILED, code), "http://a")
    message = f"It failed: {code}."
    assert found == expected_status
    assert answer.model_dump() == {
        "detail": message,
        "message": message,
        "error_type": error_type,
    }


@pytest.mark.parametrize("module", [errors, engine_errors])
def test_every_stored_error_code_has_an_error_type(module: ModuleType) -> None:
    about_requests = {
        "unauthorized",
        "forbidden",
        "idempotency_key_reused",
        "job_deleted",
        "preset_invalid",
        "preset_not_found",
        "queue_full",
        "rate_limited",
        "storage_full",
        "too_many_logins",
        "wrong_host",
        "wrong_origin",
    }
    codes = {kind.code for kind in vars(module).values() if hasattr(kind, "code")}
    assert codes
    assert codes - about_requests - set(ERROR_TYPES) == set()


def test_final_results_never_use_a_status_that_clients_retry() -> None:
    assert set(STATUSES) == set(ErrorType)
    assert set(STATUSES.values()).isdisjoint({408, 409, 429})
