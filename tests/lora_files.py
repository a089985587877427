"""LoRA files with random matrices in the layouts of popular trainers."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

Linears = Mapping[str, tuple[int, int]]

# Prefixes of trainers, and whether the layer's name is joined with underscores.
PREFIXES = {
    "none": ("", False),
    "diffusers": ("transformer.", False),
    "ai-toolkit": ("diffusion_model.", False),
    "comfy": ("model.diffusion_model.", False),
    "peft": ("base_model.model.", False),
    "peft wrapped": ("base_model.model.transformer.", False),
    "diffsynth": ("pipe.dit.", False),
    "kohya": ("lora_unet_", True),
    "onetrainer": ("lora_transformer_", True),
    "onetrainer dotted": ("lora_transformer_", False),
    "onetrainer all dotted": ("lora_transformer.", False),
    "lycoris": ("lycoris_", True),
    "peft of comfy": ("base_model.model.diffusion_model.", False),
    "peft twice": ("base_model.model.base_model.model.", False),
    "peft in diffusers": ("transformer.base_model.model.", False),
    "peft in diffsynth": ("pipe.dit.base_model.model.", False),
    "unet": ("unet.", False),
    "model": ("model.", False),
    "dit": ("dit.", False),
    "compiled": ("_orig_mod.", False),
    "parallel and compiled": ("module._orig_mod.", False),
    "kohya dotted": ("lora_unet.", False),
}
# Suffixes of the two matrices.
SUFFIXES = {
    "A and B": (".lora_A.weight", ".lora_B.weight"),
    "default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "default_0": (".lora_A.default_0.weight", ".lora_B.default_0.weight"),
    "default twice": (".lora_A.default_0.default.weight", ".lora_B.default_0.default.weight"),
    "down and up": (".lora_down.weight", ".lora_up.weight"),
    "dotted down and up": (".lora.down.weight", ".lora.up.weight"),
    "bare A and B": (".lora_A", ".lora_B"),
    "processor": ("_lora.down.weight", "_lora.up.weight"),
    "linear layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "default down and up": (".lora_down.default.weight", ".lora_up.default.weight"),
    "dotted A and B": (".lora.A.weight", ".lora.B.weight"),
    "dotted default": (".lora.down.default.weight", ".lora.up.default.weight"),
}


@dataclass(frozen=True)
class Pair:
    """One layer's matrices: down (rank, in) and up (out, rank), and its alpha."""

    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None = None

    @property
    def delta(self) -> torch.Tensor:
        """Return the change of the layer's weight at scale 1, in fp64."""
        rank = self.down.shape[0]
        multiplier = 1.0 if self.alpha is None else self.alpha / rank
        return multiplier * self.up.double() @ self.down.double()


def random_pairs(
    linears: Linears,
    modules: Sequence[str],
    *,
    rank: int = 4,
    alpha: float | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Pair]:
    """Return matrices for some layers of a model, large enough to change an image."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for module in modules:
        out_features, in_features = linears[module]
        down = torch.randn(rank, in_features, generator=generator) * in_features**-0.5
        up = torch.randn(out_features, rank, generator=generator) * 0.5
        pairs[module] = Pair(down.to(dtype), up.to(dtype), alpha)
    return pairs


def lora_tensors(
    pairs: Mapping[str, Pair],
    *,
    prefix: str = "transformer.",
    flat: bool = False,
    down: str = ".lora_A.weight",
    up: str = ".lora_B.weight",
) -> dict[str, torch.Tensor]:
    """Return the matrices by key. `flat` joins a layer's name with underscores, like kohya."""
    tensors = {}
    for module, pair in pairs.items():
        stem = prefix + (module.replace(".", "_") if flat else module)
        tensors[stem + down] = pair.down.contiguous()
        tensors[stem + up] = pair.up.contiguous()
        if pair.alpha is not None:
            tensors[stem + ".alpha"] = torch.tensor(pair.alpha)
    return tensors


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
    """Write a LoRA. `metadata` replaces the alpha tensors."""
    tensors = lora_tensors(pairs, prefix=prefix, flat=flat, down=down, up=up)
    if metadata is not None:
        tensors = {key: value for key, value in tensors.items() if not key.endswith(".alpha")}
    save_file(tensors, path, dict(metadata) if metadata else None)
    return path


def adapter_metadata(rank: int, alpha: float | None, **more: object) -> dict[str, str]:
    """Return the metadata that diffusers writes for a PEFT adapter."""
    config = {"r": rank, "lora_alpha": alpha, **more}
    named = {f"transformer.{key}": value for key, value in config.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(named)}


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    """Write a safetensors file with any header, valid or not; bytes are written unchanged."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path
