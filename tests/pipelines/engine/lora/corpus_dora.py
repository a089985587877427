"""DoRA files in the encodings of their trainers; each writer returns the changes in fp64."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.lora_files import PREFIXES, SUFFIXES, Linears, lora_tensors, random_pairs
from tests.pipelines.engine.lora.conftest import MODULES, base_weight
from tests.pipelines.engine.lora.corpus_lokr import LokrLayout, lokr


@dataclass(frozen=True)
class DoraLayout:
    """What a trainer writes. `shape` is "out", "out 1" or "1 in"."""

    prefix: str
    suffix: str
    magnitude: str
    shape: str
    alpha: float | None = None
    dtype: torch.dtype = torch.float32


def magnitude_of(weight: torch.Tensor, shape: str) -> torch.Tensor:
    """Magnitudes that differ from the weight's norms, as after training."""
    norms = weight.norm(dim=0 if shape == "1 in" else 1)
    factors = 1 + 0.3 * torch.linspace(-1, 1, len(norms))
    sizes = {"out": (-1,), "out 1": (-1, 1), "1 in": (1, -1)}
    return (norms * factors).view(sizes[shape])


def decomposed(
    weight: torch.Tensor, delta: torch.Tensor, magnitude: torch.Tensor, shape: str
) -> torch.Tensor:
    """DoRA: W' = magnitude · (W + D) / |W + D|, minus W, in fp64."""
    changed = weight.double() + delta
    norm = changed.norm(dim=0 if shape == "1 in" else 1, keepdim=True)
    return magnitude.double().view_as(norm) * changed / norm - weight.double()


def dora(layout: DoraLayout, path: Path, linears: Linears) -> dict[str, torch.Tensor]:
    start, flat = PREFIXES[layout.prefix]
    down, up = SUFFIXES[layout.suffix]
    pairs = random_pairs(linears, MODULES, alpha=layout.alpha, dtype=layout.dtype)
    tensors = lora_tensors(pairs, prefix=start, flat=flat, down=down, up=up)
    expected = {}
    for name in MODULES:
        weight = base_weight(name, linears[name])
        magnitude = magnitude_of(weight, layout.shape).to(layout.dtype)
        stem = start + (name.replace(".", "_") if flat else name)
        tensors[f"{stem}.{layout.magnitude}"] = magnitude
        expected[name] = decomposed(weight, pairs[name].delta, magnitude, layout.shape)
    save_file(tensors, path)
    return expected


def decomposed_lokr(shape: str, path: Path, linears: Linears) -> dict[str, torch.Tensor]:
    """LyCORIS with `weight_decompose` on another kind."""
    changes = lokr(LokrLayout("none", 8, w2_rank=3, alpha=0.5), path, linears)
    tensors, expected = load_file(path), {}
    for name, delta in changes.items():
        weight = base_weight(name, linears[name])
        tensors[f"{name}.dora_scale"] = magnitude = magnitude_of(weight, shape)
        expected[name] = decomposed(weight, delta, magnitude, shape)
    save_file(tensors, path)
    return expected


DORA_FILES = {
    "of LyCORIS": DoraLayout("lycoris", "down and up", "dora_scale", "out 1", 2.0),
    "of OneTrainer": DoraLayout("kohya", "down and up", "dora_scale", "1 in", 3.0),
    "of OneTrainer for diffusers": DoraLayout(
        "diffusers", "A and B", "lora_magnitude_vector.weight", "out"
    ),
    "of OneTrainer for diffusers, columns": DoraLayout(
        "diffusers", "A and B", "dora_scale", "1 in", dtype=torch.bfloat16
    ),
    "of PEFT": DoraLayout("peft", "A and B", "lora_magnitude_vector", "out"),
    "of ai-toolkit": DoraLayout("ai-toolkit", "A and B", "magnitude", "out", dtype=torch.bfloat16),
}
DORAS = {f"DoRA {name}": partial(dora, layout) for name, layout in DORA_FILES.items()} | {
    f"DoRA on LoKr, {shape}": partial(decomposed_lokr, shape) for shape in ("out 1", "1 in")
}
