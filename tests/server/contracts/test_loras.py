"""`/v1/loras` and `/v1/lora-thumbnails` of a live server: what people need to choose a LoRA."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora

LINEARS = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
PNG, JPEG = encoded(gradient()), encoded(gradient(), "JPEG")


@pytest.fixture
def folder(server: LiveServer) -> Path:
    path = server.weights_dir / "loras" / "facts"
    path.mkdir(exist_ok=True)
    return path


def make_lora(path: Path, **metadata: str) -> Path:
    named = {key.replace("modelspec_", "modelspec."): text for key, text in metadata.items()}
    return write_lora(path, random_pairs(LINEARS, list(LINEARS), rank=8), metadata=named or None)


def item(server: LiveServer, name: str) -> dict[str, Any]:
    items = server.http.get(f"{server.url}/v1/loras").json()["items"]
    [found] = [each for each in items if each["name"] == name]
    return dict(found)


def test_list_and_view_have_the_facts_of_a_lora(server: LiveServer, folder: Path) -> None:
    uri = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    path = make_lora(
        folder / "oil & more-lightning-4steps.safetensors",
        modelspec_title="Oil",
        modelspec_usage_hint="strength 0.8",
        modelspec_thumbnail=uri,
        trained_words='["oil, thick", "impasto"]',
    )
    name = f"facts/{path.name}"

    listed = item(server, name)
    view = server.http.get(f"{server.url}/v1/loras/{name}").json()

    thumbnail = (
        f"{server.url}/v1/lora-thumbnails/facts/oil%20%26%20more-lightning-4steps.safetensors"
    )
    expected = {
        "name": name,
        "size_bytes": path.stat().st_size,
        "fits": True,
        "problem": None,
        "title": "Oil",
        "kind": "LoRA",
        "ranks": {"8": 2},
        "base_model": None,
        "trigger_words": ["oil, thick", "impasto"],
        "usage_hint": "strength 0.8",
        "suggested_scale": 0.8,
        "thumbnail": thumbnail,
    }
    assert {key: listed[key] for key in expected} == expected
    assert {key: view[key] for key in expected} == expected
    assert listed["profile"] == view["profile"]
    assert listed["profile"]["sampling"]["steps"] == 4
    assert "modelspec.thumbnail" not in view["metadata"]
    assert view["metadata"]["modelspec.title"] == "Oil"
    image = server.http.get(thumbnail)
    assert (image.status_code, image.content) == (200, JPEG)


def test_thumbnail_is_served_as_an_image_and_nothing_else(server: LiveServer, folder: Path) -> None:
    path = make_lora(folder / "shown.safetensors")
    path.with_suffix(".preview.png").write_bytes(PNG)

    image = server.http.get(f"{server.url}/v1/lora-thumbnails/facts/shown")

    assert image.content == PNG
    assert image.headers["content-type"] == "image/png"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert image.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert item(server, "facts/shown.safetensors")["thumbnail"] is not None


@pytest.mark.parametrize("data", [b"<script>alert(1)</script>", b"%PDF-1.7", b""])
def test_other_file_named_like_a_thumbnail_is_not_served(
    server: LiveServer, folder: Path, data: bytes
) -> None:
    path = make_lora(folder / "hostile.safetensors")
    path.with_suffix(".png").write_bytes(data)

    answer = server.http.get(f"{server.url}/v1/lora-thumbnails/facts/hostile")

    assert answer.status_code == 404
    assert "has no thumbnail" in answer.json()["error"]["message"]
    assert item(server, "facts/hostile.safetensors")["thumbnail"] is None


@pytest.mark.parametrize("name", ["..%2Fsecret", "nothing", "owner/repo", "http:%2F%2F%5B"])
def test_thumbnail_of_a_bad_name_is_refused(server: LiveServer, name: str) -> None:
    answer = server.http.get(f"{server.url}/v1/lora-thumbnails/{name}")

    assert answer.status_code in (400, 404), answer.text


def test_file_that_cannot_be_read_is_listed_with_its_problem(
    server: LiveServer, folder: Path
) -> None:
    (folder / "page.safetensors").write_text("<html>")

    listed = item(server, "facts/page.safetensors")

    assert not listed["fits"]
    assert "looks like a web page" in listed["problem"]
    assert (listed["kind"], listed["ranks"], listed["trigger_words"]) == (None, {}, [])


def test_deleted_lora_takes_the_files_beside_it_along(server: LiveServer, folder: Path) -> None:
    path = make_lora(folder / "gone.safetensors")
    beside = [".civitai.info", ".json", ".png", ".preview.png"]
    for suffix in beside:
        path.with_suffix(suffix).write_text(json.dumps({"activation text": "foo"}))
    other = make_lora(folder / "gone2.safetensors")
    other.with_suffix(".png").write_bytes(PNG)

    deleted = server.http.delete(f"{server.url}/v1/loras/facts/gone")

    assert deleted.status_code == 204
    assert not list(folder.glob("gone.*"))
    assert other.with_suffix(".png").exists()


def test_thumbnail_needs_a_key_where_keys_are_set(start_server: Any, tmp_path: Path) -> None:
    server = start_server(API_KEYS="a-key-of-sixteen-chars")
    path = make_lora(server.weights_dir / "loras" / "shown.safetensors")
    path.with_suffix(".png").write_bytes(PNG)
    url = f"{server.url}/v1/lora-thumbnails/shown"

    assert server.http.get(url).status_code == 401
    allowed = server.http.get(url, headers={"Authorization": "Bearer a-key-of-sixteen-chars"})
    assert allowed.content == PNG
