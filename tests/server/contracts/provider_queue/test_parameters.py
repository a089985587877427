"""Parameters of the provider and of fal."""

import base64
import re
from typing import Any

import httpx2
import PIL.Image
import PIL.ImageChops
import pytest

from server.contracts.provider_queue.schemas import EditRequest, FalEditRequest
from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.contracts.provider_queue.client import (
    FAL,
    PLAIN,
    RUN,
    cancel,
    native,
    opened,
    post,
    result,
    submit,
)


def plain(**fields: Any) -> EditRequest:
    return EditRequest.model_validate({"prompt": "a", "images": ["x"]} | fields)


def fal(**fields: Any) -> FalEditRequest:
    return FalEditRequest.model_validate({"prompt": "a", "image_urls": ["x"]} | fields)


def test_absent_fields_get_the_providers_defaults() -> None:
    params = plain().params()
    assert params.extend_prompt
    assert params.max_prompt_tokens == 800
    assert (params.bounds.min_side, params.bounds.max_side) == (512, 2048)
    assert (params.size, params.num_outputs, params.negative_prompt) == (None, 1, None)
    assert (params.num_inference_steps, params.true_cfg_scale, params.loras) == (None, None, ())
    assert plain().watermark is False


def test_seed_is_kept_when_given_and_random_when_absent() -> None:
    assert len({plain().params().seed for _ in range(5)}) > 1
    for seed in (0, 2147483647):
        assert plain(seed=seed).params().seed == seed


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("1024*768", (1024, 768)),
        ("512*2048", (512, 2048)),
        ("519*520", (512, 528)),
        ("1000*1001", (1008, 1008)),
        ("2047*2041", (2048, 2048)),
        ("600x700", (608, 704)),
    ],
)
def test_size_is_rounded_to_the_nearest_multiple_of_16(
    size: str, expected: tuple[int, int]
) -> None:
    assert plain(size=size).params().size == expected
    width, height = (int(side) for side in re.split(r"\D", size))
    assert fal(image_size={"width": width, "height": height}).params().size == expected


def test_long_prompt_is_truncated_not_rejected() -> None:
    params = plain(prompt="x" * 20_000, negative_prompt="y" * 501).params()
    assert len(params.prompt) == 10_000
    assert params.negative_prompt == "y" * 500
    assert plain(negative_prompt="y" * 500).params().negative_prompt == "y" * 500


def test_null_and_empty_fields_count_as_absent_and_unknown_ones_are_ignored() -> None:
    blank = dict.fromkeys(("size", "seed", "n", "negative_prompt", "watermark"), None)
    assert plain(**blank, foo=[1], model="x").params().num_outputs == 1
    assert plain(negative_prompt="", size="").params().size is None


def test_n_outputs_are_returned_in_order(server: LiveServer, body: dict[str, Any]) -> None:
    found = result(server, PLAIN, body | {"n": 2, "size": "520*700"})
    assert [image["width"] for image in found["outputs"]] == [528, 528]
    assert [image["height"] for image in found["images"]] == [704, 704]
    assert found["has_nsfw_concepts"] == [False, False]
    assert [image["url"] for image in found["images"]] == [
        output["url"] for output in found["outputs"]
    ]
    seeds = [output["seed"] for output in native(server, found["request_id"])["outputs"]]
    assert seeds == [1, 2]


def test_size_follows_the_last_image_when_absent(
    server: LiveServer, body: dict[str, Any], image_base64: str
) -> None:
    tall = as_base64(encoded(gradient(width=64, height=128)))
    found = result(server, PLAIN, body | {"images": [image_base64, tall], "size": None})
    [output] = found["outputs"]
    assert (output["width"], output["height"]) == (512, 1024)


def test_watermark_is_drawn_in_the_lower_right_corner(
    server: LiveServer, body: dict[str, Any], done: dict[str, Any]
) -> None:
    def pixels(found: dict[str, Any]) -> PIL.Image.Image:
        return opened(httpx2.get(found["outputs"][0]["url"]).content)

    marked = result(server, PLAIN, body | {"watermark": True})
    without = server.http.get(done["response_url"]).json()
    changed = PIL.ImageChops.difference(pixels(marked), pixels(without)).getbbox()

    assert changed is not None
    assert changed[0] > 256
    assert changed[1] > 400


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_every_listed_input_format_is_accepted(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any], image_format: str
) -> None:
    data = as_base64(encoded(gradient(), image_format))
    mime = f"data:image/{image_format.lower()};base64,"
    for image in (data, mime + data):
        answer = submit(server, PLAIN, body | {"images": [image]})
        assert cancel(server, answer).status_code == 202


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("square_hd", (1024, 1024)),
        ("square", (512, 512)),
        ("portrait_4_3", (768, 1024)),
        ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)),
        ("landscape_16_9", (1024, 576)),
    ],
)
def test_named_sizes_match_fals(name: str, expected: tuple[int, int]) -> None:
    assert fal(image_size=name).params().size == expected


def test_fal_defaults_leave_prompt_steps_and_cfg_to_the_model() -> None:
    params = fal().params()
    assert not params.extend_prompt
    assert (params.num_inference_steps, params.true_cfg_scale, params.size) == (None, None, None)
    assert fal().output_format == "png"
    assert fal(prompt_extend=True).params().extend_prompt


def test_fal_names_override_the_providers() -> None:
    params = fal(num_images=3, n=2, image_size="square", size="1024*1024").params()
    assert (params.num_outputs, params.size) == (3, (512, 512))
    assert fal(n=2, size="1024*1024").params().num_outputs == 2
    assert fal(images=["y"]).references() == ["x"]


def test_fal_engine_parameters_reach_the_engine() -> None:
    loras = [{"path": "a", "scale": 0.5}, {"path": "b"}]
    params = fal(
        num_inference_steps=12, guidance_scale=3.5, negative_prompt="y" * 600, loras=loras
    ).params()
    assert (params.num_inference_steps, params.true_cfg_scale) == (12, 3.5)
    assert params.negative_prompt == "y" * 600
    assert [(lora.path, lora.scale) for lora in params.loras] == [("a", 0.5), ("b", 1.0)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_urls": ["a", "b"]}, ["a", "b"]),
        ({"image_urls": None, "image_url": "a"}, ["a"]),
        ({"image_urls": ["a"], "image_url": "b"}, ["a"]),
        ({"image_urls": None, "images": ["a"]}, ["a"]),
    ],
)
def test_images_are_read_under_each_of_their_names(
    fields: dict[str, Any], expected: list[str]
) -> None:
    assert fal(**fields).references() == expected


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_sync_mode_returns_data_uris_in_the_requested_format(
    server: LiveServer, body: dict[str, Any], image_base64: str, image_format: str
) -> None:
    found = post(
        server,
        RUN,
        {
            **{"prompt": "a", "image_url": f"data:image/png;base64,{image_base64}"},
            **{"image_size": "square", "num_images": 1, "sync_mode": True},
            **{"output_format": image_format, "enable_safety_checker": False},
            **{"acceleration": "regular", "guidance_scale": 2, "num_inference_steps": 2},
        },
    ).json()
    [image] = found["images"]
    head, _, data = image["url"].partition(",")
    decoded = base64.b64decode(data, validate=True)

    assert head == f"data:image/{image_format};base64"
    assert image["content_type"] == f"image/{image_format}"
    assert (opened(decoded).format, opened(decoded).size) == (image_format.upper(), (512, 512))
    assert len(decoded) == image["file_size"]
    assert found["outputs"][0]["url"] == image["url"]
    assert native(server, found["request_id"])["steps"] == 2


@pytest.mark.parametrize("path", [FAL, f"{FAL}-lora", PLAIN])
def test_loras_are_applied_on_every_endpoint(
    server: LiveServer, body: dict[str, Any], done: dict[str, Any], path: str
) -> None:
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    write_lora(
        server.weights_dir / "loras" / "queue.safetensors", random_pairs(linears, list(linears))
    )

    def pixels(found: dict[str, Any]) -> bytes:
        return opened(httpx2.get(found["outputs"][0]["url"]).content).tobytes()

    changed = result(server, path, body | {"loras": [{"path": "queue", "scale": 2}]})
    assert pixels(changed) != pixels(server.http.get(done["response_url"]).json())
