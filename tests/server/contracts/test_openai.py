"""OpenAI's contract over a live server: the published SDK, and the rules one by one."""

import asyncio
import base64
import contextlib
import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
import PIL.Image
import pytest

from server.contracts.openai.answers import images_response, usage
from server.contracts.openai.problems import problem_of_job
from server.contracts.openai.schemas import EditRequest
from server.job import JobError, JobStatus, Output
from server.jobs.service import EditService
from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer, live_server, until
from tests.lora_files import random_pairs, write_lora
from tests.make_job import make_job
from tests.pipelines.engine.test_safety import build_classifier

EDITS = "/v1/images/edits"
IMAGE = encoded(gradient())
LONG = {"num_inference_steps": 100, "seed": 1}
SEEDED = {"seed": 1}


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        yield client


def post(
    server: LiveServer, *parts: tuple[str, Any], path: str = EDITS, **headers: str
) -> httpx2.Response:
    """Multipart as given: parts in their order, bytes as files, all else as text."""
    files = [
        (name, ("x.bin", value) if isinstance(value, bytes) else (None, str(value)))
        for name, value in parts
    ]
    return server.http.post(server.url + path, files=files, headers=headers)


def edit(server: LiveServer, **fields: Any) -> httpx2.Response:
    """One image, a prompt, the same seed each time, and `fields`."""
    given = {"prompt": "make it blue", "seed": 1} | fields
    return post(server, ("image", IMAGE), *given.items())


def image_of(answer: httpx2.Response | dict[str, Any], index: int = 0) -> PIL.Image.Image:
    found = answer if isinstance(answer, dict) else answer.json()
    data = base64.b64decode(found["data"][index]["b64_json"], validate=True)
    image: PIL.Image.Image = PIL.Image.open(io.BytesIO(data))
    return image


def pixels(answer: httpx2.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return image_of(answer).tobytes()


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    """The error, of the one shape whose message the SDK shows."""
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert answer.headers["x-request-id"]
    return error


def jobs(server: LiveServer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = server.http.get(f"{server.url}/v1/edits").json()["items"]
    return items


def total(server: LiveServer) -> int:
    count: int = server.http.get(f"{server.url}/v1/edits").json()["total"]
    return count


def job(server: LiveServer, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
    return found


def ended(server: LiveServer, job_id: str) -> bool:
    return job(server, job_id)["status"] not in ("queued", "running")


def events(answer: httpx2.Response) -> list[tuple[str, dict[str, Any]]]:
    return [(event.event, json.loads(event.data)) for event in httpx2.EventSource(answer)]


# ── the SDK, unmodified ───────────────────────────────────────────────────────────────────────


def test_sdk_edits_an_image(client: openai.OpenAI) -> None:
    answer = client.images.edit(image=IMAGE, prompt="make it blue", model="gpt-image-1")

    assert answer.data is not None
    image = PIL.Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    assert image.format == "PNG"
    assert answer.size == f"{image.width}x{image.height}"
    assert answer.data[0].url is None
    assert answer.usage is not None
    assert answer.usage.output_tokens == image.width * image.height // 256
    assert re.fullmatch("[0-9a-f]{32}", answer._request_id or "")


async def test_async_sdk_edits_an_image(server: LiveServer) -> None:
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        answer = await client.images.edit(image=IMAGE, prompt="a", size="256x256")  # type: ignore[call-overload,unused-ignore]
    assert answer.size == "256x256"


@pytest.mark.parametrize("form", ["path", "bytes", "file", "lying tuple"])
def test_sdk_sends_a_file_in_every_form(client: openai.OpenAI, tmp_path: Path, form: str) -> None:
    """File names and media types lie: the bytes decide."""
    path = tmp_path / "cat.png"
    path.write_bytes(IMAGE)
    image: Any = {
        "path": path,
        "bytes": IMAGE,
        "file": io.BytesIO(IMAGE),
        "lying tuple": ("cat.txt", encoded(gradient(), "JPEG"), "text/plain"),
    }[form]
    answer = client.images.edit(image=image, prompt="a", extra_body=SEEDED)
    assert answer.data


def test_sdk_sends_several_images_and_each_counts(client: openai.OpenAI) -> None:
    images = [encoded(gradient(shift=40 * index)) for index in range(3)]
    found = {
        client.images.edit(image=images[:count], prompt="a", extra_body=SEEDED).data[0].b64_json  # type: ignore[index]
        for count in (1, 2, 3)
    }
    assert len(found) == 3


def test_sdk_passes_extra_parameters(client: openai.OpenAI, server: LiveServer) -> None:
    extra = {"seed": 7, "negative_prompt": "dark", "num_inference_steps": 5, "true_cfg_scale": 2.5}
    answer = client.images.edit(image=IMAGE, prompt="a", extra_body=extra)
    found = job(server, answer._request_id or "")
    assert (found["seed"], found["steps"]) == (7, 5)


def test_sdk_gets_an_image_by_url(client: openai.OpenAI, server: LiveServer) -> None:
    answer = client.images.edit(image=IMAGE, prompt="a", response_format="url")
    assert answer.data is not None
    url = answer.data[0].url or ""
    assert url.startswith(f"{server.url}/outputs/")
    assert answer.data[0].b64_json is None
    # Open WebUI fetches it with its own key
    found = httpx2.get(url, headers={"Authorization": "Bearer any"})
    assert PIL.Image.open(io.BytesIO(found.content)).format == "PNG"


def test_sdk_gets_several_images(client: openai.OpenAI) -> None:
    answer = client.images.edit(image=IMAGE, prompt="a", n=2, extra_body=SEEDED)
    assert len({found.b64_json for found in answer.data or ()}) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_sdk_sends_loras_as_a_list_of_dicts(
    client: openai.OpenAI, styles: tuple[str, str], count: int
) -> None:
    """`loras[][path]` repeated, then `loras[][scale]` repeated."""
    loras = [{"path": path, "scale": 1.5 - index} for index, path in enumerate(styles[:count])]

    def run(**extra: Any) -> str | None:
        answer = client.images.edit(image=IMAGE, prompt="a", extra_body=SEEDED | extra)
        return answer.data[0].b64_json if answer.data else None

    assert run(loras=loras) == run(loras=json.dumps(loras))
    assert run(loras=loras) != run()


def test_sdk_streams_previews_and_the_output(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=IMAGE,
        prompt="a",
        stream=True,
        partial_images=2,
        extra_body={"seed": 1, "num_inference_steps": 12},
    )
    found = list(stream)

    *partial, last = found
    assert partial
    assert {event.type for event in partial} == {"image_edit.partial_image"}
    assert isinstance(last, openai.types.ImageEditCompletedEvent)
    assert last.type == "image_edit.completed"
    assert last.usage.total_tokens == last.usage.output_tokens > 0
    assert len({event.b64_json for event in found}) == len(found)
    assert {event.size for event in found} == {last.size}


async def test_async_sdk_streams_the_output(server: LiveServer) -> None:
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        stream = await client.images.edit(image=IMAGE, prompt="a", stream=True)
        found = [event.type async for event in stream]
    assert found == ["image_edit.completed"]


def test_sdk_raises_the_message_and_the_field_of_a_refused_request(
    client: openai.OpenAI, server: LiveServer
) -> None:
    before = total(server)
    with pytest.raises(openai.BadRequestError, match="256–1536 pixels") as caught:
        client.images.edit(image=IMAGE, prompt="a", size="255x256")  # type: ignore[call-overload]
    assert (caught.value.param, caught.value.type) == ("size", "invalid_request_error")
    assert caught.value.code == "invalid_parameter"
    assert caught.value.request_id
    assert total(server) == before


@pytest.mark.parametrize("stream", [False, True])
def test_sdk_raises_the_message_of_a_failed_job_and_does_not_retry(
    client: openai.OpenAI, server: LiveServer, stream: bool
) -> None:
    """A bad image URL is found out after the submit; in a stream it is an event."""
    before = total(server)
    url = "http://127.0.0.1:9/cat.png"

    def run() -> None:
        list(client.images.edit(image=IMAGE, prompt="a", stream=stream, extra_body={"url": url}))

    with pytest.raises(openai.APIError, match=f"{re.escape(url)} is refused") as error:
        run()
    assert isinstance(error.value, openai.BadRequestError) is not stream
    assert (error.value.code, error.value.param) == ("fetch_failed", "image")
    assert error.value.type == "invalid_request_error"
    assert total(server) == before + 1


def test_sdk_does_not_retry_a_job_that_failed_in_the_server(
    start_server: Callable[..., LiveServer],
) -> None:
    """408, 409, 429 and 5xx would be sent three times; `x-should-retry` says no."""
    server = start_server(JOB_TIMEOUT_S=0.2)
    client = openai.OpenAI(api_key="any", base_url=f"{server.url}/v1")
    with client, pytest.raises(openai.InternalServerError, match="longer than the all") as error:
        client.images.edit(image=IMAGE, prompt="a", size="1024x1024", extra_body=LONG)

    assert (error.value.type, error.value.code) == ("server_error", "timeout")
    assert error.value.request_id == jobs(server)[0]["id"]
    assert total(server) == 1


def test_sdk_raises_authentication_error_without_a_valid_key(keyed_server: LiveServer) -> None:
    url = f"{keyed_server.url}/v1"
    with openai.OpenAI(api_key="wrong", base_url=url) as client:
        with pytest.raises(openai.AuthenticationError, match="API key is required") as caught:
            client.images.edit(image=IMAGE, prompt="a")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    assert caught.value.type == "authentication_error"
    assert caught.value.code == "invalid_api_key"
    assert caught.value.request_id
    with openai.OpenAI(api_key="right", base_url=url) as client:
        assert client.images.edit(image=IMAGE, prompt="a").data


async def test_sdk_that_hangs_up_cancels_its_job(server: LiveServer) -> None:
    """At its time limit it does, and tries again: else one slow edit became three."""
    before = total(server)
    arguments: dict[str, Any] = {"prompt": "a", "size": "1024x1024", "extra_body": LONG}
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        call = asyncio.create_task(client.images.edit(image=IMAGE, **arguments))
        await asyncio.to_thread(until, lambda: total(server) == before + 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    newest = jobs(server)[0]["id"]
    await asyncio.to_thread(until, lambda: ended(server, newest))
    assert job(server, newest)["status"] == "canceled"


def test_sdk_that_leaves_its_stream_cancels_its_job(
    client: openai.OpenAI, server: LiveServer
) -> None:
    extra = {"num_inference_steps": 100}
    stream = client.images.edit(
        image=IMAGE, prompt="a", size="1024x1024", stream=True, partial_images=3, extra_body=extra
    )
    stream.close()
    newest = stream.response.headers["x-request-id"]
    until(lambda: job(server, newest)["status"] == "canceled")


def test_sdk_that_leaves_its_stream_cancels_its_job_while_it_waits(
    client: openai.OpenAI, server: LiveServer
) -> None:
    """No byte is due then, so that no send can fail."""
    arguments: dict[str, Any] = {"image": IMAGE, "prompt": "a", "extra_body": LONG}
    first = client.images.edit(**arguments, size="1024x1024", stream=True)
    second = client.images.edit(**arguments, size="1024x1024", stream=True)
    ids = [stream.response.headers["x-request-id"] for stream in (first, second)]
    second.close()
    until(lambda: job(server, ids[1])["status"] == "canceled")
    assert job(server, ids[0])["status"] in ("queued", "running")
    first.close()
    until(lambda: job(server, ids[0])["status"] == "canceled")


def test_sdk_lists_the_loaded_model(client: openai.OpenAI) -> None:
    """Clients fill a menu with it."""
    found = list(client.models.list())
    assert [(model.id, model.object) for model in found] == [("tiny", "model")]
    assert client.models.retrieve("tiny") == found[0]
    with pytest.raises(openai.NotFoundError, match="tiny is loaded") as caught:
        client.models.retrieve("owner/other")
    assert caught.value.code == "model_not_found"


# ── the rules: images ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
@pytest.mark.parametrize("count", [1, 2])
def test_files_come_under_every_name(server: LiveServer, name: str, count: int) -> None:
    """One file as `image`, a list as `image[]`; some clients repeat bare `image`."""
    images = [encoded(gradient(shift=40 * index)) for index in range(count)]
    answer = post(server, ("prompt", "a"), ("seed", 1), *((name, found) for found in images))
    reference = post(
        server, ("prompt", "a"), ("seed", 1), *(("image[]", found) for found in images)
    )
    assert pixels(answer) == pixels(reference)


def test_files_and_urls_are_merged_in_order_of_appearance(server: LiveServer) -> None:
    first, second, third = (encoded(gradient(shift=60 * index)) for index in range(3))
    data_uri = f"data:image/webp;base64,{as_base64(second)}"

    def run(*parts: tuple[str, Any]) -> bytes:
        return pixels(post(server, ("prompt", "a"), ("seed", 1), *parts))

    merged = run(("image", first), ("url", data_uri), ("image[]", third))
    assert merged == run(("image[]", first), ("image[]", second), ("image[]", third))
    assert merged != run(("url[]", data_uri), ("image", first), ("image", third))


def test_http_url_is_fetched(fetching_server: LiveServer, file_host: tuple[str, Path]) -> None:
    url, folder = file_host
    (folder / "cat.png").write_bytes(IMAGE)
    server = fetching_server
    parts = [("prompt", "a"), ("seed", 1)]
    fetched = post(server, *parts, ("url", f"{url}/cat.png"))
    assert pixels(fetched) == pixels(post(server, *parts, ("image", IMAGE)))

    missing = post(server, *parts, ("url[]", f"{url}/dog.png"))
    assert missing.status_code == 400
    assert error_of(missing)["code"] == "fetch_failed"


def test_data_uri_may_be_as_large_as_an_image(server: LiveServer) -> None:
    """A text part is usually limited to 1 MiB."""
    noise = PIL.Image.effect_noise((1500, 1500), 90).convert("RGB")
    large = f"data:image/png;base64,{as_base64(encoded(noise))}"
    assert len(large) > 2 * 2**20
    assert post(server, ("prompt", "a"), ("url", large)).status_code == 200


@pytest.mark.parametrize(
    "images",
    [
        {"image": "URI"},
        {"image": ["URI"]},
        {"images": [{"image_url": "URI"}]},
        {"url": "URI"},
    ],
)
def test_json_is_taken_as_well(server: LiveServer, images: dict[str, Any]) -> None:
    text = json.dumps({"prompt": "make it blue", "seed": 1, "n": "1", **images})
    body = text.replace("URI", f"data:image/png;base64,{as_base64(IMAGE)}")
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + EDITS, content=body, headers=headers)
    assert pixels(answer) == pixels(edit(server))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 5000, b'{"prompt":"\\ud800"}'])
def test_body_that_is_no_object_is_400(server: LiveServer, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + EDITS, content=content, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "body"


def test_body_of_another_type_is_400(server: LiveServer) -> None:
    answer = server.http.post(server.url + EDITS, content=b"prompt=x")
    assert answer.status_code == 400
    assert "multipart/form-data" in error_of(answer)["message"]


# ── the rules: fields ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "  "}, "prompt", "must not be empty"),
        ({"n": 7}, "n", "less than or equal to 6, got '7'"),
        ({"n": 0}, "n", "greater than or equal to 1, got '0'"),
        ({"n": "x"}, "n", "valid integer"),
        ({"size": "big"}, "size", "width*height in pixels"),
        ({"size": "1537x256"}, "size", "256–1536 pixels, got '1537x256'"),
        ({"response_format": "png"}, "response_format", "'b64_json' or 'url', got 'png'"),
        ({"output_format": "gif"}, "output_format", "'jpeg', 'png' or 'webp', got 'gif'"),
        ({"output_compression": 101}, "output_compression", "or equal to 100"),
        ({"output_compression": -1}, "output_compression", "or equal to 0"),
        ({"partial_images": 4}, "partial_images", "or equal to 3"),
        ({"seed": 2**31}, "seed", "or equal to 2147483647"),
        ({"num_inference_steps": 1}, "num_inference_steps", "or equal to 2"),
        ({"true_cfg_scale": 21}, "true_cfg_scale", "or equal to 20"),
        ({"guidance_scale": "nan"}, "guidance_scale", "finite number"),
        ({"stream": "maybe"}, "stream", "valid boolean"),
        ({"mask": "x"}, "mask", "mask is not supported: the model has no mask input"),
        ({"mask": IMAGE}, "mask", "mask is not supported: the model has no mask input"),
        ({"loras": "{"}, "loras", "must be a JSON list"),
        ({"loras": '["a"]'}, "loras/0", "got 'a'"),
        ({"loras": '[{"path":"a","scale":5}]'}, "loras/0/scale", "or equal to 4, got 5"),
        ({"loras": '[{"path":"nothing"}]'}, "loras/0/path", "There is no LoRA 'nothing'"),
        ({"loras[][path]": "nothing"}, "loras/0/path", "There is no LoRA 'nothing'"),
        ({"loras[0][path]": "nothing"}, "loras/0/path", "There is no LoRA 'nothing'"),
        ({"loras[][scale]": "1"}, "loras", "a scale for every path or for none"),
        ({"image": b"no image"}, "image", "not an image that can be read"),
        ({"url": "../cat.png"}, "image", "must be an http(s) URL, a data URI or base64"),
    ],
)
def test_bad_value_is_400_that_names_it_and_queues_nothing(
    server: LiveServer, fields: dict[str, Any], param: str, sentence: str
) -> None:
    before = total(server)
    answer = edit(server, **fields)
    error = error_of(answer)
    assert answer.status_code == 400
    assert sentence in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert total(server) == before


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_and_image_are_required(server: LiveServer, stream: bool) -> None:
    """In a stream too: what can be known at once is no event."""
    extra = ("stream", str(stream).lower())
    nameless = error_of(post(server, ("image", IMAGE), extra))
    imageless = error_of(post(server, ("prompt", "a"), extra))
    fourth = error_of(post(server, ("prompt", "a"), *[("image[]", IMAGE)] * 4, extra))
    assert (nameless["param"], nameless["code"]) == ("prompt", "missing_required_parameter")
    assert imageless["param"] == fourth["param"] == "image"
    assert "1 to 3 entries, got 4" in fourth["message"]


def test_model_and_unknown_fields_never_fail_a_request(server: LiveServer) -> None:
    ignored = {
        **{"model": "dall-e-2", "quality": "high", "background": "transparent", "user": "u"},
        **{"input_fidelity": "high", "moderation": "low", "foo": "[1", "bar": b"x", "mask": ""},
    }
    answer = edit(server, **ignored)
    assert answer.status_code == 200
    assert job(server, answer.headers["x-request-id"])["model"] == "dall-e-2"
    assert answer.headers["x-qwen-edit-model"] == "tiny"


def test_blank_fields_count_as_absent(server: LiveServer) -> None:
    blank = dict.fromkeys(("n", "size", "response_format", "output_format", "loras", "url"), "")
    assert pixels(edit(server, **blank)) == pixels(edit(server))


@pytest.mark.parametrize(
    ("size", "expected"), [("320x256", (320, 256)), ("301*257", (301, 257)), ("auto", (384, 256))]
)
def test_size_is_met_to_the_pixel(server: LiveServer, size: str, expected: tuple[int, int]) -> None:
    answer = edit(server, size=size)
    assert image_of(answer).size == expected
    assert answer.json()["size"] == "{}x{}".format(*expected)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_output_format_is_honoured(server: LiveServer, image_format: str) -> None:
    answer = edit(server, output_format=image_format)
    assert image_of(answer).format == image_format.upper()
    assert answer.json()["output_format"] == image_format


@pytest.mark.parametrize("image_format", ["jpeg", "webp"])
def test_output_compression_is_the_quality(server: LiveServer, image_format: str) -> None:
    sizes = [
        len(edit(server, output_format=image_format, output_compression=quality).content)
        for quality in (0, 50, 100)
    ]
    assert sizes == sorted(set(sizes))


def test_seed_steps_and_scale_change_the_image(server: LiveServer) -> None:
    base = pixels(edit(server))
    assert pixels(edit(server)) == base
    guided = pixels(edit(server, true_cfg_scale=1.5))
    assert pixels(edit(server, guidance_scale=1.5)) == guided
    others = [
        guided,
        *(
            pixels(edit(server, **change))
            for change in (
                {"seed": 2},
                {"seed": -1},
                {"num_inference_steps": 5},
                {"negative_prompt": "a dark and blurred image"},
            )
        ),
    ]
    assert len({base, *others}) == 6


@pytest.mark.parametrize(
    "parts",
    [
        [("loras", '[{"path": "PATH", "scale": 1.5}]')],
        [("loras", '{"path": "PATH", "scale": 1.5}')],
        [("loras[][path]", "PATH"), ("loras[][scale]", "1.5")],
        [("loras[0][path]", "PATH"), ("loras[0][scale]", "1.5")],
    ],
)
def test_loras_are_read_in_every_encoding(
    server: LiveServer, styles: tuple[str, str], parts: list[tuple[str, str]]
) -> None:
    fields = {name: value.replace("PATH", styles[0]) for name, value in parts}
    plain = edit(server, loras=json.dumps([{"path": styles[0], "scale": 1.5}]))
    assert pixels(edit(server, **fields)) == pixels(plain) != pixels(edit(server))


def test_lora_that_fails_in_the_worker_is_400(real_server: LiveServer) -> None:
    server = real_server
    pairs = random_pairs({"proj_out": (64, 64)}, ["proj_out"])
    pairs["proj_out"].down[0, 0] = float("nan")
    write_lora(server.weights_dir / "loras" / "nan-openai.safetensors", pairs)
    answer = edit(server, loras='[{"path": "nan-openai"}]')
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "lora_invalid"


# ── the rules: answers ────────────────────────────────────────────────────────────────────────


def test_answer_has_the_fields_of_the_contract(server: LiveServer) -> None:
    """LibreChat reads only `data[0].b64_json`, which is there when nothing is said."""
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


def test_answer_follows_the_proxy_in_front(server: LiveServer) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    fields = (("prompt", "a"), ("image", IMAGE), ("response_format", "url"))
    answer = post(server, *fields, **headers)
    assert answer.json()["data"][0]["url"].startswith("https://edit.example.org/outputs/")


def test_tokens_are_those_the_model_made() -> None:
    """A side is rounded up to the 16 pixels of a token."""
    outputs = tuple(Output("a.png", "image/png", 1, *size, 1) for size in ((257, 256), (16, 16)))
    assert usage(outputs).output_tokens == 17 * 16 + 1


@pytest.mark.parametrize("is_extended", [True, False])
async def test_revised_prompt_is_there_when_the_model_rewrote_it(is_extended: bool) -> None:
    ended = make_job(
        contract="openai",
        status=JobStatus.SUCCEEDED,
        outputs=(Output("a.png", "image/png", 1, 256, 256, 1),),
        used_prompt="a red ball",
        is_prompt_extended=is_extended,
    )
    # an answer with URLs reads no files
    body = await images_response(cast(EditService, None), ended, "http://host")
    expected = {"url": "http://host/outputs/a.png"}
    if is_extended:
        expected["revised_prompt"] = "a red ball"
    assert json.loads(body)["data"] == [expected]


@pytest.mark.parametrize("text", ["true", "false"])
def test_prompt_extend_lets_the_model_rewrite_the_prompt(text: str) -> None:
    """This server's own field, which OpenAI's clients send as an extra one."""
    request = EditRequest.model_validate({"prompt": "a", "prompt_extend": text})
    assert request.params(shows_previews=True).extend_prompt is (text == "true")


def test_stream_has_named_events_with_every_field(server: LiveServer) -> None:
    fields = {"stream": "true", "partial_images": 3, "num_inference_steps": 12, "n": 2}
    answer = edit(server, **fields, output_format="jpeg", size="320x256")
    found = events(answer)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"]
    partial = [data for name, data in found if name == "image_edit.partial_image"]
    last = [data for name, data in found if name == "image_edit.completed"]
    assert [data["type"] for _, data in found] == [name for name, _ in found]
    assert [data["partial_image_index"] for data in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 3
    assert len(last) == 2
    common = {"b64_json", "created_at", "size", "quality", "background", "output_format", "type"}
    assert set(partial[0]) == common | {"partial_image_index"}
    assert set(last[0]) == common | {"usage"}
    assert [data["usage"]["output_tokens"] for data in last] == [320, 320]
    for data in (*partial, *last):
        image = image_of({"data": [data]})
        assert (image.format, image.size, data["size"]) == ("JPEG", (320, 256), "320x256")
    assert image_of({"data": [last[0]]}).tobytes() != image_of({"data": [last[1]]}).tobytes()


def test_partial_images_without_stream_are_not_made(server: LiveServer) -> None:
    assert pixels(edit(server, partial_images=3)) == pixels(edit(server))


def test_stream_gives_the_image_of_the_plain_answer(server: LiveServer) -> None:
    streamed = events(edit(server, stream="true", partial_images=2, response_format="url"))[-1][1]
    assert image_of({"data": [streamed]}).tobytes() == pixels(edit(server))


def test_canceled_job_ends_its_answer_and_its_stream(server: LiveServer) -> None:
    fields = {"prompt": "a", "stream": "true", "size": "1024x1024", **LONG}
    files = [("image", ("a.png", IMAGE)), *((k, (None, str(v))) for k, v in fields.items())]
    with server.http.stream("POST", server.url + EDITS, files=files) as answer:
        server.http.delete(f"{server.url}/v1/edits/{answer.headers['x-request-id']}")
        answer.read()
        name, data = events(answer)[-1]
    assert (name, data["type"]) == ("error", "error")
    assert data["error"]["code"] == "canceled"


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
def test_failed_job_is_400_for_its_input_and_500_else(code: str, status: int) -> None:
    error = JobError(code, "images/1: broken")
    failed = make_job(contract="openai", status=JobStatus.FAILED, error=error)
    problem = problem_of_job(failed)
    assert (problem.status, problem.field) == (status, "images/1")


@pytest.mark.parametrize("stream", ["false", "true"])
def test_blocked_output_is_moderation_blocked_and_not_shown(
    start_server: Callable[..., LiveServer], tmp_path: Path, stream: str
) -> None:
    """No preview either: nobody has looked at it."""
    checker = build_classifier(tmp_path / "checker", ["nsfw", "porn"])
    server = start_server(worker="real", SAFETY_CHECKER=checker, SAFETY_MODE="block")
    answer = edit(server, stream=stream, partial_images=3, num_inference_steps=12)
    if stream == "true":
        [(name, data)] = events(answer)
        error = data["error"]
    else:
        name, error = "error", error_of(answer)
        assert answer.status_code == 400
    assert name == "error"
    assert (error["code"], error["type"]) == ("moderation_blocked", "invalid_request_error")


def test_full_queue_is_429_with_retry_after(start_server: Callable[..., LiveServer]) -> None:
    """The one error that a retry can mend."""
    server = start_server(MAX_WAITING_JOBS=1)
    with contextlib.ExitStack() as stack:
        for place in range(2):
            stack.callback(_submit_and_leave(server).close)
            until(lambda place=place: total(server) == place + 1)  # type: ignore[misc]
            until(lambda: any(found["status"] == "running" for found in jobs(server)))
        answer = edit(server)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-should-retry" not in answer.headers
    assert error_of(answer)["type"] == "server_error"


def test_body_over_the_limit_is_413_in_this_shape(server: LiveServer) -> None:
    answer = edit(server, image=b"x" * (91 * 2**20))
    assert answer.status_code == 413
    assert error_of(answer)["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/images/variations", "/v1/models/"])
def test_what_is_not_there_answers_in_this_shape(server: LiveServer, path: str) -> None:
    answer = post(server, ("prompt", "a"), path=path)
    assert answer.status_code in (404, 405)
    assert error_of(answer)["type"] == "invalid_request_error"


def test_server_that_stops_ends_an_open_request(start_server: Callable[..., LiveServer]) -> None:
    """The job is canceled: its client will send it again, and nobody could fetch its outputs."""
    server = start_server()
    with _submit_and_leave(server) as connection:
        until(lambda: total(server) == 1)
        server.stop()
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"x-should-retry" not in answer
    server.start(wait_ready=False)
    assert [found["status"] for found in jobs(server)] == ["canceled"]


# ── what the tests share ──────────────────────────────────────────────────────────────────────


def _submit_and_leave(server: LiveServer) -> socket.socket:
    """A request for a long edit on a connection of its own, its answer not waited for."""
    fields = {"prompt": "a", "size": "1024x1024", **LONG}
    request = httpx2.Request(
        "POST",
        server.url + EDITS,
        files=[("image", ("a.png", IMAGE)), *((k, (None, str(v))) for k, v in fields.items())],
    )
    return server.send(request)


@pytest.fixture
def styles(server: LiveServer) -> tuple[str, str]:
    """Two LoRAs that change the image."""
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    for seed, name in enumerate(("openai-a", "openai-b")):
        path = server.weights_dir / "loras" / f"{name}.safetensors"
        if not path.exists():
            write_lora(path, random_pairs(linears, list(linears), seed=seed))
    return "openai-a", "openai-b"


@pytest.fixture(scope="module")
def keyed_server(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed-openai")
    with live_server(tiny_model, folder, API_KEYS="right") as running:
        yield running
