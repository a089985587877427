"""Predictions from submit to result, rule by rule."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.wavespeed.client import (
    MEDIUM,
    SUBMIT,
    error_of,
    finished,
    run,
    status_of,
    submit,
)


def test_submit_returns_the_envelope_with_an_absolute_result_url(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rules 1, 2, 3, 6, 16."""
    answer = submit(server, body)
    found = answer.json()

    assert answer.status_code == 200
    assert (found["code"], found["message"]) == (200, "success")
    assert "error" not in found
    assert list(found["data"])[:10] == [
        *("id", "model", "outputs", "urls", "has_nsfw_contents"),
        *("status", "created_at", "error", "executionTime", "timings"),
    ]
    assert re.fullmatch(r"[0-9a-f]{32}", found["data"]["id"])
    assert found["data"]["urls"]["get"].startswith(f"{server.url}/api/v3/predictions/")
    assert found["data"]["outputs"] == []
    assert found["data"]["has_nsfw_contents"] == []
    assert found["data"]["error"] == ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["data"]["created_at"])


def test_result_url_follows_the_proxy(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 6."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    answer = server.http.post(server.url + SUBMIT, json=body, headers=headers)
    url = answer.json()["data"]["urls"]["get"]
    assert url.startswith("https://edit.example.org/api/v3/predictions/")


@pytest.mark.parametrize("model", ["edit-plus-lora", "edit-plus"])
def test_prediction_names_the_requested_model_and_a_header_the_loaded_one(
    server: LiveServer, body: dict[str, Any], model: str
) -> None:
    answer = submit(server, body, f"/api/v3/wavespeed-ai/qwen-image/{model}")
    assert answer.json()["data"]["model"] == f"wavespeed-ai/qwen-image/{model}"
    assert answer.headers["x-qwen-edit-model"] == "tiny"


def test_finished_prediction_has_outputs_flags_and_milliseconds(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 16."""
    data = run(server, body)
    assert data["status"] == "completed"
    assert len(data["outputs"]) == 1
    assert data["has_nsfw_contents"] == [False]
    assert isinstance(data["timings"]["inference"], int)
    assert 0 < data["timings"]["inference"] <= data["executionTime"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/v3/predictions/{id}/result",
        "/api/v3/predictions/{id}",
        "/api/v2/predictions/{id}/result",
    ],
)
def test_result_is_the_same_at_every_address(
    server: LiveServer, body: dict[str, Any], path: str
) -> None:
    data = run(server, body)
    assert server.http.get(server.url + path.format(id=data["id"])).json()["data"] == data


def test_unknown_prediction_returns_404(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/api/v3/predictions/{'0' * 32}/result")
    assert answer.status_code == 404
    assert "There is no job" in error_of(answer)


def test_failed_task_returns_200_with_a_message_and_a_business_code(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 5."""
    data = run(server, body | {"images": ["http://127.0.0.1:9/cat.png"]})
    assert data["status"] == "failed"
    assert data["outputs"] == []
    assert "QWEN_EDIT_ALLOW_NETWORKS" in data["error"]
    assert data["code"] == 1402


def test_status_is_created_or_processing_until_done_and_failed_when_canceled(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 7."""
    first, second = (submit(server, body | LONG).json()["data"] for _ in range(2))
    seen = until(lambda: status_of(server, first) == "processing" and status_of(server, second))
    for data in (second, first):
        server.http.delete(f"{server.url}/v1/edits/{data['id']}")

    assert seen == "created"
    for data in (first, second):
        canceled = finished(server, data)
        assert (canceled["status"], canceled["error"]) == ("failed", "The task was canceled.")


def test_deleted_prediction_returns_404(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 7."""
    data = run(server, body)
    assert server.http.delete(f"{server.url}/v1/edits/{data['id']}").status_code == 204
    assert server.http.get(data["urls"]["get"]).status_code == 404
    assert server.http.get(data["outputs"][0]).status_code == 404


def test_unknown_fields_are_ignored_and_known_ones_honoured(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 10."""
    extra = {"enable_safety_checker": True, "model": "x", "foo": [1], "num_inference_steps": 5}
    data = run(server, body | extra | {"guidance_scale": 2.5, "negative_prompt": "dark"})
    job = server.http.get(f"{server.url}/v1/edits/{data['id']}").json()
    assert data["status"] == "completed"
    assert job["steps"] == 5


def test_null_and_empty_fields_count_as_absent(server: LiveServer, body: dict[str, Any]) -> None:
    blanks = dict.fromkeys(("size", "loras", "output_format", "webhook_url"), None)
    data = run(server, body | blanks | {"negative_prompt": "", "image": ""})
    assert data["outputs"][0].endswith(".jpeg")


@pytest.mark.parametrize("form", ["data URI", "lying data URI", "naked", "with line breaks"])
def test_inline_images_are_read_in_every_form(
    server: LiveServer, body: dict[str, Any], image_base64: str, form: str
) -> None:
    """Rule 11: the bytes decide, not the declared type."""
    image = {
        "data URI": f"data:image/png;base64,{image_base64}",
        "lying data URI": f"data:image/webp;base64,{image_base64}",
        "naked": image_base64,
        "with line breaks": "\n".join(re.findall(".{1,76}", image_base64)),
    }[form]
    assert run(server, body | {"images": [image]})["status"] == "completed"


def test_lone_image_is_accepted(server: LiveServer, image_base64: str) -> None:
    """Rule 11."""
    data = run(server, {"prompt": "a", "image": image_base64, "seed": 1})
    assert data["status"] == "completed"


def test_path_in_images_is_never_opened_and_image_is_used_instead(
    server: LiveServer, image_base64: str
) -> None:
    """Rule 12."""
    path = server.folder / "secret.png"
    path.write_bytes(encoded(gradient()))

    refused = submit(server, {"prompt": "a", "images": [str(path)]})
    assert refused.status_code == 400
    assert "must be an http(s) URL, a data URI or base64" in error_of(refused)

    both = run(server, {"prompt": "a", "images": [str(path)], "image": image_base64})
    assert both["status"] == "completed"


def test_accept_header_is_ignored(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 13."""
    headers = {"Accept": "image/png"}
    answer = server.http.post(server.url + SUBMIT, json=body, headers=headers)
    assert answer.headers["content-type"] == "application/json"


class SlowHandler(http.server.BaseHTTPRequestHandler):
    """Sends an image once `release` is set."""

    release: threading.Event

    def do_GET(self) -> None:
        self.release.wait(300)
        data = encoded(gradient())
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def slow_host() -> Iterator[tuple[str, threading.Event]]:
    release = threading.Event()
    handler = type("Handler", (SlowHandler,), {"release": release})
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}/cat.png", release
    release.set()
    host.shutdown()
    host.server_close()


def test_submit_returns_before_its_images_are_downloaded_and_blocks_no_other(
    fetching_server: LiveServer,
    body: dict[str, Any],
    slow_host: tuple[str, threading.Event],
) -> None:
    """Rule 14."""
    url, release = slow_host
    server = fetching_server

    slow = submit(server, body | {"images": [url]}).json()["data"]
    fast = run(server, body)

    assert fast["status"] == "completed"
    assert status_of(server, slow) == "created"
    release.set()
    assert finished(server, slow)["status"] == "completed"


def test_sync_mode_times_out_while_the_task_continues(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    """Rule 15."""
    server = start_server(SYNC_TIMEOUT_S=0.2)
    answer = submit(server, body | MEDIUM | {"enable_sync_mode": True})
    data = answer.json()["data"]

    assert answer.status_code == 200
    assert (data["status"], data["code"]) == ("processing", 5004)
    assert data["error"] == (
        "Sync mode timed out after 0.2 seconds. The prediction is still processing asynchronously."
    )
    assert finished(server, data)["status"] == "completed"


def test_disconnect_in_sync_mode_does_not_cancel_the_task(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 15."""
    task_id = server.post_and_hang_up(SUBMIT, body | MEDIUM | {"enable_sync_mode": True})
    url = f"{server.url}/api/v3/predictions/{task_id}/result"
    assert finished(server, {"urls": {"get": url}})["status"] == "completed"


def test_output_of_an_edit_is_accepted_as_input_of_the_next(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """The server reads its own URLs from disk, under any host name."""
    output = run(server, body)["outputs"][0]
    elsewhere = output.replace(server.url, "https://edit.example.org/base")
    for url in (output, elsewhere):
        assert run(server, body | {"images": [url]})["status"] == "completed"


def test_submit_returns_at_once_while_the_worker_is_busy(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 14: clients time out after ten seconds, and the first task takes longer."""
    running = submit(server, body | LONG).json()["data"]
    until(lambda: status_of(server, running) == "processing")

    second = submit(server, body | LONG).json()["data"]

    assert status_of(server, running) == "processing"
    for data in (running, second):
        server.http.delete(f"{server.url}/v1/edits/{data['id']}")
