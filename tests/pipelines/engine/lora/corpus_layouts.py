"""LoRA files that must be read exactly; each writer returns the change of each layer in fp64."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.lora_files import (
    PREFIXES,
    SUFFIXES,
    Linears,
    Pair,
    adapter_metadata,
    lora_tensors,
    random_pairs,
    write_lora,
    write_raw,
)
from tests.pipelines.engine.lora.conftest import MODULES, base_weight
from tests.pipelines.engine.lora.corpus_dora import DORAS
from tests.pipelines.engine.lora.corpus_lokr import LOKRS
from tests.pipelines.engine.lora.corpus_oft import OFTS

Deltas = Mapping[str, torch.Tensor]
Writer = Callable[[Path, Linears], Deltas]


def exact(pairs: Mapping[str, Pair]) -> Deltas:
    """The changes of the pairs, from the values as stored."""
    return {
        name: Pair(pair.down.double(), pair.up.double(), pair.alpha).delta
        for name, pair in pairs.items()
    }


def named(prefix: str, suffix: str, alpha: float | None, path: Path, linears: Linears) -> Deltas:
    start, flat = PREFIXES[prefix]
    down, up = SUFFIXES[suffix]
    pairs = random_pairs(linears, MODULES, alpha=alpha)
    write_lora(path, pairs, prefix=start, flat=flat, down=down, up=up)
    return exact(pairs)


def stored(dtype: torch.dtype, path: Path, linears: Linears) -> Deltas:
    pairs = random_pairs(linears, MODULES, alpha=3.0, dtype=dtype)
    write_lora(path, pairs)
    return exact(pairs)


def alpha_stored(
    dtype: torch.dtype, shape: tuple[int, ...], path: Path, linears: Linears
) -> Deltas:
    pairs = random_pairs(linears, MODULES[:2], alpha=3.0)
    tensors = lora_tensors(pairs)
    for key in [key for key in tensors if key.endswith(".alpha")]:
        tensors[key] = torch.full(shape, 3.0).to(dtype)
    save_file(tensors, path)
    return exact(pairs)


def mixed_ranks(path: Path, linears: Linears) -> Deltas:
    pairs = {}
    for index, name in enumerate(MODULES):
        pairs |= random_pairs(linears, [name], rank=1 + 3 * index, alpha=2.0 + index, seed=index)
    write_lora(path, pairs)
    return exact(pairs)


def alpha_on_some_layers(path: Path, linears: Linears) -> Deltas:
    pairs = random_pairs(linears, MODULES[:3], alpha=7.0) | random_pairs(linears, MODULES[3:])
    write_lora(path, pairs)
    return exact(pairs)


def every_layer(path: Path, linears: Linears) -> Deltas:
    pairs = random_pairs(linears, list(linears), alpha=1.0)
    write_lora(path, pairs)
    return exact(pairs)


def layouts_in_one_file(path: Path, linears: Linears) -> Deltas:
    first = random_pairs(linears, MODULES[:4], alpha=2.0)
    second = random_pairs(linears, MODULES[4:])
    save_file(lora_tensors(first) | lora_tensors(second, prefix="lora_unet_", flat=True), path)
    return exact(first | second)


def loha(r1: int, r2: int, alpha: float | None, flat: bool, path: Path, linears: Linears) -> Deltas:
    """LyCORIS: ΔW = (w1_a·w1_b) ∘ (w2_a·w2_b) · alpha / rank, with the rank of w1_b."""
    generator = torch.Generator().manual_seed(0)
    tensors, expected = {}, {}
    for name in MODULES:
        out_features, in_features = linears[name]
        w1_a, w2_a = (torch.randn(out_features, r, generator=generator) for r in (r1, r2))
        w1_b, w2_b = (torch.randn(r, in_features, generator=generator) for r in (r1, r2))
        stem = "lycoris_" + name.replace(".", "_") if flat else "diffusion_model." + name
        parts = {"w1_a": w1_a, "w1_b": w1_b, "w2_a": w2_a, "w2_b": w2_b}
        tensors |= {f"{stem}.hada_{part}": value for part, value in parts.items()}
        if alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        product_of_both = (w1_a.double() @ w1_b.double()) * (w2_a.double() @ w2_b.double())
        expected[name] = product_of_both * (1.0 if alpha is None else alpha / r1)
    save_file(tensors, path)
    return expected


def fused(path: Path, linears: Linears) -> Deltas:
    """A LoRA on diffusers' fused projections: each of the three has its rows of `up`."""
    block, tensors, expected = "transformer_blocks.0.attn", {}, {}
    members = {
        "to_qkv": ("to_q", "to_k", "to_v"),
        "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
    }
    for name, parts in members.items():
        out_features, in_features = linears[f"{block}.{parts[0]}"]
        shape = {name: (3 * out_features, in_features)}
        pairs = random_pairs(shape, [name], alpha=2.0)
        tensors |= lora_tensors(pairs, prefix=f"transformer.{block}.")
        thirds = pairs[name].delta.split(out_features)
        expected |= {f"{block}.{part}": third for part, third in zip(parts, thirds, strict=True)}
    save_file(tensors, path)
    return expected


def differences(path: Path, linears: Linears) -> Deltas:
    """What ComfyUI extracts: whole matrices for some layers and a LoRA for others."""
    pairs = random_pairs(linears, MODULES[:3])
    expected = exact(pairs)
    tensors = lora_tensors(pairs, prefix="diffusion_model.")
    for name in MODULES[3:]:
        expected[name] = base_weight(f"{name}.diff", linears[name]).double()
        tensors[f"diffusion_model.{name}.diff"] = expected[name].float()
        # without effect: a difference has no alpha
        tensors[f"diffusion_model.{name}.alpha"] = torch.tensor(torch.inf)
    save_file(tensors, path)
    return expected


def new_weights(path: Path, linears: Linears) -> Deltas:
    """`set_weight`: on a base weight that is zero, as in the tests, all of it is the change."""
    weights = {name: base_weight(name, linears[name]) for name in MODULES}
    save_file({f"diffusion_model.{name}.set_weight": w for name, w in weights.items()}, path)
    return {name: weight.double() for name, weight in weights.items()}


def configured(path: Path, linears: Linears) -> Deltas:
    pairs = random_pairs(linears, MODULES, alpha=8.0)
    write_lora(path, pairs, metadata=adapter_metadata(rank=4, alpha=8.0))
    return exact(pairs)


def rslora(path: Path, linears: Linears) -> Deltas:
    pairs = random_pairs(linears, MODULES, rank=16)
    metadata = adapter_metadata(rank=16, alpha=6.0, use_rslora=True)
    write_lora(path, pairs, metadata=metadata)
    return {name: 6.0 / 4.0 * delta for name, delta in exact(pairs).items()}


def patterns(path: Path, linears: Linears) -> Deltas:
    """Ranks and alphas by the ends of names, by regular expression, and by whole name."""
    special = {"attn.to_q": (2, 5.0), r".*_mod\.1": (6, 9.0), "^img_in": (3, 1.0)}
    chosen = {MODULES[0]: 0, MODULES[6]: 1, MODULES[7]: 1, "img_in": 2}
    pairs = {}
    for name in MODULES:
        rank, alpha = [*special.values()][chosen[name]] if name in chosen else (4, 2.0)
        pairs |= random_pairs(linears, [name], rank=rank, alpha=alpha)
    metadata = adapter_metadata(
        rank=4,
        alpha=2.0,
        rank_pattern={key: rank for key, (rank, _) in special.items()},
        alpha_pattern={key: alpha for key, (_, alpha) in special.items()},
    )
    write_lora(path, pairs, metadata=metadata)
    return exact(pairs)


def misaligned(dtype: torch.dtype, path: Path, linears: Linears) -> Deltas:
    """Tensors at odd offsets after an alpha of one byte: the format allows it, its writer sorts."""
    pairs = random_pairs(linears, MODULES, alpha=2.0, dtype=dtype)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    kinds = {torch.float32: "F32", torch.bfloat16: "BF16", torch.uint8: "U8"}
    tensors = lora_tensors(pairs)
    alpha = next(key for key in tensors if key.endswith(".alpha"))
    tensors = {alpha: tensors.pop(alpha).to(torch.uint8), **tensors}
    data = b""
    for key, value in tensors.items():
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        header[key] = {
            "dtype": kinds[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    write_raw(path, json.dumps(header).encode(), data)
    return exact(pairs)


NAMED: dict[str, Writer] = {
    f"{prefix}, {suffix}, alpha {alpha}": partial(named, prefix, suffix, alpha)
    for prefix, suffix, alpha in product(PREFIXES, SUFFIXES, (None, 2.0))
}
LAYOUTS: dict[str, Writer] = {**NAMED, **LOKRS, **DORAS, **OFTS} | {
    "fp64": partial(stored, torch.float64),
    "fp32": partial(stored, torch.float32),
    "fp16": partial(stored, torch.float16),
    "bf16": partial(stored, torch.bfloat16),
    "fp8 e4m3": partial(stored, torch.float8_e4m3fn),
    "fp8 e5m2": partial(stored, torch.float8_e5m2),
    "alpha in bf16": partial(alpha_stored, torch.bfloat16, ()),
    "alpha as a whole number": partial(alpha_stored, torch.int64, ()),
    "alpha with one dimension": partial(alpha_stored, torch.float32, (1,)),
    "ranks of many sizes": mixed_ranks,
    "alpha on some layers": alpha_on_some_layers,
    "every linear layer": every_layer,
    "two layouts in one file": layouts_in_one_file,
    "LoHa": partial(loha, 3, 3, None, False),
    "LoHa with alpha": partial(loha, 3, 3, 2.0, True),
    "LoHa with two ranks": partial(loha, 2, 5, 4.0, True),
    "LoHa of rank 20": partial(loha, 20, 20, 2.0, True),
    "fused projections": fused,
    "whole differences": differences,
    "whole weights": new_weights,
    "alpha in the metadata": configured,
    "rsLoRA": rslora,
    "patterns in the metadata": patterns,
    "misaligned fp32": partial(misaligned, torch.float32),
    "misaligned bf16": partial(misaligned, torch.bfloat16),
}
