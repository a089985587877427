"""LoKr files in the layouts of their trainers; each writer returns the changes in fp64."""

import math
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.lora_files import PREFIXES, Linears
from tests.pipelines.engine.lora.conftest import MODULES


@dataclass(frozen=True)
class LokrLayout:
    """What a trainer writes. A rank of None is a whole matrix; alpha None is no tensor."""

    prefix: str
    factor: int
    w1_rank: int | None = None
    w2_rank: int | None = None
    alpha: float | None = None
    dtype: torch.dtype = torch.float32


def divisors(features: int, factor: int) -> tuple[int, int]:
    """The two factors of a dimension: the largest divisor up to `factor`, -1 for the root."""
    limit = math.isqrt(features) if factor < 0 else factor
    small = next(value for value in range(limit, 0, -1) if features % value == 0)
    return small, features // small


def lokr(layout: LokrLayout, path: Path, linears: Linears) -> dict[str, torch.Tensor]:
    """LyCORIS: ΔW = w1 ⊗ w2 · alpha / rank, with the rank of w2, else of w1, and else no alpha."""
    generator = torch.Generator().manual_seed(0)
    start, flat = PREFIXES[layout.prefix]
    tensors, expected = {}, {}
    for name in MODULES:
        stem = start + (name.replace(".", "_") if flat else name)
        (l, k), (m, n) = (divisors(size, layout.factor) for size in linears[name])  # noqa: E741
        factors = []
        for part, (height, width), rank in (
            ("w1", (l, m), layout.w1_rank),
            ("w2", (k, n), layout.w2_rank),
        ):
            if rank is None:
                parts = {"": torch.randn(height, width, generator=generator)}
            else:
                parts = {
                    "_a": torch.randn(height, rank, generator=generator),
                    "_b": torch.randn(rank, width, generator=generator),
                }
            stored = {end: value.to(layout.dtype) for end, value in parts.items()}
            tensors |= {f"{stem}.lokr_{part}{end}": value for end, value in stored.items()}
            factors.append(reduce(torch.mm, [value.double() for value in stored.values()]))
        if layout.alpha is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(layout.alpha).to(layout.dtype)
        rank = layout.w2_rank or layout.w1_rank
        scaled = rank is not None and layout.alpha is not None
        expected[name] = torch.kron(*factors) * (layout.alpha / rank if scaled else 1.0)
    save_file(tensors, path)
    return expected


FULL_RANK = 9_999_999_999.0
LOKR_FILES = {
    "of LyCORIS": LokrLayout("lycoris", 8, w2_rank=3, alpha=2.0),
    "of ai-toolkit 2025": LokrLayout("lycoris", 8, alpha=FULL_RANK, dtype=torch.float16),
    "of ai-toolkit": LokrLayout("ai-toolkit", 4, alpha=FULL_RANK, dtype=torch.bfloat16),
    "of kohya": LokrLayout("kohya", -1, w2_rank=4, alpha=1.0, dtype=torch.bfloat16),
    "of musubi": LokrLayout("ai-toolkit", 16, w1_rank=2, w2_rank=4, alpha=3.0),
    "of OneTrainer": LokrLayout("diffusers", -1, w1_rank=2, alpha=5.0),
    "of OneTrainer, bare": LokrLayout("none", 2, w2_rank=5, alpha=5.0),
    "of SimpleTuner": LokrLayout("lycoris", -1, alpha=10000.0, dtype=torch.bfloat16),
    "without alpha": LokrLayout("ai-toolkit", 8, w2_rank=3),
}
LOKRS = {f"LoKr {name}": partial(lokr, layout) for name, layout in LOKR_FILES.items()}
