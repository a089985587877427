"""WaveSpeed's published SDK, unmodified."""

import base64
import io
import re
from typing import Any

import httpx2
import PIL.Image
import pytest
import wavespeed

from tests.server.contracts.wavespeed.client import MODEL


def test_sdk_runs_an_edit_and_downloads_its_output(
    client: wavespeed.Client, body: dict[str, Any]
) -> None:
    outputs = client.run(MODEL, body, poll_interval=0.05)["outputs"]

    # Rules 8 and 9: no key, the extension and the media type of an image.
    answer = httpx2.get(outputs[0])
    assert outputs[0].endswith(".jpeg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert PIL.Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_sdk_runs_an_edit_in_sync_mode(client: wavespeed.Client, body: dict[str, Any]) -> None:
    outputs = client.run(MODEL, body, enable_sync_mode=True)["outputs"]
    assert httpx2.get(outputs[0]).status_code == 200


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("image_format", ["jpeg", "png", "webp"])
def test_sdk_gets_bare_base64(
    client: wavespeed.Client, body: dict[str, Any], image_format: str, sync: bool
) -> None:
    body |= {"enable_base64_output": True, "output_format": image_format}
    outputs = client.run(MODEL, body, enable_sync_mode=sync, poll_interval=0.05)["outputs"]

    assert re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", outputs[0])
    image = PIL.Image.open(io.BytesIO(base64.b64decode(outputs[0], validate=True)))
    assert image.format == image_format.upper()


def test_sdk_raises_the_message_of_a_failed_task(
    client: wavespeed.Client, body: dict[str, Any]
) -> None:
    body["images"] = ["http://127.0.0.1:9/cat.png"]
    with pytest.raises(RuntimeError, match=r"images/0: http://127\.0\.0\.1:9/cat\.png is refused"):
        client.run(MODEL, body, poll_interval=0.05)


def test_sdk_raises_the_message_of_a_rejected_request(
    client: wavespeed.Client, body: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match=r"HTTP 400: .*256–1536 pixels, got '255\*256'"):
        client.run(MODEL, body | {"size": "255*256"})
