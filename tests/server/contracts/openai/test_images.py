"""Images as files, URLs, data URIs and JSON."""

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer
from tests.server.contracts.openai.client import EDITS, IMAGE, edit, error_of, pixels, post


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]"])
@pytest.mark.parametrize("count", [1, 2])
def test_files_are_read_under_every_name(server: LiveServer, name: str, count: int) -> None:
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


def test_http_url_is_downloaded(fetching_server: LiveServer, file_host: tuple[str, Path]) -> None:
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
    """Starlette limits a text part to 1 MiB by default."""
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
def test_json_body_is_accepted(server: LiveServer, images: dict[str, Any]) -> None:
    text = json.dumps({"prompt": "make it blue", "seed": 1, "n": "1", **images})
    body = text.replace("URI", f"data:image/png;base64,{as_base64(IMAGE)}")
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + EDITS, content=body, headers=headers)
    assert pixels(answer) == pixels(edit(server))


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 5000, b'{"prompt":"\\ud800"}'])
def test_body_returns_400_when_it_is_no_object(server: LiveServer, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + EDITS, content=content, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "body"


def test_body_returns_400_when_its_type_is_unsupported(server: LiveServer) -> None:
    answer = server.http.post(server.url + EDITS, content=b"prompt=x")
    assert answer.status_code == 400
    assert "multipart/form-data" in error_of(answer)["message"]
