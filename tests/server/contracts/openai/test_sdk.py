"""OpenAI's published SDK, unmodified."""

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import PIL.Image
import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer, until
from tests.server.contracts.openai.client import (
    IMAGE,
    LONG,
    SEEDED,
    ended,
    job,
    jobs,
    total,
)


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
    """File names and media types are wrong here: the bytes decide."""
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


def test_sdk_sends_several_images_and_each_affects_the_output(client: openai.OpenAI) -> None:
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
    # Open WebUI downloads it with its own key.
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


def test_sdk_raises_the_message_and_the_field_of_a_rejected_request(
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
    """A bad image URL is detected after the submit; in a stream, the error is an event."""
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
    """The SDK retries 408, 409, 429 and 5xx twice, unless `x-should-retry` is false."""
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
    with openai.OpenAI(api_key="right-key-for-tests", base_url=url) as client:
        assert client.images.edit(image=IMAGE, prompt="a").data


async def test_sdk_disconnect_cancels_its_job(server: LiveServer) -> None:
    """The SDK disconnects on timeout and retries: one slow edit would become three."""
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


def test_sdk_closing_its_stream_cancels_its_job(client: openai.OpenAI, server: LiveServer) -> None:
    extra = {"num_inference_steps": 100}
    stream = client.images.edit(
        image=IMAGE, prompt="a", size="1024x1024", stream=True, partial_images=3, extra_body=extra
    )
    stream.close()
    newest = stream.response.headers["x-request-id"]
    until(lambda: job(server, newest)["status"] == "canceled")


def test_sdk_closing_its_stream_cancels_its_job_while_queued(
    client: openai.OpenAI, server: LiveServer
) -> None:
    """No bytes are sent meanwhile, so no failed write reveals the disconnect."""
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
    """Clients fill a menu from this list."""
    found = list(client.models.list())
    assert [(model.id, model.object) for model in found] == [("tiny", "model")]
    assert client.models.retrieve("tiny") == found[0]
    with pytest.raises(openai.NotFoundError, match="tiny is loaded") as caught:
        client.models.retrieve("owner/other")
    assert caught.value.code == "model_not_found"
