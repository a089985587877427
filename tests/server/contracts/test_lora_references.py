"""LoRA references and names that no LoRA can have: a 4xx that names the field."""

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora

BAD_REFERENCES = {
    "http://[": "must be a valid URL",
    "https://huggingface.co/owner/repo/blob/main/../x.safetensors": "must have no . or .. in it",
    "https://civitai.com/models/1": "must name a version of a Civitai model",
    "two\nlines": "must have no control characters",
    "nul\0byte": "must have no control characters",
    "https://example.org/two\nlines.safetensors": "must have no control characters",
}
JSON_ROUTES = (
    "/v1/edits",
    "/api/v3/wavespeed-ai/qwen-image/edit-plus-lora",
    "/v1/queue/qwen_image_edit_plus",
    "/fal-ai/qwen-image-edit-plus-lora",
    "/run/fal-ai/qwen-image-edit-plus-lora",
)


def assert_names_the_field(answer: httpx2.Response, message: str) -> None:
    assert answer.status_code in (400, 422), answer.text
    assert message in answer.text
    assert "loras" in answer.text
    assert "path" in answer.text


@pytest.mark.parametrize("reference", BAD_REFERENCES)
@pytest.mark.parametrize("route", JSON_ROUTES)
def test_bad_lora_reference_is_refused_by_name(
    server: LiveServer, route: str, reference: str
) -> None:
    image = as_base64(encoded(gradient()))
    body: dict[str, Any] = {"prompt": "a", "loras": [{"path": reference}]}
    images = {"image_urls": [f"data:image/png;base64,{image}"]} if "fal-ai" in route else {}
    body |= images or {"images": [image]}

    answer = server.http.post(server.url + route, json=body)

    assert_names_the_field(answer, BAD_REFERENCES[reference])


@pytest.mark.parametrize("reference", BAD_REFERENCES)
def test_bad_lora_reference_is_refused_by_name_on_the_form_of_openai(
    server: LiveServer, reference: str
) -> None:
    answer = server.http.post(
        f"{server.url}/v1/images/edits",
        data={"prompt": "a", "loras[0][path]": reference},
        files={"image": ("a.png", encoded(gradient()))},
    )

    assert_names_the_field(answer, BAD_REFERENCES[reference])


@pytest.mark.parametrize("route", JSON_ROUTES)
def test_half_a_surrogate_pair_as_lora_is_refused(server: LiveServer, route: str) -> None:
    """Sent raw: no client can encode it."""
    answer = server.http.post(
        server.url + route,
        content=b'{"prompt": "a", "images": ["a"], "image_urls": ["a"], '
        rb'"loras": [{"path": "half\ud800"}]}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code in (400, 422), answer.text


@pytest.mark.parametrize("replace", ["false", "true"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.safetensors/b.safetensors", "must have no folder that starts with a dot or ends in"),
        ("a" * 300 + ".safetensors", "must have at most 255 bytes between slashes"),
        ("a/" * 2500 + "b.safetensors", "must have at most 8 folders"),
        ("folder.safetensors", "name is that of a folder"),
        ("two\nlines.safetensors", "must have no control characters"),
        ("nul\0byte.safetensors", "must have no control characters"),
    ],
)
def test_upload_with_a_bad_name_is_refused_by_name(
    server: LiveServer, name: str, message: str, replace: str
) -> None:
    (server.weights_dir / "loras" / "folder.safetensors").mkdir(exist_ok=True)

    answer = server.http.post(
        f"{server.url}/v1/loras",
        files={"file": ("a.safetensors", b"{}")},
        data={"name": name, "replace": replace},
    )

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["field"] == "name"
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "config",
    [
        "[" * 100_000,
        '{"lora_alpha": 1' + "0" * 400 + "}",
        '{"rank_pattern": {"(?i)proj": 4}}',
        r'{"rank_pattern": {"(\\w|\\w)*!": 4}}',
    ],
    ids=["nested", "huge alpha", "flags", "exponential"],
)
def test_upload_with_a_hostile_configuration_is_refused(
    server: LiveServer, tmp_path: Path, config: str
) -> None:
    pairs = random_pairs({"proj_out": (64, 64)}, ["proj_out"])
    metadata = {"lora_adapter_metadata": config}
    data = write_lora(tmp_path / "a.safetensors", pairs, metadata=metadata).read_bytes()

    answer = server.http.post(f"{server.url}/v1/loras", files={"file": ("a.safetensors", data)})

    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "lora_invalid"
    assert "the metadata of a.safetensors cannot be understood" in answer.text


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    "name", ["http:%2F%2F%5B", "a%0Ab", "a%00b", "a%ED%A0%80b", "..%2Fa", "a" * 300, "a/" * 2500]
)
def test_bad_name_in_a_path_is_not_an_error_of_the_server(
    server: LiveServer, method: str, name: str
) -> None:
    answer = server.http.request(method, f"{server.url}/v1/loras/{name}")

    assert answer.status_code in (400, 404), answer.text
