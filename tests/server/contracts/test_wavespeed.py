"""WaveSpeed's contract over a live server: the provider's own SDK, and the rules one by one."""

import base64
import http.server
import io
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import PIL.Image
import pytest
import wavespeed

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer, until

MODEL = "wavespeed-ai/qwen-image/edit-plus-lora"
SUBMIT = f"/api/v3/{MODEL}"
# longer than any test looks at it, for tasks that are canceled in the end
LONG = {"num_inference_steps": 100, "size": "1024*1024"}
# seconds on any machine, for tasks whose end is waited for
MEDIUM = {"num_inference_steps": 100, "size": "512*512"}


@pytest.fixture
def body(image_base64: str) -> dict[str, Any]:
    return {"prompt": "make it blue", "images": [image_base64], "seed": 1}


@pytest.fixture
def client(server: LiveServer) -> wavespeed.Client:
    return wavespeed.Client(api_key="any", base_url=server.url)


def submit(server: LiveServer, body: dict[str, Any], path: str = SUBMIT) -> httpx2.Response:
    return server.http.post(server.url + path, json=body)


def finished(server: LiveServer, data: dict[str, Any]) -> dict[str, Any]:
    """The prediction once it is completed or failed."""

    def ask() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get(data["urls"]["get"]).json()["data"]
        return found if found["status"] in ("completed", "failed") else None

    return until(ask)


def run(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = submit(server, body)
    assert answer.status_code == 200, answer.text
    return finished(server, answer.json()["data"])


def error_of(response: httpx2.Response) -> str:
    """The sentence of an error; it stands under both keys that clients read (rule 17)."""
    found = response.json()
    assert found["code"] == response.status_code
    assert found["message"] == found["error"]
    message: str = found["message"]
    return message


# ── the provider's SDK, unmodified ────────────────────────────────────────────────────────────


def test_sdk_runs_an_edit_and_fetches_it(client: wavespeed.Client, body: dict[str, Any]) -> None:
    outputs = client.run(MODEL, body, poll_interval=0.05)["outputs"]

    # rules 8 and 9: no key, an image's extension, an image's type
    answer = httpx2.get(outputs[0])
    assert outputs[0].endswith(".jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert PIL.Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_sdk_runs_an_edit_in_sync_mode(client: wavespeed.Client, body: dict[str, Any]) -> None:
    outputs = client.run(MODEL, body, enable_sync_mode=True)["outputs"]
    assert httpx2.get(outputs[0]).status_code == 200


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_sdk_gets_naked_base64(
    client: wavespeed.Client, body: dict[str, Any], image_format: str, sync: bool
) -> None:
    body |= {"enable_base64_output": True, "output_format": image_format}
    outputs = client.run(MODEL, body, enable_sync_mode=sync, poll_interval=0.05)["outputs"]

    assert re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", outputs[0])
    image = PIL.Image.open(io.BytesIO(base64.b64decode(outputs[0], validate=True)))
    assert image.format == image_format.upper()


def test_sdk_raises_the_sentence_of_a_failed_task(
    client: wavespeed.Client, body: dict[str, Any]
) -> None:
    body["images"] = ["http://127.0.0.1:9/cat.png"]
    with pytest.raises(RuntimeError, match=r"images/0: http://127\.0\.0\.1:9/cat\.png is refused"):
        client.run(MODEL, body, poll_interval=0.05)


def test_sdk_raises_the_sentence_of_a_refused_request(
    client: wavespeed.Client, body: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match=r"HTTP 400: .*256–1536 pixels, got '255\*256'"):
        client.run(MODEL, body | {"size": "255*256"})


# ── the rules ─────────────────────────────────────────────────────────────────────────────────


def test_submit_answers_200_in_the_envelope_with_an_absolute_result_url(
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


def test_result_url_follows_the_proxy_in_front(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 6."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    answer = server.http.post(server.url + SUBMIT, json=body, headers=headers)
    url = answer.json()["data"]["urls"]["get"]
    assert url.startswith("https://edit.example.org/api/v3/predictions/")


@pytest.mark.parametrize("model", ["edit-plus-lora", "edit-plus"])
def test_prediction_names_the_model_asked_for_and_a_header_the_real_one(
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
def test_result_is_the_same_under_all_its_addresses(
    server: LiveServer, body: dict[str, Any], path: str
) -> None:
    data = run(server, body)
    assert server.http.get(server.url + path.format(id=data["id"])).json()["data"] == data


def test_unknown_prediction_is_404(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/api/v3/predictions/{'0' * 32}/result")
    assert answer.status_code == 404
    assert "There is no job" in error_of(answer)


def test_failed_task_is_200_with_a_sentence_and_a_business_code(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 5."""
    data = run(server, body | {"images": ["http://127.0.0.1:9/cat.png"]})
    assert data["status"] == "failed"
    assert data["outputs"] == []
    assert "QWEN_EDIT_ALLOW_NETWORKS" in data["error"]
    assert data["code"] == 1402


def test_unfinished_status_is_created_or_processing_and_a_canceled_task_failed(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 7."""
    first, second = (submit(server, body | LONG).json()["data"] for _ in range(2))
    seen = until(lambda: _status(server, first) == "processing" and _status(server, second))
    for data in (second, first):
        server.http.delete(f"{server.url}/v1/edits/{data['id']}")

    assert seen == "created"
    for data in (first, second):
        canceled = finished(server, data)
        assert (canceled["status"], canceled["error"]) == ("failed", "The task was canceled.")


def test_deleted_prediction_is_404(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 7."""
    data = run(server, body)
    assert server.http.delete(f"{server.url}/v1/edits/{data['id']}").status_code == 204
    assert server.http.get(data["urls"]["get"]).status_code == 404
    assert server.http.get(data["outputs"][0]).status_code == 404


def test_unknown_fields_are_tolerated_and_known_ones_honoured(
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


def test_path_in_images_is_never_opened_and_image_used_instead(
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


def test_accept_header_is_not_looked_at(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 13."""
    headers = {"Accept": "image/png"}
    answer = server.http.post(server.url + SUBMIT, json=body, headers=headers)
    assert answer.headers["content-type"] == "application/json"


class SlowHandler(http.server.BaseHTTPRequestHandler):
    """Answers with an image once `release` is set."""

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


def test_submit_answers_before_its_images_are_fetched_and_holds_nobody_up(
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
    assert _status(server, slow) == "created"
    release.set()
    assert finished(server, slow)["status"] == "completed"


def test_sync_mode_past_its_limit_says_so_and_the_task_goes_on(
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


def test_client_that_hangs_up_in_sync_mode_does_not_cancel_the_task(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 15."""
    task_id = server.post_and_hang_up(SUBMIT, body | MEDIUM | {"enable_sync_mode": True})
    url = f"{server.url}/api/v3/predictions/{task_id}/result"
    assert finished(server, {"urls": {"get": url}})["status"] == "completed"


def test_output_of_an_edit_can_be_the_input_of_the_next(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """The server's own URLs are read from disk, under whatever host the client knows it."""
    output = run(server, body)["outputs"][0]
    elsewhere = output.replace(server.url, "https://edit.example.org/base")
    for url in (output, elsewhere):
        assert run(server, body | {"images": [url]})["status"] == "completed"


# ── the parameters ────────────────────────────────────────────────────────────────────────────


def test_seed_gives_the_same_image_and_minus_one_another(
    server: LiveServer, body: dict[str, Any]
) -> None:
    body |= {"output_format": "png", "enable_base64_output": True}
    images = [_pixels(run(server, body | {"seed": seed})) for seed in (9, 9, -1, -1)]
    assert images[0] == images[1]
    assert len(set(images)) == 3


@pytest.mark.parametrize(("size", "expected"), [("256*320", (256, 320)), ("301x257", (301, 257))])
def test_size_is_met_to_the_pixel(
    server: LiveServer, body: dict[str, Any], size: str, expected: tuple[int, int]
) -> None:
    output = run(server, body | {"size": size})["outputs"][0]
    assert PIL.Image.open(io.BytesIO(httpx2.get(output).content)).size == expected


def test_one_two_and_three_images_are_taken(server: LiveServer, body: dict[str, Any]) -> None:
    images = [as_base64(encoded(gradient(shift=40 * index))) for index in range(3)]
    outputs = set()
    for count in (1, 2, 3):
        data = run(server, body | {"images": images[:count], "enable_base64_output": True})
        outputs.add(data["outputs"][0])
    assert len(outputs) == 3


BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "/prompt", "at least 1 character, got ''"),
    ({"prompt": "   "}, "/prompt", "must not be empty"),
    ({"prompt": "x" * 10_001}, "/prompt", "at most 10000 characters, got 10001"),
    ({"size": "255*256"}, "/size", "256–1536 pixels, got '255*256'"),
    ({"size": "1536*1537"}, "/size", "256–1536 pixels, got '1536*1537'"),
    ({"size": "abc"}, "/size", "width*height in pixels"),
    ({"images": []}, "/images", "1 to 3 entries, got 0"),
    ({"images": "x"}, "/images", "valid list, got 'x'"),
    ({"images": ["aGVsbG8="] * 4}, "/images", "1 to 3 entries, got 4"),
    ({"images": ["aGVsbG8="]}, "/images/0", "not an image that can be read"),
    ({"loras": [{"path": "a"}] * 4}, "/loras", "at most 3 items"),
    ({"loras": ["a"]}, "/loras/0", "got 'a'"),
    ({"loras": [{"path": "a", "scale": -0.1}]}, "/loras/0/scale", "or equal to 0, got -0.1"),
    ({"loras": [{"path": "a", "scale": 4.1}]}, "/loras/0/scale", "or equal to 4, got 4.1"),
    ({"loras": [{"scale": 1}]}, "/loras/0/path", "is required"),
    ({"loras": [{"path": "../a"}]}, "/loras/0/path", "must be a file name under"),
    ({"loras": [{"path": "/etc/passwd"}]}, "/loras/0/path", "must be a file name under"),
    ({"loras": [{"path": "nothing"}]}, "/loras/0/path", "There is no LoRA 'nothing'"),
    ({"seed": -2}, "/seed", "or equal to -1, got -2"),
    ({"seed": 2147483648}, "/seed", "or equal to 2147483647, got 2147483648"),
    ({"output_format": "gif"}, "/output_format", "'jpeg', 'png' or 'webp', got 'gif'"),
    ({"num_inference_steps": 1}, "/num_inference_steps", "or equal to 2, got 1"),
    ({"guidance_scale": 21}, "/guidance_scale", "or equal to 20, got 21"),
    ({"webhook_url": "http://127.0.0.1/"}, "/webhook_url", "is not a public address"),
    (
        {"webhook_url": "https://a.example/", "enable_base64_output": True},
        "/enable_base64_output",
        "cannot be combined",
    ),
]


@pytest.mark.parametrize(("change", "place", "sentence"), BAD_BODIES)
def test_bad_value_is_400_with_a_sentence_and_queues_nothing(
    server: LiveServer, body: dict[str, Any], change: dict[str, Any], place: str, sentence: str
) -> None:
    """Rules 4 and 17."""
    before = server.http.get(f"{server.url}/v1/edits").json()["total"]

    answer = submit(server, body | change)

    assert answer.status_code == 400
    assert sentence in error_of(answer)
    assert f'invalid request body, Error at "{place}":' in error_of(answer)
    assert server.http.get(f"{server.url}/v1/edits").json()["total"] == before


def test_missing_prompt_has_its_own_business_code(server: LiveServer, image_base64: str) -> None:
    answer = submit(server, {"images": [image_base64]})
    assert answer.json()["data"]["code"] == 1400
    assert "prompt is required" in error_of(answer)


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_body_that_is_no_object_is_400(server: LiveServer, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + SUBMIT, content=content, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)


def test_lora_file_that_is_no_safetensors_is_refused(
    server: LiveServer, body: dict[str, Any]
) -> None:
    (server.weights_dir / "loras" / "pickle.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    answer = submit(server, body | {"loras": [{"path": "pickle"}]})
    assert answer.status_code == 400
    message = error_of(answer)
    assert "pickle.safetensors is not a safetensors file (it looks like a pickle" in message


def test_image_over_the_size_limit_is_413(server: LiveServer, body: dict[str, Any]) -> None:
    answer = submit(server, body | {"images": ["A" * (28 * 2**20)]})
    assert answer.status_code == 413
    assert "images/0 has 21.0 MiB; at most 20 MiB are allowed" in error_of(answer)


def test_image_over_the_pixel_limit_is_400(server: LiveServer, body: dict[str, Any]) -> None:
    large = PIL.Image.new("1", (9000, 8000))
    answer = submit(server, body | {"images": [as_base64(encoded(large))]})
    assert answer.status_code == 400
    assert "9000×8000 pixels; at most 64 million" in error_of(answer)


@pytest.mark.parametrize("declared", [True, False])
def test_body_over_the_limit_is_413(server: LiveServer, declared: bool) -> None:
    content = b'{"prompt": "' + b"x" * (91 * 2**20) + b'"}'
    chunks = (content[start : start + 2**20] for start in range(0, len(content), 2**20))
    answer = server.http.post(
        server.url + SUBMIT,
        content=content if declared else chunks,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert "at most 90 MiB are allowed" in error_of(answer)


def test_queue_beyond_its_bound_is_429_with_retry_after(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(MAX_WAITING_JOBS=2)
    first = submit(server, body | LONG).json()["data"]
    until(lambda: _status(server, first) == "processing")
    answers = [submit(server, body | LONG) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) >= 1
    assert "2 jobs wait, and the server takes at most 2" in error_of(answers[2])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer right"}, 200),
        ({"Authorization": "Key right"}, 200),
        ({"X-API-Key": "second"}, 200),
    ],
)
def test_key_is_required_where_keys_are_set(
    keyed_server: LiveServer, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    answer = keyed_server.http.post(keyed_server.url + SUBMIT, json=body, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert "API key is required" in error_of(answer)


def test_output_needs_no_key(keyed_server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 8."""
    keyed = wavespeed.Client(api_key="right", base_url=keyed_server.url)
    output = keyed.run(MODEL, body, poll_interval=0.05)["outputs"][0]
    assert httpx2.get(output).status_code == 200


@pytest.fixture(scope="module")
def keyed_server(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed")
    server = LiveServer(tiny_model, folder, API_KEYS="right, second")
    yield server.start()
    server.close()


def test_submit_answers_at_once_while_the_worker_is_busy(
    server: LiveServer, body: dict[str, Any]
) -> None:
    """Rule 14: clients give up after ten seconds, and the first task takes longer than that."""
    running = submit(server, body | LONG).json()["data"]
    until(lambda: _status(server, running) == "processing")

    second = submit(server, body | LONG).json()["data"]

    assert _status(server, running) == "processing"
    for data in (running, second):
        server.http.delete(f"{server.url}/v1/edits/{data['id']}")


def _status(server: LiveServer, data: dict[str, Any]) -> str:
    status: str = server.http.get(data["urls"]["get"]).json()["data"]["status"]
    return status


def _pixels(data: dict[str, Any]) -> bytes:
    return PIL.Image.open(io.BytesIO(base64.b64decode(data["outputs"][0]))).tobytes()
