"""Responses and errors."""

import contextlib
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from server.contracts.openai.answers import images_response, usage
from server.contracts.openai.problems import problem_of_job
from server.contracts.openai.schemas import EditRequest
from server.job import JobError, JobStatus, Output
from server.jobs.service import EditService
from tests.live_server import LiveServer, live_server, until
from tests.make_job import make_job
from tests.pipelines.engine.test_safety import build_classifier
from tests.server.contracts.openai.client import (
    IMAGE,
    edit,
    error_of,
    events,
    job,
    jobs,
    post,
    submit_and_leave,
    total,
)


def test_response_has_the_fields_of_the_contract(server: LiveServer) -> None:
    """LibreChat reads only `data[0].b64_json`, the default."""
    answer = edit(server, size="272x256", n=2)
    found = answer.json()

    assert list(found) == ["created", "data", "output_format", "size", "usage"]
    assert isinstance(found["created"], int)
    assert [list(item) for item in found["data"]] == [["b64_json"], ["b64_json"]]
    assert found["output_format"] == "png"
    assert found["usage"] == {
        "input_tokens": 0,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 2 * 17 * 16,
        "total_tokens": 2 * 17 * 16,
    }
    assert job(server, answer.headers["x-request-id"])["contract"] == "openai"


def test_response_urls_follow_the_proxy(server: LiveServer) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    fields = (("prompt", "a"), ("image", IMAGE), ("response_format", "url"))
    answer = post(server, *fields, **headers)
    assert answer.json()["data"][0]["url"].startswith("https://edit.example.org/outputs/")


def test_usage_counts_the_tokens_of_the_model() -> None:
    """Each side is rounded up to the 16 pixels of a token."""
    outputs = tuple(Output("a.png", "image/png", 1, *size, 1) for size in ((257, 256), (16, 16)))
    assert usage(outputs).output_tokens == 17 * 16 + 1


@pytest.mark.parametrize("is_extended", [True, False])
async def test_revised_prompt_is_returned_when_the_model_rewrote_it(is_extended: bool) -> None:
    ended = make_job(
        contract="openai",
        status=JobStatus.SUCCEEDED,
        outputs=(Output("a.png", "image/png", 1, 256, 256, 1),),
        used_prompt="a red ball",
        is_prompt_extended=is_extended,
    )
    # A response with URLs reads no files.
    body = await images_response(cast(EditService, None), ended, "http://host")
    expected = {"url": "http://host/outputs/a.png"}
    if is_extended:
        expected["revised_prompt"] = "a red ball"
    assert json.loads(body)["data"] == [expected]


@pytest.mark.parametrize("text", ["true", "false"])
def test_prompt_extend_lets_the_model_rewrite_the_prompt(text: str) -> None:
    """An extension of this server, which OpenAI's clients send as an extra field."""
    request = EditRequest.model_validate({"prompt": "a", "prompt_extend": text})
    assert request.params(shows_previews=True).extend_prompt is (text == "true")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_parameter", 400),
        ("fetch_failed", 400),
        ("lora_not_found", 400),
        ("content_blocked", 400),
        ("inference_failed", 500),
        ("out_of_memory", 500),
        ("worker_lost", 500),
        ("internal_error", 500),
    ],
)
def test_failed_job_returns_400_for_bad_input_and_500_otherwise(code: str, status: int) -> None:
    error = JobError(code, "images/1: broken")
    failed = make_job(contract="openai", status=JobStatus.FAILED, error=error)
    problem = problem_of_job(failed)
    assert (problem.status, problem.field) == (status, "images/1")


@pytest.fixture(scope="module")
def blocking_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with a real worker whose safety checker flags every image."""
    folder = tmp_path_factory.mktemp("blocking")
    checker = build_classifier(folder / "checker", ["nsfw", "porn"])
    settings = {"SAFETY_CHECKER": checker, "SAFETY_MODE": "block"}
    with live_server(tiny_model, folder, worker="real", **settings) as running:
        yield running


@pytest.mark.parametrize("stream", ["false", "true"])
def test_unsafe_output_is_moderation_blocked_and_not_returned(
    blocking_server: LiveServer, stream: str
) -> None:
    """No preview is sent either: the checker sees only the output."""
    answer = edit(blocking_server, stream=stream, partial_images=3, num_inference_steps=12)
    if stream == "true":
        [(name, data)] = events(answer)
        error = data["error"]
    else:
        name, error = "error", error_of(answer)
        assert answer.status_code == 400
    assert name == "error"
    assert (error["code"], error["type"]) == ("moderation_blocked", "invalid_request_error")


def test_full_queue_returns_429_with_retry_after(start_server: Callable[..., LiveServer]) -> None:
    """This is the only error that a retry can resolve."""
    server = start_server(MAX_WAITING_JOBS=1)
    with contextlib.ExitStack() as stack:
        for place in range(2):
            stack.callback(submit_and_leave(server).close)
            until(lambda place=place: total(server) == place + 1)  # type: ignore[misc]
            until(lambda: any(found["status"] == "running" for found in jobs(server)))
        answer = edit(server)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
    assert error_of(answer)["type"] == "server_error"


def test_body_over_the_limit_returns_413_in_this_shape(server: LiveServer) -> None:
    answer = edit(server, image=b"x" * (91 * 2**20))
    assert answer.status_code == 413
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/variations", "/v1/models/"])
def test_unknown_path_responds_in_this_shape(server: LiveServer, path: str) -> None:
    answer = post(server, ("prompt", "a"), path=path)
    assert answer.status_code in (404, 405)
    assert error_of(answer)["type"] == "invalid_request_error"


def test_open_request_ends_when_the_server_stops(start_server: Callable[..., LiveServer]) -> None:
    """The job is canceled: the client retries it, and could not fetch its outputs."""
    server = start_server()
    with submit_and_leave(server) as connection:
        until(lambda: total(server) == 1)
        server.stop(signal.SIGINT)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"x-should-retry" not in answer
    server.start(wait_ready=False)
    assert [found["status"] for found in jobs(server)] == ["canceled"]
