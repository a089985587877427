"""Files that are no LoRA, and LoRAs of other families, each named in the refusal."""

import struct
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.lora_format.file import plan_lora
from tests.lora_files import write_raw

LINEARS = QWEN_IMAGE_EDIT_PLUS.linears({})


def refusal(folder: Path, *keys: str) -> str:
    path = folder / "file.safetensors"
    entries = {
        key: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * index, 4 * index + 4]}
        for index, key in enumerate(keys)
    }
    write_raw(path, entries, struct.pack(f"<{len(keys)}f", *range(len(keys))))
    with pytest.raises(LoraInvalid) as caught:
        plan_lora(path, LINEARS)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("transformer_blocks.0.attn.to_q.weight", "a whole checkpoint"),
        ("model.diffusion_model.transformer_blocks.0.img_mlp.net.2.weight", "a whole checkpoint"),
        ("model.layers.3.self_attn.q_proj.weight", "a whole checkpoint"),
        ("controlnet_blocks.0.weight", "a ControlNet"),
        ("control_blocks.1.before_proj.weight", "a ControlNet"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "a VAE"),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", "a VAE"),
        ("emb_params", "an embedding (textual inversion)"),
        ("transformer_blocks.0.attn.to_qkv.qweight", "a model quantised by SVDQuant (nunchaku)"),
    ],
)
def test_file_that_is_no_lora_is_named(tmp_path: Path, key: str, kind: str) -> None:
    assert refusal(tmp_path, key) == f"file.safetensors is {kind}, not a LoRA ({key})."


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        ("blocks.0.attn1.to_q", "Wan"),
        ("diffusion_model.blocks.0.self_attn.q", "Wan"),
        ("double_stream_blocks.0.block.attn1.to_q", "HiDream"),
        ("txtfusion.blocks.0.attn.q", "Krea"),
        ("single_transformer_blocks.0.attn.to_q", "Flux or HunyuanVideo"),
    ],
)
def test_lora_of_another_family_is_named(tmp_path: Path, layer: str, family: str) -> None:
    keys = [f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"]

    assert refusal(tmp_path, *keys).endswith(f"It looks like one for {family}.")


def test_refusal_does_not_contradict_itself(tmp_path: Path) -> None:
    """It is for Qwen-Image by its names, and names no layer that this model has."""
    keys = [f"wrapper.transformer_blocks.0.attn.add_q_proj.lora_{half}.weight" for half in "AB"]

    message = refusal(tmp_path, *keys)

    assert "no key names a layer of it" in message
    assert "looks like" not in message
