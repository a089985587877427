"""The provider's queue and fal's over a live server: the rules one by one, and every error shape.

fal's published client has `test_fal_client.py` to itself.
"""

import base64
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx2
import PIL.Image
import PIL.ImageChops
import pytest

from pipelines.api import errors as engine_errors
from server import errors
from server.contracts.provider_queue.answers import outcome
from server.contracts.provider_queue.codes import ERROR_TYPES, STATUSES, ErrorType, render
from server.contracts.provider_queue.schemas import EditRequest, FalEditRequest
from server.contracts.provider_queue.webhooks import webhook_body
from server.job import Job, JobError, JobStatus, Output
from server.web.problem import Problem
from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
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
# on fal's endpoints: long enough to be looked at while it runs
LONG = {"num_inference_steps": 100, "size": "1024*1024"}
NOWHERE = {"images": ["http://127.0.0.1:9/cat.png"]}


@pytest.fixture(scope="module")
def body(image_base64: str) -> dict[str, Any]:
    return {"prompt": "make it blue", "images": [image_base64], "seed": 1, "size": "512*512"}


@pytest.fixture(scope="module")
def done(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    """A finished request's submit answer."""
    answer = submit(server, PLAIN, body)
    completed(server, answer)
    return answer


@pytest.fixture(scope="module")
def failed(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = submit(server, PLAIN, body | NOWHERE)
    completed(server, answer)
    return answer


@pytest.fixture
def running(server: LiveServer, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A request that runs, and keeps others waiting."""
    answer = submit(server, FAL, body | LONG)
    until(lambda: status(server, answer)["status"] == "IN_PROGRESS")
    yield answer
    cancel(server, answer)
    completed(server, answer)


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
    """The job as the native contract shows it."""
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{request_id}").json()
    return found


def job_count(server: LiveServer) -> int:
    total: int = server.http.get(f"{server.url}/v1/edits?limit=1").json()["total"]
    return total


def opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


# ── submit ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [*MOUNTED, ROOT, f"{ROOT}-lora"])
def test_submit_answers_200_with_absolute_urls_under_the_address_it_came_to(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any], path: str
) -> None:
    answer = post(server, path, body, SUBMIT)
    found = answer.json()
    url = f"{server.url}{path}/requests/{found['request_id']}"

    assert answer.status_code == 200
    assert list(found.items()) == [
        ("request_id", found["request_id"]),
        ("response_url", f"{url}/response"),
        ("status_url", f"{url}/status"),
        ("cancel_url", f"{url}/cancel"),
        ("queue_position", 0),
        ("status", "IN_QUEUE"),
    ]
    assert re.fullmatch(r"[0-9a-f]{32}", found["request_id"])
    assert answer.headers["x-fal-request-id"] == found["request_id"]
    assert status(server, found)["status"] == "IN_QUEUE"
    assert cancel(server, found).status_code == 202


def test_urls_follow_the_proxy_in_front(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    found = post(server, PLAIN, body, proxy).json()
    assert found["status_url"].startswith(f"https://edit.example.org{PLAIN}/requests/")
    server.http.put(f"{server.url}{PLAIN}/requests/{found['request_id']}/cancel")


def test_job_keeps_the_endpoint_it_was_submitted_to(
    server: LiveServer, running: dict[str, Any]
) -> None:
    job = native(server, running["request_id"])
    assert (job["contract"], job["model"]) == ("provider_queue", "fal-ai/qwen-image-edit-plus")


# ── status ────────────────────────────────────────────────────────────────────────────────────


def test_status_of_a_waiting_request_has_its_position_and_null_logs(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    """The running request does not count; 0 is next."""
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
def test_status_takes_the_logs_parameter_of_every_client(
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


# ── result ────────────────────────────────────────────────────────────────────────────────────


def test_result_has_the_providers_body_and_fals(
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


def test_result_of_an_unfinished_request_is_202_with_its_status(
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


def test_result_of_a_refused_input_is_422(server: LiveServer, failed: dict[str, Any]) -> None:
    answer = server.http.get(failed["response_url"])
    sentence = status(server, failed)["error"]
    assert answer.status_code == 422
    assert answer.headers["x-fal-request-id"] == failed["request_id"]
    assert answer.json() == {
        "detail": sentence,
        "message": sentence,
        "error_type": "REQUEST_INVALID",
    }


def a_job(state: JobStatus, code: str | None = None) -> Job:
    params = EditRequest(prompt="a", images=["x"], seed=5).params()
    error = JobError(code, f"It failed: {code}.") if code else None
    output = Output("0" * 32 + ".png", "image/png", 9, 512, 512, 5)
    result = {"error": error, "outputs": (output,) if state is JobStatus.SUCCEEDED else ()}
    return make_job(
        contract="provider_queue", params=params, status=state, **result if state.is_final else {}
    )


OUTCOMES = [
    ("invalid_parameter", 422, "REQUEST_INVALID"),
    ("invalid_picture", 422, "REQUEST_INVALID"),
    ("payload_too_large", 422, "REQUEST_INVALID"),
    ("fetch_failed", 422, "REQUEST_INVALID"),
    ("lora_not_found", 422, "REQUEST_INVALID"),
    ("lora_invalid", 422, "REQUEST_INVALID"),
    ("content_blocked", 422, "CONTENT_BLOCKED"),
    ("timeout", 500, "INFERENCE_TIMEOUT"),
    ("inference_failed", 500, "INFERENCE_FAILURE"),
    ("out_of_memory", 500, "INFERENCE_FAILURE"),
    ("worker_lost", 500, "INFERENCE_FAILURE"),
    ("server_lost", 500, "INTERNAL_SERVER_ERROR"),
    ("internal_error", 500, "INTERNAL_SERVER_ERROR"),
    ("a code of tomorrow", 500, "INTERNAL_SERVER_ERROR"),
]


@pytest.mark.parametrize(("code", "expected_status", "error_type"), OUTCOMES)
async def test_failed_job_answers_by_what_failed_it(
    code: str, expected_status: int, error_type: str
) -> None:
    service: Any = None
    found, answer = await outcome(service, a_job(JobStatus.FAILED, code), "http://a")
    sentence = f"It failed: {code}."
    assert found == expected_status
    assert answer.model_dump() == {
        "detail": sentence,
        "message": sentence,
        "error_type": error_type,
    }


@pytest.mark.parametrize("module", [errors, engine_errors])
def test_every_code_that_a_job_can_keep_has_its_error_type(module: ModuleType) -> None:
    about_requests = {"unauthorized", "queue_full", "wrong_host"}
    codes = {kind.code for kind in vars(module).values() if hasattr(kind, "code")}
    assert codes
    assert codes - about_requests - set(ERROR_TYPES) == set()


def test_nothing_final_answers_with_a_status_that_clients_ask_again() -> None:
    assert set(STATUSES) == set(ErrorType)
    assert set(STATUSES.values()).isdisjoint({408, 409, 429})


# ── cancel ────────────────────────────────────────────────────────────────────────────────────


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


def test_cancel_of_a_completed_request_is_400(
    server: LiveServer, done: dict[str, Any], failed: dict[str, Any]
) -> None:
    for answer in (done, failed):
        found = cancel(server, answer)
        assert found.status_code == 400
        assert found.json() == {"status": "ALREADY_COMPLETED"}


@pytest.mark.parametrize("request_id", ["0" * 32, "%0d%0aX-Evil:%201", "%E2%82%AC"])
def test_cancel_of_an_unknown_request_is_404(server: LiveServer, request_id: str) -> None:
    found = server.http.put(f"{server.url}{PLAIN}/requests/{request_id}/cancel")
    assert found.status_code == 404
    assert found.json() == {"status": "NOT_FOUND"}
    assert re.fullmatch(r"[0-9a-f]{32}", found.headers["x-fal-request-id"])


# ── fal's synchronous run ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [ROOT, f"{ROOT}-lora", RUN, f"{RUN}-lora"])
def test_run_answers_with_the_result(server: LiveServer, body: dict[str, Any], path: str) -> None:
    answer = post(server, path, body)
    found = answer.json()
    assert answer.status_code == 200
    assert found["images"][0]["width"] == 512
    assert answer.headers["x-fal-request-id"] == found["request_id"]
    url = f"{server.url}{ROOT}/requests/{found['request_id']}"
    assert server.http.get(url).json() == found


def test_run_that_fails_answers_as_its_result_would(
    server: LiveServer, body: dict[str, Any]
) -> None:
    answer = post(server, RUN, body | NOWHERE)
    assert answer.status_code == 422
    assert answer.json()["error_type"] == "REQUEST_INVALID"


@pytest.mark.parametrize("path", [ROOT, RUN])
def test_client_that_hangs_up_during_a_run_cancels_its_job(
    server: LiveServer, body: dict[str, Any], path: str
) -> None:
    request_id = server.post_and_hang_up(path, body | LONG)

    def ended() -> str | None:
        state: str = native(server, request_id)["status"]
        return state if state not in ("queued", "running") else None

    assert native(server, request_id)["model"] == "fal-ai/qwen-image-edit-plus"
    assert until(ended) == "canceled"


# ── the provider's parameters ─────────────────────────────────────────────────────────────────


def plain(**fields: Any) -> EditRequest:
    return EditRequest.model_validate({"prompt": "a", "images": ["x"]} | fields)


def fal(**fields: Any) -> FalEditRequest:
    return FalEditRequest.model_validate({"prompt": "a", "image_urls": ["x"]} | fields)


def test_absent_fields_have_the_providers_defaults() -> None:
    params = plain().params()
    assert params.extend_prompt
    assert params.max_prompt_tokens == 800
    assert (params.bounds.min_side, params.bounds.max_side) == (512, 2048)
    assert (params.size, params.num_outputs, params.negative_prompt) == (None, 1, None)
    assert (params.num_inference_steps, params.true_cfg_scale, params.loras) == (None, None, ())
    assert plain().watermark is False


def test_random_seed_is_drawn_when_absent_and_every_given_one_kept() -> None:
    assert len({plain().params().seed for _ in range(5)}) > 1
    for seed in (0, 2147483647):
        assert plain(seed=seed).params().seed == seed


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1024*768", (1024, 768)),
        ("512*2048", (512, 2048)),
        ("519*520", (512, 528)),
        ("1000*1001", (1008, 1008)),
        ("2047*2041", (2048, 2048)),
        ("600x700", (608, 704)),
    ],
)
def test_size_is_adjusted_to_the_nearest_multiple_of_16(
    size: str, expected: tuple[int, int]
) -> None:
    assert plain(size=size).params().size == expected
    width, height = (int(side) for side in re.split(r"\D", size))
    assert fal(image_size={"width": width, "height": height}).params().size == expected


def test_long_prompts_are_cut_not_refused() -> None:
    params = plain(prompt="x" * 20_000, negative_prompt="y" * 501).params()
    assert len(params.prompt) == 10_000
    assert params.negative_prompt == "y" * 500
    assert plain(negative_prompt="y" * 500).params().negative_prompt == "y" * 500


def test_null_and_empty_fields_count_as_absent_and_unknown_ones_are_tolerated() -> None:
    blank = dict.fromkeys(("size", "seed", "n", "negative_prompt", "watermark"), None)
    assert plain(**blank, foo=[1], model="x").params().num_outputs == 1
    assert plain(negative_prompt="", size="").params().size is None


def test_n_outputs_are_n_entries_in_order(server: LiveServer, body: dict[str, Any]) -> None:
    found = result(server, PLAIN, body | {"n": 2, "size": "520*700"})
    assert [image["width"] for image in found["outputs"]] == [528, 528]
    assert [image["height"] for image in found["images"]] == [704, 704]
    assert found["has_nsfw_concepts"] == [False, False]
    assert [image["url"] for image in found["images"]] == [
        output["url"] for output in found["outputs"]
    ]
    seeds = [output["seed"] for output in native(server, found["request_id"])["outputs"]]
    assert seeds == [1, 2]


def test_without_a_size_the_last_images_aspect_counts(
    server: LiveServer, body: dict[str, Any], image_base64: str
) -> None:
    tall = as_base64(encoded(gradient(width=64, height=128)))
    found = result(server, PLAIN, body | {"images": [image_base64, tall], "size": None})
    [output] = found["outputs"]
    assert (output["width"], output["height"]) == (512, 1024)


def test_watermark_is_written_in_the_lower_right_corner(
    server: LiveServer, body: dict[str, Any], done: dict[str, Any]
) -> None:
    def pixels(found: dict[str, Any]) -> PIL.Image.Image:
        return opened(httpx2.get(found["outputs"][0]["url"]).content)

    marked = result(server, PLAIN, body | {"watermark": True})
    without = server.http.get(done["response_url"]).json()
    changed = PIL.ImageChops.difference(pixels(marked), pixels(without)).getbbox()

    assert changed is not None
    assert changed[0] > 256
    assert changed[1] > 400


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_listed_input_format_is_taken(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any], image_format: str
) -> None:
    data = as_base64(encoded(gradient(), image_format))
    mime = f"data:image/{image_format.lower()};base64,"
    for image in (data, mime + data):
        answer = submit(server, PLAIN, body | {"images": [image]})
        assert cancel(server, answer).status_code == 202


# ── fal's parameters ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("square_hd", (1024, 1024)),
        ("square", (512, 512)),
        ("portrait_4_3", (768, 1024)),
        ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)),
        ("landscape_16_9", (1024, 576)),
    ],
)
def test_fals_named_sizes_are_fals(name: str, expected: tuple[int, int]) -> None:
    assert fal(image_size=name).params().size == expected


def test_fals_defaults_leave_prompt_steps_and_cfg_to_the_model() -> None:
    params = fal().params()
    assert not params.extend_prompt
    assert (params.num_inference_steps, params.true_cfg_scale, params.size) == (None, None, None)
    assert fal().output_format == "png"
    assert fal(prompt_extend=True).params().extend_prompt


def test_fals_names_win_over_the_providers() -> None:
    params = fal(num_images=3, n=2, image_size="square", size="1024*1024").params()
    assert (params.num_outputs, params.size) == (3, (512, 512))
    assert fal(n=2, size="1024*1024").params().num_outputs == 2
    assert fal(images=["y"]).references() == ["x"]


def test_fals_engine_parameters_reach_the_engine() -> None:
    loras = [{"path": "a", "scale": 0.5}, {"path": "b"}]
    params = fal(
        num_inference_steps=12, guidance_scale=3.5, negative_prompt="y" * 600, loras=loras
    ).params()
    assert (params.num_inference_steps, params.true_cfg_scale) == (12, 3.5)
    assert params.negative_prompt == "y" * 600
    assert [(lora.path, lora.scale) for lora in params.loras] == [("a", 0.5), ("b", 1.0)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_urls": ["a", "b"]}, ["a", "b"]),
        ({"image_urls": None, "image_url": "a"}, ["a"]),
        ({"image_urls": ["a"], "image_url": "b"}, ["a"]),
        ({"image_urls": None, "images": ["a"]}, ["a"]),
    ],
)
def test_images_come_under_each_of_their_names(fields: dict[str, Any], expected: list[str]) -> None:
    assert fal(**fields).references() == expected


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_sync_mode_answers_with_data_uris_in_the_format_asked_for(
    server: LiveServer, body: dict[str, Any], image_base64: str, image_format: str
) -> None:
    found = post(
        server,
        RUN,
        {
            **{"prompt": "a", "image_url": f"data:image/png;base64,{image_base64}"},
            **{"image_size": "square", "num_images": 1, "sync_mode": True},
            **{"output_format": image_format, "enable_safety_checker": False},
            **{"acceleration": "regular", "guidance_scale": 2, "num_inference_steps": 2},
        },
    ).json()
    [image] = found["images"]
    head, _, data = image["url"].partition(",")
    decoded = base64.b64decode(data, validate=True)

    assert head == f"data:image/{image_format};base64"
    assert image["content_type"] == f"image/{image_format}"
    assert (opened(decoded).format, opened(decoded).size) == (image_format.upper(), (512, 512))
    assert len(decoded) == image["file_size"]
    assert found["outputs"][0]["url"] == image["url"]
    assert native(server, found["request_id"])["steps"] == 2


@pytest.mark.parametrize("path", [FAL, f"{FAL}-lora", PLAIN])
def test_loras_are_applied_on_every_endpoint(
    server: LiveServer, body: dict[str, Any], done: dict[str, Any], path: str
) -> None:
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    write_lora(
        server.weights_dir / "loras" / "queue.safetensors", random_pairs(linears, list(linears))
    )

    def pixels(found: dict[str, Any]) -> bytes:
        return opened(httpx2.get(found["outputs"][0]["url"]).content).tobytes()

    changed = result(server, path, body | {"loras": [{"path": "queue", "scale": 2}]})
    assert pixels(changed) != pixels(server.http.get(done["response_url"]).json())


# ── what bad input gets ───────────────────────────────────────────────────────────────────────

BAD_BODIES: list[tuple[str, dict[str, Any], list[str | int], str, str]] = [
    (PLAIN, {"prompt": ""}, ["prompt"], "value_error", "at least 1 character"),
    (PLAIN, {"prompt": "  "}, ["prompt"], "value_error", "must not be empty"),
    (PLAIN, {"images": []}, ["images"], "value_error", "1 to 3 entries, got 0"),
    (PLAIN, {"images": None}, ["images"], "value_error", "1 to 3 entries, got 0"),
    (PLAIN, {"images": ["x"] * 4}, ["images"], "value_error", "at most 3 items"),
    (PLAIN, {"images": "x"}, ["images"], "value_error", "valid list, got 'x'"),
    (PLAIN, {"images": ["?"]}, ["images", 0], "image_load_error", "URL, a data URI or base64"),
    (PLAIN, {"images": ["aGVsbG8="]}, ["images", 0], "image_load_error", "not an image"),
    (PLAIN, {"size": "511*512"}, ["size"], "value_error", "512–2048 pixels, got '511*512'"),
    (PLAIN, {"size": "2049*512"}, ["size"], "value_error", "512–2048 pixels"),
    (PLAIN, {"size": "big"}, ["size"], "value_error", "width*height in pixels"),
    (PLAIN, {"n": 0}, ["n"], "value_error", "greater than or equal to 1, got 0"),
    (PLAIN, {"n": 7}, ["n"], "value_error", "less than or equal to 6, got 7"),
    (PLAIN, {"seed": -1}, ["seed"], "value_error", "greater than or equal to 0, got -1"),
    (PLAIN, {"seed": 2147483648}, ["seed"], "value_error", "equal to 2147483647"),
    (PLAIN, {"watermark": "much"}, ["watermark"], "value_error", "valid boolean"),
    (FAL, {"images": None, "image_urls": ["?"]}, ["image_urls", 0], "image_load_error", "URL"),
    (FAL, {"images": None}, ["image_urls"], "value_error", "1 to 3 entries, got 0"),
    (FAL, {"image_urls": ["x"] * 4}, ["image_urls"], "value_error", "at most 3 items"),
    (FAL, {"image_size": "large"}, ["image_size"], "value_error", "square_hd, square, portrait"),
    (FAL, {"image_size": {"width": 511, "height": 512}}, ["image_size", "width"],
     "value_error", "equal to 512, got 511"),
    (FAL, {"image_size": {"width": 512}}, ["image_size", "height"], "missing", "is required"),
    (FAL, {"num_images": 5}, ["num_images"], "value_error", "equal to 4, got 5"),
    (FAL, {"num_images": 0}, ["num_images"], "value_error", "equal to 1, got 0"),
    (FAL, {"num_inference_steps": 1}, ["num_inference_steps"], "value_error", "equal to 2"),
    (FAL, {"num_inference_steps": 101}, ["num_inference_steps"], "value_error", "equal to 100"),
    (FAL, {"guidance_scale": -1}, ["guidance_scale"], "value_error", "equal to 0"),
    (FAL, {"guidance_scale": 20.1}, ["guidance_scale"], "value_error", "equal to 20"),
    (FAL, {"output_format": "gif"}, ["output_format"], "value_error", "got 'gif'"),
    (FAL, {"acceleration": "max"}, ["acceleration"], "value_error", "'none', 'regular' or"),
    (FAL, {"loras": [{"path": "a"}] * 4}, ["loras"], "value_error", "at most 3 items"),
    (FAL, {"loras": [{"path": "a", "scale": 4.1}]}, ["loras", 0, "scale"], "value_error", "4.1"),
    (FAL, {"loras": [{"scale": 1}]}, ["loras", 0, "path"], "missing", "is required"),
    (FAL, {"loras": [{"path": "nothing"}]}, ["loras", 0, "path"], "value_error", "no LoRA"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change", "place", "kind", "sentence"), BAD_BODIES)
def test_bad_value_is_422_that_names_its_place_and_queues_nothing(
    server: LiveServer,
    body: dict[str, Any],
    path: str,
    change: dict[str, Any],
    place: list[str | int],
    kind: str,
    sentence: str,
) -> None:
    before = job_count(server)

    answer = post(server, path, body | change, SUBMIT)
    found = answer.json()

    assert answer.status_code == 422, answer.text
    assert set(found) == {"detail", "message"}
    [detail] = found["detail"]
    assert set(detail) == {"loc", "msg", "type"}
    assert (detail["loc"], detail["type"]) == (["body", *place], kind)
    assert sentence in detail["msg"]
    assert detail["msg"] in found["message"]
    assert str(place[0]) in found["message"]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-fal-request-id"])
    assert job_count(server) == before


def test_missing_prompt_is_named_as_missing(server: LiveServer, body: dict[str, Any]) -> None:
    without = {key: value for key, value in body.items() if key != "prompt"}
    assert post(server, PLAIN, without).json() == {
        "detail": [{"loc": ["body", "prompt"], "msg": "prompt is required", "type": "missing"}],
        "message": "prompt is required",
    }


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'"x"', b"", b"\xff"])
def test_body_that_is_no_object_is_refused_in_this_shape(
    server: LiveServer, content: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + PLAIN, content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"detail", "message"}


def test_image_over_ten_megabytes_is_refused(server: LiveServer, body: dict[str, Any]) -> None:
    large = as_base64(bytes(10_000_001))
    answer = post(server, PLAIN, body | {"images": [large]})
    assert answer.status_code == 422
    [detail] = answer.json()["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "images", 0], "file_too_large")


@pytest.mark.parametrize(
    ("path", "app"),
    [
        ("/v1/queue/nothing", "nothing"),
        ("/v1/queue/fal-ai/nothing", "fal-ai/nothing"),
        ("/model/v1/queue/nothing", "nothing"),
        ("/fal-ai/nothing", "fal-ai/nothing"),
        ("/run/fal-ai/nothing", "fal-ai/nothing"),
        ("/v1/queue/nothing/requests/1/status", "nothing"),
        ("/v1/queue/fal-ai/qwen-image-edit-plus/stream", "fal-ai/qwen-image-edit-plus/stream"),
    ],
)
def test_unknown_app_is_404(server: LiveServer, path: str, app: str) -> None:
    for answer in (post(server, path, {"prompt": "a"}), server.http.get(server.url + path)):
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"App not found: {app}"
        assert answer.json()["message"] == answer.json()["detail"]
        assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("end", ["", "/status", "/status/stream", "/response"])
def test_unknown_request_is_404(server: LiveServer, end: str) -> None:
    answer = server.http.get(f"{server.url}{PLAIN}/requests/{'0' * 32}{end}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("There is no job")
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_method_is_405(server: LiveServer, method: str) -> None:
    answer = server.http.request(method, server.url + PLAIN)
    assert answer.status_code == 405
    assert answer.headers["x-fal-request-id"]


def test_other_routes_of_the_app_are_not_swallowed(server: LiveServer) -> None:
    assert server.http.get(f"{server.url}/v1/capabilities").status_code == 200
    assert "error" in server.http.get(f"{server.url}/owner/app").json()


@pytest.mark.parametrize("path", [PLAIN, RUN, ROOT])
def test_webhook_is_refused_where_nobody_would_send_it(
    server: LiveServer, body: dict[str, Any], path: str
) -> None:
    answer = post(server, f"{path}?fal_webhook=https://example.org/hook", body)
    assert answer.status_code == 400
    assert answer.json() == {
        "detail": "webhook not supported",
        "message": "webhook not supported",
    }


@pytest.fixture(scope="module")
def strict_server(
    tiny_model: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """Wants a key, and lets one job wait."""
    folder = tmp_path_factory.mktemp("strict")
    server = LiveServer(tiny_model, folder, API_KEYS="right", MAX_WAITING_JOBS=1)
    yield server.start()
    server.close()


@pytest.mark.parametrize("path", [*MOUNTED, ROOT, RUN, "/v1/queue/nothing"])
def test_missing_key_is_401_in_the_gateways_shape(
    strict_server: LiveServer, body: dict[str, Any], path: str
) -> None:
    for headers in ({}, {"Authorization": "Key wrong"}, {"Authorization": "Bearer wrong"}):
        answer = post(strict_server, path, body, headers)
        assert answer.status_code == 401
        assert answer.json() == {
            "error": {
                "code": "UNAUTHORIZED",
                "message": "Authorization Bearer or Key token is required",
            },
            "request_id": answer.headers["x-fal-request-id"],
        }


def test_both_schemes_pass_and_a_full_queue_is_429(
    strict_server: LiveServer, body: dict[str, Any]
) -> None:
    answers = []
    for scheme in ("Key", "Bearer", "Key"):
        headers = SUBMIT | {"Authorization": f"{scheme} right"}
        answers.append(post(strict_server, FAL, body | LONG, headers))
        first = answers[0].json()["status_url"]
        until(
            lambda url=first, headers=headers: (
                strict_server.http.get(url, headers=headers).json()["status"] == "IN_PROGRESS"
            )
        )

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) >= 1
    found = answers[2].json()
    assert found == {
        "error": {"code": "RATE_LIMIT_EXCEEDED", "message": found["error"]["message"]},
        "request_id": answers[2].headers["x-fal-request-id"],
    }
    assert "1 jobs wait, and the server takes at most 1" in found["error"]["message"]


@pytest.mark.parametrize(
    ("problem", "expected_status", "detail"),
    [
        (Problem(413, "payload_too_large", "Too large."), 413, "Too large."),
        (Problem(503, "unavailable", "No model."), 503, "No model."),
        (Problem(500, "internal_error", "The server failed."), 500, "The server failed."),
        (Problem(400, "invalid_parameter", "No."), 400, "No."),
    ],
)
def test_error_about_no_field_keeps_its_status(
    problem: Problem, expected_status: int, detail: str
) -> None:
    answer = render(problem)
    assert answer.status_code == expected_status
    assert json.loads(bytes(answer.body)) == {"detail": detail, "message": detail}
    assert answer.headers["x-fal-request-id"]


# ── fal's webhook ─────────────────────────────────────────────────────────────────────────────


async def test_webhook_of_a_success_carries_the_result() -> None:
    service: Any = None
    job = a_job(JobStatus.SUCCEEDED)
    told = json.loads(await webhook_body(service, job, "https://edit.example.org"))
    _, expected = await outcome(service, job, "https://edit.example.org")

    assert told == {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "OK",
        "payload": expected.model_dump(mode="json"),
    }
    assert told["payload"]["images"][0]["url"] == (
        f"https://edit.example.org/outputs/{job.outputs[0].name}"
    )


@pytest.mark.parametrize(
    ("job", "sentence", "error_type"),
    [
        (a_job(JobStatus.FAILED, "timeout"), "It failed: timeout.", "INFERENCE_TIMEOUT"),
        (a_job(JobStatus.CANCELED), "The request was cancelled.", "CANCELED"),
    ],
)
async def test_webhook_of_a_failure_says_why(job: Job, sentence: str, error_type: str) -> None:
    service: Any = None
    assert json.loads(await webhook_body(service, job, "https://edit.example.org")) == {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "ERROR",
        "payload": {"detail": sentence, "message": sentence, "error_type": error_type},
        "error": sentence,
    }


class _Receiver(http.server.BaseHTTPRequestHandler):
    """Hears what webhooks say; the first call of all is answered 503."""

    heard: "list[tuple[dict[str, str], Any]]"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.heard.append((dict(self.headers), body))
        self.send_response(503 if len(self.heard) == 1 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], Any]]]]:
    heard: list[tuple[dict[str, str], Any]] = []
    handler = type("Handler", (_Receiver,), {"heard": heard})
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}/hook", heard
    host.shutdown()
    host.server_close()


def test_webhook_is_sent_again_until_it_is_heard_and_says_what_the_result_says(
    fetching_server: LiveServer,
    body: dict[str, Any],
    receiver: tuple[str, list[tuple[dict[str, str], Any]]],
) -> None:
    url, heard = receiver
    server = fetching_server

    answer = submit(server, f"{FAL}?fal_webhook={url}", body)
    until(lambda: len(heard) == 2)
    headers, told = heard[1]

    assert heard[0][1] == told
    assert headers["x-fal-webhook-request-id"] == answer["request_id"]
    assert told == {
        "request_id": answer["request_id"],
        "gateway_request_id": answer["request_id"],
        "status": "OK",
        "payload": server.http.get(answer["response_url"]).json(),
    }

    failed = submit(server, f"{FAL}?fal_webhook={url}", body | {"images": [f"{url}/none.png"]})
    until(lambda: len(heard) == 3)
    told = heard[2][1]
    assert (told["request_id"], told["status"]) == (failed["request_id"], "ERROR")
    assert told["payload"] == server.http.get(failed["response_url"]).json()
    assert told["error"] == told["payload"]["detail"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/hook", "http://10.0.0.1/", "nonsense", ""])
def test_webhook_address_that_is_private_or_none_is_refused_at_submit(
    server: LiveServer, body: dict[str, Any], url: str
) -> None:
    before = job_count(server)
    answer = post(server, f"{FAL}?fal_webhook={url}", body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["body", "fal_webhook"]
    assert job_count(server) == before


# ── the document ──────────────────────────────────────────────────────────────────────────────


def test_openapi_document_shows_one_mount_and_every_field(server: LiveServer) -> None:
    document = server.http.get(f"{server.url}/openapi.json").json()
    paths = [path for path in document["paths"] if "queue" in path or "fal-ai" in path]

    assert {PLAIN, FAL, f"{FAL}-lora", ROOT, RUN} <= set(paths)
    assert not [path for path in paths if path.startswith("/model/")]
    fields = document["components"]["schemas"]["FalEditRequest"]["properties"]
    assert {"image_urls", "image_size", "num_images", "loras", "sync_mode"} <= set(fields)
