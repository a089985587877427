"""Switches of LoRAs in this engine and in stock diffusers with PEFT, on the same files.

The transformer has the published 60 layers at a width of 64, which measures the work per layer, not
the matrices. Stock is `load_lora_weights` for three files, `set_adapters` and `delete_adapters`; it
caches no parsed files, so it has no warm switch.
"""

import gc
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import QwenImageEditPlusPipeline, QwenImageTransformer2DModel
from safetensors.torch import save_file

from benchmarks.figure import Figure
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.engine.lora import Adapter, LoraEngine, compose, read_lora

CPU = torch.device("cpu")
LAYERS = 60
RANKS = (4, 8, 16)
REPETITIONS = 5
SWITCHES = 500
# A block has 12 linear layers beside its modulation, 720 in total, and 14 with it, 840 in total.
TARGETS = {720: lambda name: "_mod." not in name, 840: lambda name: True}
Stack = Sequence[tuple[Path, float]]


def lora_switching() -> list[Figure]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory(prefix="qwen-edit-lora-") as folder:
        figures = []
        for count, wanted in TARGETS.items():
            figures += _switches(Path(folder), count, wanted)
        return [*figures, *_growth(Path(folder)), *_real_width(Path(folder))]


@dataclass(frozen=True, slots=True)
class Stock:
    """Stock diffusers: a pipeline object around the transformer, one adapter per file."""

    pipe: QwenImageEditPlusPipeline

    def load(self, stack: Stack) -> None:
        """Load the files into the model and activate them."""
        names = [f"a{index}" for index in range(len(stack))]
        for name, (path, _) in zip(names, stack, strict=True):
            self.pipe.load_lora_weights(
                str(path.parent), weight_name=path.name, adapter_name=name, use_safetensors=True
            )
        self.pipe.set_adapters(names, [scale for _, scale in stack])

    def unload(self) -> None:
        """Remove them from the model."""
        self.pipe.delete_adapters(["a0", "a1", "a2"])


def _switches(folder: Path, count: int, wanted: Callable[[str], bool]) -> list[Figure]:
    transformer = build_transformer()
    linears = {
        name: shape
        for name, shape in QWEN_IMAGE_EDIT_PLUS.linears(dict(transformer.config)).items()
        if name.startswith("transformer_blocks") and wanted(name)
    }
    assert len(linears) == count, (count, len(linears))
    files = [_write(folder / f"{count}-{rank}.safetensors", linears, rank) for rank in RANKS]
    inputs = _inputs(transformer)

    ours = _measure_ours(transformer, files, inputs)
    stock = _measure_stock(build_transformer(), files, inputs)
    detail = f"{count} layers, ranks {RANKS}; stock {stock['switch'] * 1000:.0f} ms"
    return [
        Figure("warm switch of three LoRAs, share of stock's", ours["warm"] / stock["switch"], "",
               1 / 30, f"{detail}, ours {ours['warm'] * 1000:.1f} ms"),
        Figure("cold switch of three LoRAs, share of stock's", ours["cold"] / stock["switch"], "",
               1 / 8, f"{detail}, ours {ours['cold'] * 1000:.0f} ms"),
        Figure("step with three LoRAs, share of stock PEFT's", ours["step"] / stock["step"], "",
               0.8, f"ours {ours['step'] * 1000:.0f} ms, base {ours['base'] * 1000:.0f} ms"),
    ]  # fmt: skip


def _measure_ours(
    transformer: QwenImageTransformer2DModel, files: Sequence[Path], inputs: Mapping[str, object]
) -> dict[str, float]:
    """Median seconds of a warm and a cold switch, and of a step with and without LoRAs."""
    engine = LoraEngine(transformer, CPU, torch.float32)

    def cold(index: int) -> None:
        fresh = LoraEngine(transformer, CPU, torch.float32)
        with fresh.active(_stack(files, index)):
            pass

    def warm(index: int) -> None:
        # different scales each time: a stack that was composed before would cost nothing
        with engine.active(_stack(files, index)):
            pass

    seconds = {"cold": _median(cold), "warm": _median(warm)}
    seconds["base"] = _median(lambda _: _step(transformer, inputs))
    with engine.active(_stack(files, 0)):
        seconds["step"] = _median(lambda _: _step(transformer, inputs))
    return seconds


def _measure_stock(
    transformer: QwenImageTransformer2DModel, files: Sequence[Path], inputs: Mapping[str, object]
) -> dict[str, float]:
    stock = Stock(QwenImageEditPlusPipeline(*[None] * 5, transformer=transformer))

    def switch(index: int) -> None:
        stock.load(_stack(files, index))
        stock.unload()

    seconds = {"switch": _median(switch, repetitions=3)}
    stock.load(_stack(files, 0))
    seconds["step"] = _median(lambda _: _step(transformer, inputs))
    return seconds


def _growth(folder: Path) -> list[Figure]:
    """The growth of resident memory in the second half of 500 switches between stacks."""
    transformer = build_transformer()
    linears = {
        name: shape
        for name, shape in QWEN_IMAGE_EDIT_PLUS.linears(dict(transformer.config)).items()
        if "attn" in name
    }
    files = [_write(folder / f"growth-{rank}.safetensors", linears, rank) for rank in RANKS]
    # small caches, so that eviction is measured too
    engine = LoraEngine(transformer, CPU, torch.float32, host_bytes=2**21, device_bytes=2**21)
    orders = itertools.cycle(itertools.permutations(files))
    halves = []
    for _ in range(2):
        for _ in range(SWITCHES // 2):
            with engine.active([(path, 1.0) for path in next(orders)]):
                pass
        gc.collect()
        halves.append(_resident_mb())
    growth = halves[1] - halves[0]
    return [Figure("growth in the second half of 500 switches", growth, "MB", 2.0, "resident")]


def _real_width(folder: Path) -> list[Figure]:
    """One published block at its real width, times 60: memory and time of composition."""
    block = {
        name: shape
        for name, shape in QWEN_IMAGE_EDIT_PLUS.linears({}).items()
        if name.startswith("transformer_blocks.0.")
    }
    path = _write(folder / "block.safetensors", block, rank=64, dtype=torch.bfloat16)
    stack = [(read_lora(path, block), scale) for scale in (0.5, 1.0, 1.5)]
    weights = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in block.items()}

    def fold(index: int) -> Adapter:
        return compose(stack, weights.__getitem__, CPU, torch.bfloat16)

    seconds, adapter = _median(fold, repetitions=3), fold(0)
    held = sum(change.size_bytes for change in adapter.values()) * LAYERS / 2**30
    detail = "three of rank 64 on 840 layers in bf16, from one block"
    return [
        Figure("held by a composed adapter at real width", held, "GiB", detail=detail),
        Figure("fold at real width, on this CPU", seconds * LAYERS * 1000, "ms", detail=detail),
    ]


def build_transformer() -> QwenImageTransformer2DModel:
    """Build the published 60 layers at a width of 64."""
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=LAYERS,
        num_attention_heads=2,
        attention_head_dim=32,
        joint_attention_dim=64,
        axes_dims_rope=(8, 12, 12),
    ).eval()


def _inputs(transformer: QwenImageTransformer2DModel) -> dict[str, object]:
    grid = 1, 8, 8
    return {
        "hidden_states": torch.randn(1, 2 * 64, transformer.config.in_channels),
        "timestep": torch.tensor([0.5]),
        "encoder_hidden_states": torch.randn(1, 20, 64),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[grid, grid]],
        "return_dict": False,
    }


@torch.no_grad()
def _step(transformer: QwenImageTransformer2DModel, inputs: Mapping[str, object]) -> None:
    transformer(**inputs)


def _write(
    path: Path,
    linears: Mapping[str, tuple[int, int]],
    rank: int,
    dtype: torch.dtype = torch.float32,
) -> Path:
    tensors = {}
    for name, (out_features, in_features) in linears.items():
        tensors[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, in_features, dtype=dtype)
        tensors[f"transformer.{name}.lora_B.weight"] = torch.randn(out_features, rank, dtype=dtype)
    save_file(tensors, path)
    return path


def _stack(files: Sequence[Path], index: int) -> Stack:
    return [(path, 0.5 + 0.1 * index + 0.01 * place) for place, path in enumerate(files)]


def _median(work: Callable[[int], object], repetitions: int = REPETITIONS) -> float:
    """The median seconds of `work` after one warm-up."""
    return statistics.median(list(_timed(work, repetitions))[1:])


def _timed(work: Callable[[int], object], repetitions: int) -> Iterator[float]:
    for index in range(repetitions + 1):
        start = time.perf_counter()
        work(index)
        yield time.perf_counter() - start


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    from benchmarks.figure import figure_table

    print(figure_table(lora_switching()))
