"""A changed layer computes with its changed weight and bias, whatever the mix of kinds."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.engine.lora import LoraEngine
from tests.lora_files import Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import CPU, MODULES, base_weight
from tests.pipelines.engine.lora.corpus_dora import DORAS
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS, Writer, loha
from tests.pipelines.engine.lora.corpus_lokr import LOKRS
from tests.pipelines.engine.lora.corpus_oft import OFTS

MIXES: dict[str, tuple[Writer, ...]] = {
    "DoRA of rows, LoRA, LoKr": (DORAS["DoRA of LyCORIS"], LAYOUTS["fp32"], LOKRS["LoKr of kohya"]),
    "two DoRAs of columns": (DORAS["DoRA of OneTrainer"], DORAS["DoRA of OneTrainer"]),
    "DoRAs of columns and of rows": (DORAS["DoRA of PEFT"], DORAS["DoRA of OneTrainer"]),
    "DoRA of rows, difference, LoHa": (
        DORAS["DoRA of ai-toolkit"],
        LAYOUTS["whole differences"],
        partial(loha, 20, 20, 0.01, True),
    ),
    "two LoKrs and a LoHa": (
        LOKRS["LoKr of LyCORIS"],
        LOKRS["LoKr of ai-toolkit"],
        LAYOUTS["LoHa"],
    ),
    "OFTs of rows and LoRA": (
        OFTS["OFT of LyCORIS"],
        LAYOUTS["fp32"],
        OFTS["OFT of LyCORIS, rescaled"],
    ),
    "OFT of columns and DoRA of columns": (
        OFTS["OFT of OneTrainer"],
        DORAS["DoRA of OneTrainer"],
    ),
    "OFTs of both sides": (OFTS["OFT of LyCORIS, bounded"], OFTS["OFT of OneTrainer, shared"]),
    "three DoRAs": (
        DORAS["DoRA of LyCORIS"],
        DORAS["DoRA of OneTrainer"],
        DORAS["DoRA on LoKr, out 1"],
    ),
}
SCALES = (0.5, -1.2, 0.3)


class Layers(nn.Module):
    """The layers of a model, each with its `base_weight`."""

    def __init__(self, linears: Linears, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        for name in MODULES:
            parent: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in parent._modules:
                    parent.add_module(part, nn.Module())
                parent = parent.get_submodule(part)
            out_features, in_features = linears[name]
            layer = nn.Linear(in_features, out_features, dtype=dtype)
            layer.weight.data = base_weight(name, linears[name]).to(dtype)
            parent.add_module(last, layer)


def written(
    writers: tuple[Writer, ...], folder: Path, linears: Linears, size: float | None = None
) -> tuple[list[tuple[Path, float]], dict[str, torch.Tensor]]:
    """A stack of files, and the sum of their changes at their scales.

    `size` is that of each change relative to the base weight, instead of a fixed scale.
    """
    stack: list[tuple[Path, float]] = []
    total: dict[str, torch.Tensor] = {}
    for index, (write, scale) in enumerate(zip(writers, SCALES, strict=False)):
        path = folder / f"{index}.safetensors"
        changes = write(path, linears)
        if size is not None:
            norms = [(base_weight(n, linears[n]).norm(), d.norm()) for n, d in changes.items()]
            scale = size * min(float(base / delta) for base, delta in norms)
        for name, delta in changes.items():
            total[name] = total.get(name, 0) + scale * delta
        stack.append((path, scale))
    return stack, total


def outputs(
    layers: Layers, linears: Linears, total: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """By layer: what it computes, and what a layer with the changed weight does in fp64."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name in MODULES:
        layer = layers.get_submodule(name)
        x = torch.randn(2, 40, linears[name][1], generator=generator).to(layer.weight.dtype)
        weight = layer.weight.double() + total.get(name, 0)
        found[name] = layer(x), x.double() @ weight.T + layer.bias.double()
    return found


@pytest.mark.parametrize("mix", MIXES)
@torch.no_grad()
def test_mix_of_kinds_is_the_sum_of_their_changes(
    linears: Linears, tmp_path: Path, mix: str
) -> None:
    layers = Layers(linears)
    engine = LoraEngine(layers, CPU, torch.float32)
    stack, total = written(MIXES[mix], tmp_path, linears)
    before = {name: found for name, (found, _) in outputs(layers, linears, {}).items()}

    for turn in (stack, stack[::-1]):
        with engine.active(turn):
            for name, (found, expected) in outputs(layers, linears, total).items():
                assert (found - expected).norm() <= 1e-5 * expected.norm(), name
                assert not torch.equal(found, before[name])

    after = {name: found for name, (found, _) in outputs(layers, linears, {}).items()}
    assert all(torch.equal(before[name], after[name]) for name in MODULES)
    assert all(layers.get_submodule(name).scratch is None for name in MODULES)


@pytest.mark.parametrize("mix", [*MIXES, "LoRA", "LoKr", "DoRA of rows", "DoRA of columns", "LoHa"])
@torch.no_grad()
def test_layer_in_bf16_is_no_worse_than_a_merged_weight(
    linears: Linears, tmp_path: Path, mix: str
) -> None:
    alone = {
        "LoRA": LAYOUTS["fp32"],
        "LoKr": LOKRS["LoKr of kohya"],
        "DoRA of rows": DORAS["DoRA of PEFT"],
        "DoRA of columns": DORAS["DoRA of OneTrainer"],
        "LoHa": partial(loha, 20, 20, 0.01, True),
    }
    writers = MIXES.get(mix) or (alone[mix],)
    layers = Layers(linears, torch.bfloat16)
    engine = LoraEngine(layers, CPU, torch.bfloat16)
    # a change that is larger than the weight is rounded twice, in both of its matrices
    stack, total = written(writers, tmp_path, linears, size=0.1)
    merged = {name: delta + layers.get_submodule(name).weight for name, delta in total.items()}
    ours = theirs = 0.0

    with engine.active(stack):
        results = outputs(layers, linears, total)
    for name, weight in merged.items():
        found, expected = results[name]
        layer = layers.get_submodule(name)
        before = layer.weight.data
        layer.weight.data = weight.to(torch.bfloat16)
        simple = outputs(layers, linears, {})[name][0]
        layer.weight.data = before
        ours += float((found - expected).norm() / expected.norm())
        theirs += float((simple - expected).norm() / expected.norm())
    # one more rounding: of the input times the gains, or of the output before it is rotated
    limit = 1.3 if mix.endswith("of columns") else 1.1 if "OFTs of rows" in mix else 1.05
    assert ours <= limit * theirs


@pytest.mark.parametrize("mix", MIXES)
def test_change_holds_no_views_into_a_file(linears: Linears, tmp_path: Path, mix: str) -> None:
    stack, _ = written(MIXES[mix], tmp_path, linears)
    engine = LoraEngine(Layers(linears), CPU, torch.float32)

    tensors = [t for c in engine.cache.adapter(stack).values() for t in c.tensors]

    assert [t.shape for t in tensors if t.untyped_storage().nbytes() > t.nbytes] == []


@torch.no_grad()
def test_biases_are_added_at_their_scales(linears: Linears, tmp_path: Path) -> None:
    """`diff_b` has no alpha; the bias of PEFT's `lora_bias` is scaled like its LoRA."""
    name, other = MODULES[:2]
    pairs = random_pairs(linears, [name, other], rank=4, alpha=2.0)
    path = write_lora(tmp_path / "a.safetensors", pairs)
    shift, bias, alone = (torch.randn(linears[n][0]) for n in (name, other, MODULES[2]))
    tensors = {
        **load_file(path),
        f"transformer.{name}.diff_b": shift,
        f"transformer.{other}.lora_B.bias": bias,
        f"transformer.{MODULES[2]}.diff_b": alone,
    }
    save_file(tensors, path)
    layers = Layers(linears)
    engine = LoraEngine(layers, CPU, torch.float32)
    total = {n: 3.0 * pair.delta for n, pair in pairs.items()}
    added = {name: 3.0 * shift, other: 1.5 * bias, MODULES[2]: 3.0 * alone}

    with engine.active([(path, 3.0)]):
        for n, (found, expected) in outputs(layers, linears, total).items():
            expected = expected + added.get(n, 0)
            assert (found - expected).norm() <= 1e-5 * expected.norm(), n
