"""The bounds of an edit's parameters, and the message for a value beyond each."""

import math
from typing import Any

import pytest

from pipelines.api.errors import InvalidParameter
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds


def params(**changes: Any) -> EditParams:
    return EditParams(**{"prompt": "make it blue", "seed": 1, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "x"),
        ("prompt", "x" * 10_000),
        ("negative_prompt", ""),
        ("negative_prompt", "x" * 10_000),
        ("seed", 0),
        ("seed", 2**31 - 1),
        ("num_outputs", 1),
        ("num_outputs", 6),
        ("size", (256, 1536)),
        ("num_inference_steps", 2),
        ("num_inference_steps", 100),
        ("true_cfg_scale", 0.0),
        ("true_cfg_scale", 20.0),
        ("loras", ()),
        ("loras", (LoraRef("a"), LoraRef("a"), LoraRef("b"))),
    ],
)
def test_params_take_a_value_at_its_bound(name: str, value: object) -> None:
    assert getattr(params(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prompt", "", "prompt must not be empty"),
        ("prompt", " \n\t", "prompt must not be empty"),
        ("prompt", "x" * 10_001, "prompt must have at most 10000 characters, got 10001"),
        (
            "negative_prompt",
            "x" * 10_001,
            "negative_prompt must have at most 10000 characters, got 10001",
        ),
        ("seed", -1, "seed must be between 0 and 2147483647, got -1"),
        ("seed", 2**31, "seed must be between 0 and 2147483647, got 2147483648"),
        ("num_outputs", 0, "num_outputs must be between 1 and 6, got 0"),
        ("num_outputs", 7, "num_outputs must be between 1 and 6, got 7"),
        ("size", (255, 512), "size must have sides of 256–1536 pixels, got 255*512"),
        ("size", (512, 1537), "size must have sides of 256–1536 pixels, got 512*1537"),
        ("num_inference_steps", 1, "num_inference_steps must be between 2 and 100, got 1"),
        ("num_inference_steps", 101, "num_inference_steps must be between 2 and 100, got 101"),
        ("true_cfg_scale", -0.1, "true_cfg_scale must be between 0.0 and 20.0, got -0.1"),
        ("true_cfg_scale", 20.1, "true_cfg_scale must be between 0.0 and 20.0, got 20.1"),
        ("true_cfg_scale", math.nan, "true_cfg_scale must be between 0.0 and 20.0, got nan"),
        ("loras", (LoraRef("a"),) * 4, "loras must have at most 3 entries, got 4"),
    ],
)
def test_params_name_the_field_when_a_value_is_beyond_its_bound(
    name: str, value: object, message: str
) -> None:
    with pytest.raises(InvalidParameter) as caught:
        params(**{name: value})

    assert (caught.value.field, str(caught.value)) == (name, message)


def test_size_is_checked_against_the_bounds_of_the_contract() -> None:
    with pytest.raises(InvalidParameter, match="size must have sides of 512–2048 pixels"):
        params(size=(256, 256), bounds=SizeBounds(512, 2048))


@pytest.mark.parametrize("scale", [0.0, 0.5, 4.0])
def test_lora_takes_a_scale_within_its_range(scale: float) -> None:
    assert LoraRef("style.safetensors", scale).scale == scale


@pytest.mark.parametrize("scale", [-0.1, 4.1, math.nan, math.inf, -math.inf])
def test_lora_names_its_scale_when_it_is_outside(scale: float) -> None:
    with pytest.raises(InvalidParameter) as caught:
        LoraRef("style.safetensors", scale)

    assert str(caught.value) == f"loras.scale must be between 0.0 and 4.0, got {scale}"


@pytest.mark.parametrize("path", ["", "  "])
def test_lora_names_its_path_when_it_is_empty(path: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^loras\.path must not be empty$"):
        LoraRef(path)
