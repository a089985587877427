"""The fields of a request."""

import json
from typing import Any

import pytest

from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.contracts.openai.client import (
    IMAGE,
    edit,
    error_of,
    image_of,
    job,
    pixels,
    post,
    total,
)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
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
def test_bad_value_returns_400_with_its_name_and_queues_nothing(
    server: LiveServer, fields: dict[str, Any], param: str, message: str
) -> None:
    before = total(server)
    answer = edit(server, **fields)
    error = error_of(answer)
    assert answer.status_code == 400
    assert message in error["message"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert total(server) == before


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_and_image_are_required(server: LiveServer, stream: bool) -> None:
    """Errors known at once are a plain response even when a stream is requested."""
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
def test_output_has_exactly_the_requested_size(
    server: LiveServer, size: str, expected: tuple[int, int]
) -> None:
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


def test_lora_that_fails_in_the_worker_returns_400(real_server: LiveServer) -> None:
    server = real_server
    pairs = random_pairs({"proj_out": (64, 64)}, ["proj_out"])
    pairs["proj_out"].down[0, 0] = float("nan")
    write_lora(server.weights_dir / "loras" / "nan-openai.safetensors", pairs)
    answer = edit(server, loras='[{"path": "nan-openai"}]')
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "lora_invalid"
