"""Writes LoRA files in the layouts that trainers write, over random matrices."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Pair:
    """One layer's matrices: down (rank, in) and up (out, rank), and its alpha."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None = None

    @property
    def delta(self) -> torch.Tensor:
        """What the layer's weight changes by at scale 1, in fp64."""
        rank = self.down.shape[0]
        multiplier = 1.0 if self.alpha is None else self.alpha / rank
        return multiplier * self.up.double() @ self.down.double()


def random_pairs(
    linears: Mapping[str, tuple[int, int]],
    modules: Sequence[str],
    *,
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Pair]:
    """Matrices for some of a model's layers, large enough to change the picture."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for module in modules:
        out_features, in_features = linears[module]
        down = torch.randn(rank, in_features, generator=generator) * in_features**-0.5
        up = torch.randn(out_features, rank, generator=generator) * 0.5
        pairs[module] = Pair(down.to(dtype), up.to(dtype), alpha)
    return pairs


def write_lora(
    path: Path,
    pairs: Mapping[str, Pair],
    *,
    prefix: str = "transformer.",
    flat: bool = False,
    down: str = ".lora_A.weight",
    up: str = ".lora_B.weight",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a LoRA. `flat` joins a module's name with underscores, as kohya does."""
    tensors = {}
    for module, pair in pairs.items():
        stem = prefix + (module.replace(".", "_") if flat else module)
        tensors[stem + down] = pair.down.contiguous()
        tensors[stem + up] = pair.up.contiguous()
        if pair.alpha is not None and metadata is None:
            tensors[stem + ".alpha"] = torch.tensor(pair.alpha)
    save_file(tensors, path, dict(metadata) if metadata else None)
    return path


def adapter_metadata(rank: int, alpha: float) -> dict[str, str]:
    """The metadata that diffusers writes beside a PEFT adapter."""
    config = {"transformer.r": rank, "transformer.lora_alpha": alpha}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
