"""Norms of the attention and of the text are changed like other weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.api.errors import LoraInvalid
from pipelines.api.load_options import ForwardName, Offload
from pipelines.engine.lora import read_lora
from pipelines.engine.pipeline import EditPipeline
from tests.lora_files import Linears, lora_tensors, random_pairs
from tests.pipelines.engine.lora.conftest import MODULES, edit

NORMS = ("transformer_blocks.0.attn.norm_q", "transformer_blocks.0.attn.norm_added_k", "txt_norm")
# Prefix, end of the key, whether it is a difference.
LAYOUTS = {
    "ComfyUI": ("diffusion_model.", ".diff", True),
    "LyCORIS": ("lycoris_", ".w_norm", True),
    "ComfyUI, new": ("diffusion_model.", ".set_weight", False),
    "PEFT": ("base_model.model.", ".weight", False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norms_give_the_image_of_merged_weights(
    pipeline: EditPipeline, base: np.ndarray, tiny_model: Path, tmp_path: Path, layout: str
) -> None:
    prefix, end, is_difference = LAYOUTS[layout]
    merged = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    offloaded = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, offload=Offload.GROUP
    )
    tensors = lora_tensors(random_pairs(pipeline.linears, MODULES[1:3]), prefix="transformer.")
    for name in NORMS:
        weight = merged._pipe.transformer.get_submodule(name).weight.data
        delta = torch.linspace(-0.8, 0.8, len(weight))
        stem = prefix + (name.replace(".", "_") if prefix == "lycoris_" else name)
        tensors[stem + end] = delta if is_difference else weight + delta
        weight += 0.7 * delta
    for name, pair in random_pairs(pipeline.linears, MODULES[1:3]).items():
        layer = merged._pipe.transformer.get_submodule(name)
        layer.weight.data = (layer.weight.double() + 0.7 * pair.delta).float()
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)

    changed = edit(pipeline, (path, 0.7))

    assert np.abs(changed - edit(merged)).max() <= 1
    assert not np.array_equal(changed, base)
    assert np.array_equal(changed, edit(offloaded, (path, 0.7)))
    assert np.array_equal(base, edit(offloaded))


def only(key: str, *shape: int) -> Callable[[Path, Linears], None]:
    def write(path: Path, linears: Linears) -> None:
        pairs = lora_tensors(random_pairs(linears, MODULES[:1]))
        save_file({**pairs, key: torch.ones(*shape)}, path)

    return write


FAULTS = {
    "matrix": (only(f"{NORMS[0]}.diff", 8, 8), f"{NORMS[0]} is a norm, the file has 8×8"),
    "width": (only(f"{NORMS[0]}.w_norm", 63), f"{NORMS[0]} is a norm, the file has 63"),
    "text": (only("txt_norm.diff", 32), "txt_norm is a norm, the file has 32"),
    "pair": (only(f"{NORMS[0]}.lora_A.weight", 4, 64), "1 of 3 tensors without a place"),
    "weight of a linear layer": (only(f"{MODULES[1]}.weight", 64, 64), "without a place"),
    "unknown norm": (only("transformer_blocks.0.img_norm1.diff", 64), "without a place"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_misfit_is_refused(linears: Linears, tmp_path: Path, fault: str) -> None:
    write, message = FAULTS[fault]
    path = tmp_path / "a.safetensors"
    write(path, linears)

    with pytest.raises(LoraInvalid, match=message):
        read_lora(path, linears)


def test_width_that_only_the_model_knows_is_refused_before_the_edit(
    pipeline: EditPipeline, base: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    only(f"{NORMS[0]}.diff", 4)(path, pipeline.linears)

    with pytest.raises(LoraInvalid, match=rf"{NORMS[0]} is \d+, the file has 4"):
        edit(pipeline, (path, 1.0))
