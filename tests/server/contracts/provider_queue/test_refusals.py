"""Responses to bad input, missing keys and a full queue."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from server.contracts.provider_queue.codes import render
from server.web.problem import Problem
from tests.conftest import as_base64
from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.provider_queue.client import (
    FAL,
    MOUNTED,
    PLAIN,
    ROOT,
    RUN,
    SUBMIT,
    job_count,
    post,
)

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


@pytest.mark.parametrize(("path", "change", "place", "kind", "message"), BAD_BODIES)
def test_bad_value_returns_422_with_its_location_and_queues_nothing(
    server: LiveServer,
    body: dict[str, Any],
    path: str,
    change: dict[str, Any],
    place: list[str | int],
    kind: str,
    message: str,
) -> None:
    before = job_count(server)

    answer = post(server, path, body | change, SUBMIT)
    found = answer.json()

    assert answer.status_code == 422, answer.text
    assert set(found) == {"detail", "message"}
    [detail] = found["detail"]
    assert set(detail) == {"loc", "msg", "type"}
    assert (detail["loc"], detail["type"]) == (["body", *place], kind)
    assert message in detail["msg"]
    assert detail["msg"] in found["message"]
    assert str(place[0]) in found["message"]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-fal-request-id"])
    assert job_count(server) == before


def test_missing_prompt_is_reported_as_missing(server: LiveServer, body: dict[str, Any]) -> None:
    without = {key: value for key, value in body.items() if key != "prompt"}
    assert post(server, PLAIN, without).json() == {
        "detail": [{"loc": ["body", "prompt"], "msg": "prompt is required", "type": "missing"}],
        "message": "prompt is required",
    }


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'"x"', b"", b"\xff"])
def test_body_is_rejected_in_this_shape_when_it_is_no_object(
    server: LiveServer, content: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + PLAIN, content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert set(answer.json()) == {"detail", "message"}


def test_image_over_ten_megabytes_is_rejected(server: LiveServer, body: dict[str, Any]) -> None:
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
def test_unknown_app_returns_404(server: LiveServer, path: str, app: str) -> None:
    for answer in (post(server, path, {"prompt": "a"}), server.http.get(server.url + path)):
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"App not found: {app}"
        assert answer.json()["message"] == answer.json()["detail"]
        assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("end", ["", "/status", "/status/stream", "/response"])
def test_unknown_request_returns_404(server: LiveServer, end: str) -> None:
    answer = server.http.get(f"{server.url}{PLAIN}/requests/{'0' * 32}{end}")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("There is no job")
    assert answer.headers["x-fal-request-id"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_method_returns_405(server: LiveServer, method: str) -> None:
    answer = server.http.request(method, server.url + PLAIN)
    assert answer.status_code == 405
    assert answer.headers["x-fal-request-id"]


def test_other_routes_stay_reachable(server: LiveServer) -> None:
    assert server.http.get(f"{server.url}/v1/capabilities").status_code == 200
    assert "error" in server.http.get(f"{server.url}/owner/app").json()


@pytest.mark.parametrize("path", [PLAIN, RUN, ROOT])
def test_webhook_is_rejected_outside_the_queue(
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
    """A server that requires a key and queues a single job."""
    folder = tmp_path_factory.mktemp("strict")
    server = LiveServer(tiny_model, folder, API_KEYS="right-key-for-tests", MAX_WAITING_JOBS=1)
    yield server.start()
    server.close()


@pytest.mark.parametrize("path", [*MOUNTED, ROOT, RUN, "/v1/queue/nothing"])
def test_missing_key_returns_401_in_the_gateways_shape(
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


def test_both_key_schemes_pass_and_a_full_queue_returns_429(
    strict_server: LiveServer, body: dict[str, Any]
) -> None:
    answers = []
    for scheme in ("Key", "Bearer", "Key"):
        headers = SUBMIT | {"Authorization": f"{scheme} right-key-for-tests"}
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
def test_error_without_a_field_keeps_its_status(
    problem: Problem, expected_status: int, detail: str
) -> None:
    answer = render(problem)
    assert answer.status_code == expected_status
    assert json.loads(bytes(answer.body)) == {"detail": detail, "message": detail}
    assert answer.headers["x-fal-request-id"]
