"""One edit through each contract with a real worker; other contract tests use a fake one."""

import io
from typing import Any

import fal_client
import fal_client.client
import httpx2
import openai
import PIL.Image
import pytest
import wavespeed

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer

IMAGE = encoded(gradient())


def size_of(url: str) -> tuple[int, int]:
    image = PIL.Image.open(io.BytesIO(httpx2.get(url).content))
    return image.size


def test_native_contract_edits_an_image(real_server: LiveServer, body: dict[str, Any]) -> None:
    url = f"{real_server.url}/v1/edits?wait=240"

    job = real_server.http.post(url, json=body | {"size": "272*256", "n": 2}).json()

    assert job["status"] == "succeeded"
    assert [size_of(output["url"]) for output in job["outputs"]] == [(272, 256)] * 2
    assert job["seconds"]["denoise"] > 0


def test_wavespeed_sdk_edits_an_image(real_server: LiveServer, body: dict[str, Any]) -> None:
    client = wavespeed.Client(api_key="any", base_url=real_server.url)

    result = client.run("wavespeed-ai/qwen-image/edit-plus", body | {"size": "256*288"})

    assert [size_of(url) for url in result["outputs"]] == [(256, 288)]


def test_fal_client_edits_an_image(
    real_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{real_server.url}/v1/queue/")
    client = fal_client.SyncClient(key="any")
    arguments = {
        "prompt": "make it blue",
        "image_urls": [fal_client.encode(IMAGE, "image/png")],
        "image_size": "square",
    }
    try:
        result = client.subscribe("fal-ai/qwen-image-edit-plus", arguments, interval=0.05)
    finally:
        client._client.close()

    assert [size_of(image["url"]) for image in result["images"]] == [(512, 512)]


def test_openai_sdk_streams_previews_and_the_output(real_server: LiveServer) -> None:
    with openai.OpenAI(api_key="any", base_url=f"{real_server.url}/v1") as client:
        stream = client.images.edit(
            image=IMAGE,
            prompt="make it blue",
            stream=True,
            partial_images=2,
            extra_body={"num_inference_steps": 12},
        )
        found = [(event.type, event.b64_json) for event in stream]

    assert [kind for kind, _ in found[:-1]] == ["image_edit.partial_image"] * (len(found) - 1)
    assert found[-1][0] == "image_edit.completed"
    assert len({image for _, image in found}) == len(found) > 1
