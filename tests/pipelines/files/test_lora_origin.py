"""The model that a LoRA was made for: what metadata says, and what names alone do not tell."""

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.lora_format.origin import check_origin, family_of

LINEARS = QWEN_IMAGE_EDIT_PLUS.linears({})
SHARED = [f"transformer_blocks.{block}.attn.to_q" for block in range(19)]
OWN = [*SHARED, "transformer_blocks.40.attn.to_q"]


def warnings(metadata: dict[str, str], layers: list[str]) -> tuple[str, ...]:
    return check_origin(metadata, layers, LINEARS, "style.safetensors")


@pytest.mark.parametrize(
    ("key", "value", "family"),
    [
        ("modelspec.architecture", "flux-1-dev/lora", "Flux"),
        ("ss_base_model_version", "wan2.1", "Wan"),
        ("ss_base_model_version", "sdxl_base_v1-0", "Stable Diffusion XL"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "Stable Diffusion XL"),
        ("base_model", "black-forest-labs/FLUX.1-Krea-dev", "Flux"),
        ("base_model", "Wan-AI/Wan2.2-T2V-A14B", "Wan"),
        ("modelspec.architecture", "hunyuan-video/lora", "HunyuanVideo"),
        ("ss_base_model_version", "zimage:turbo", "Z-Image"),
        ("base_model", "Qwen/Qwen-Image-2.1", "Qwen-Image-2.1"),
    ],
)
def test_metadata_of_another_family_refuses_the_file_by_its_name(
    key: str, value: str, family: str
) -> None:
    with pytest.raises(LoraInvalid) as caught:
        warnings({key: value}, OWN)

    assert str(caught.value).startswith(
        f"style.safetensors is made for {family}, by its own metadata ({key}: {value})."
    )


@pytest.mark.parametrize(
    "value",
    [
        "qwen-image/lora",
        "qwen_image_edit_plus",
        "Qwen/Qwen-Image-Edit-2509",
        "qwen-image-edit-2511",
    ],
)
def test_metadata_of_this_family_is_enough(value: str) -> None:
    assert warnings({"ss_base_model_version": value}, SHARED) == ()


def test_one_key_that_names_this_family_goes_before_the_others() -> None:
    """Trainers keep what an older file of theirs said under another key."""
    said = {"ss_base_model_version": "flux1", "base_model": "Qwen/Qwen-Image-Edit"}

    assert warnings(said, OWN) == ()


@pytest.mark.parametrize("value", ["sd_1.5", "sd_v1", "SD 1.5", "unknown"])
def test_what_trainers_write_when_told_nothing_only_warns(value: str) -> None:
    [warning] = warnings({"ss_base_model_version": value}, OWN)

    assert warning.startswith(f"style.safetensors names {value} as its model")


def test_name_that_people_chose_says_nothing() -> None:
    assert warnings({"base_model": "my wandering merge"}, OWN) == ()


def test_file_with_layers_of_flux_and_without_metadata_is_said() -> None:
    [warning] = warnings({}, SHARED)

    assert warning == (
        "style.safetensors changes only attention layers that Flux and HunyuanVideo have too, and "
        "does not say for which model it was made."
    )


@pytest.mark.parametrize(
    "more", ["transformer_blocks.19.attn.to_q", "transformer_blocks.0.img_mod.1"]
)
def test_one_layer_that_flux_has_not_is_enough(more: str) -> None:
    assert warnings({}, [*SHARED, more]) == ()


def test_narrower_model_has_no_layers_of_flux() -> None:
    linears = QWEN_IMAGE_EDIT_PLUS.linears({"num_attention_heads": 2})

    assert check_origin({}, SHARED, linears, "style.safetensors") == ()


def test_unknown_family_is_none() -> None:
    assert family_of("something/else") is None
