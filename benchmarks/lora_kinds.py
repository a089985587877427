"""Costs of kinds of LoRA on one layer at its real width, beside stock PEFT's, in one run.

A kind's own cost is what it takes beyond the base layer's product: 512 tokens, one thread, fp32.
PEFT's are those of its layers around the same weights.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import peft
import torch
from diffusers import QwenImageEditPlusPipeline
from safetensors.torch import save_file
from torch import nn

from benchmarks.figure import Figure
from benchmarks.lora import CPU, LAYERS, Stock, build_transformer
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.engine.lora import LayerChange, LoraEngine, compose, read_lora
from pipelines.engine.lora.change import add_changes
from pipelines.engine.lora.recompose import MAX_ELEMENTS, recompose
from pipelines.engine.lora.terms import Side

WIDTH = 3072
TOKENS = 512
ROUNDS = 9
LOHA_RANK = 32
# The largest block layer that trainers train by default; a modulation is 1.5 times as large.
LOHA_TARGETS = ("attn.", "mlp.")
# Of the own cost of a LoRA of rank 16. What is recomposed costs the same for more tokens.
LIMITS = {
    "LoKr": 4.0,
    "LoKr of factor 8": None,
    "DoRA": 2.0,
    "DoRA of columns": 2.0,
    "LoKr of factor 4, recomposed": None,
    "LoHa of rank 32, recomposed": None,
}
Tensors = Mapping[str, torch.Tensor]


def lora_kinds() -> list[Figure]:
    """All figures of this file."""
    with tempfile.TemporaryDirectory(prefix="qwen-edit-kinds-") as folder, torch.no_grad():
        return [*_layer_costs(Path(folder)), *_loha_memory(Path(folder)), *_switch(Path(folder))]


def _layer_costs(folder: Path) -> list[Figure]:
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH)
    x, y = torch.randn(TOKENS, WIDTH), torch.randn(TOKENS, WIDTH)
    changes = {name: _change(folder, parts, layer) for name, parts in _files().items()}
    stock = {name: _stock_layer(name, layer) for name in ("LoRA", "LoKr", "DoRA")}
    works: dict[str, Callable[[], object]] = {
        name: _own_work(change, layer, x, y) for name, change in changes.items()
    }
    works |= {f"{name} of PEFT": partial(wrapped, x) for name, wrapped in stock.items()}
    works["base"] = lambda: layer(x)
    seconds = _medians(works)
    for name in stock:
        seconds[f"{name} of PEFT"] -= seconds["base"]
    lora = seconds["LoRA"]
    figures = []
    for name, limit in LIMITS.items():
        theirs = seconds.get(f"{name} of PEFT")
        detail = f"{seconds[name] * 1000:.2f} ms, LoRA {lora * 1000:.2f}, base layer "
        detail += f"{seconds['base'] * 1000:.1f}"
        if theirs is not None:
            detail += f"; PEFT's {theirs * 1000:.1f}"
        share = f"{name}, of a LoRA of rank 16's own cost"
        figures.append(Figure(share, seconds[name] / lora, "", limit, detail))
    return figures


def _files() -> dict[str, Tensors]:
    """The tensors of a layer by kind."""
    pair = {"lora_A.weight": torch.randn(16, WIDTH) * 0.01, "lora_B.weight": torch.randn(WIDTH, 16)}
    rows, columns = torch.ones(WIDTH, 1), torch.ones(1, WIDTH)
    loha = {f"hada_w{n}_a": torch.randn(WIDTH, LOHA_RANK) for n in (1, 2)}
    loha |= {f"hada_w{n}_b": torch.randn(LOHA_RANK, WIDTH) for n in (1, 2)}
    return {
        "LoRA": pair,
        "LoKr": _lokr(48),
        "LoKr of factor 8": _lokr(8),
        "LoKr of factor 4, recomposed": _lokr(4),
        "DoRA": {**pair, "dora_scale": rows},
        "DoRA of columns": {**pair, "dora_scale": columns},
        "LoHa of rank 32, recomposed": loha,
    }


def _lokr(factor: int) -> Tensors:
    other = WIDTH // factor
    return {"lokr_w1": torch.randn(factor, factor), "lokr_w2": torch.randn(other, other)}


def _change(folder: Path, parts: Tensors, layer: nn.Linear) -> LayerChange:
    name, path = "proj", folder / "layer.safetensors"
    save_file({f"{name}.{part}": value for part, value in parts.items()}, path)
    lora = read_lora(path, {name: (WIDTH, WIDTH)})
    return compose([(lora, 1.0)], lambda _: layer.weight.detach(), CPU, torch.float32)[name]


def _own_work(
    change: LayerChange, layer: nn.Linear, x: torch.Tensor, y: torch.Tensor
) -> Callable[[], object]:
    """What `change.apply` does beside the product with a weight."""
    if change.recomposed:
        scratch = torch.empty(WIDTH * WIDTH)
        return lambda: recompose(layer.weight, change.recomposed, scratch)
    products = change.products if change.low_rank is None else (change.low_rank,)
    outputs = [term for term in change.transforms if term.side is Side.OUTPUT]
    inputs = [term for term in change.transforms if term.side is Side.INPUT]

    def work() -> None:
        for term in inputs:
            term.apply(x, x)
        if outputs:
            add_changes(y, x, outputs, products, layer.bias)
        else:
            products[0].apply(x, y)

    return work


def _stock_layer(kind: str, layer: nn.Linear) -> nn.Module:
    configs = {
        "LoRA": lambda: peft.LoraConfig(r=16, target_modules=["0"]),
        "DoRA": lambda: peft.LoraConfig(r=16, target_modules=["0"], use_dora=True),
        "LoKr": lambda: peft.LoKrConfig(r=WIDTH, target_modules=["0"], decompose_factor=-1),
    }
    copied = nn.Linear(WIDTH, WIDTH)
    copied.load_state_dict(layer.state_dict())
    wrapped: nn.Module = peft.get_peft_model(nn.Sequential(copied), configs[kind]())
    return wrapped.eval()


def _medians(works: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, all of them in turn, so that a busy moment hits none alone."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(ROUNDS + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _loha_memory(folder: Path) -> list[Figure]:
    """Device memory of a LoHa on the attention and the MLPs of all blocks, from one block."""
    block = {
        name: shape
        for name, shape in QWEN_IMAGE_EDIT_PLUS.linears({}).items()
        if name.startswith("transformer_blocks.0.") and any(part in name for part in LOHA_TARGETS)
    }
    tensors = {}
    for name, (out_features, in_features) in block.items():
        for n in (1, 2):
            tensors[f"{name}.hada_w{n}_a"] = torch.ones(out_features, LOHA_RANK).bfloat16()
            tensors[f"{name}.hada_w{n}_b"] = torch.ones(LOHA_RANK, in_features).bfloat16()
    path = folder / "loha.safetensors"
    save_file(tensors, path)
    lora = read_lora(path, block)
    adapter = compose([(lora, 1.0)], lambda name: torch.empty(block[name]), CPU, torch.bfloat16)
    held = sum(change.size_bytes for change in adapter.values()) - lora.size_bytes
    scratch = max(out_features * in_features for out_features, in_features in block.values()) * 2
    beyond = held * LAYERS + scratch + 2 * MAX_ELEMENTS * 4
    own = lora.size_bytes * LAYERS / 1e6
    detail = f"{len(block) * LAYERS} layers in bf16; its factors {own:.0f} MB"
    return [Figure("LoHa of rank 32, beyond the file's factors", beyond / 1e6, "MB", 100.0, detail)]


def _switch(folder: Path) -> list[Figure]:
    """Warm switches of a DoRA, which stock loads too, and of a LoKr, which it does not."""
    transformer = build_transformer()
    linears = {
        name: shape
        for name, shape in QWEN_IMAGE_EDIT_PLUS.linears(dict(transformer.config)).items()
        if name.startswith("transformer_blocks") and "_mod." not in name
    }
    dora, lokr = folder / "dora.safetensors", folder / "lokr.safetensors"
    save_file(_dora_tensors(linears), dora)
    save_file(_lokr_tensors(linears), lokr)
    engine = LoraEngine(transformer, CPU, torch.float32)
    works = {path: _switching(engine, path) for path in (dora, lokr)}
    ours = _medians({path.stem: work for path, work in works.items()})
    stock = Stock(QwenImageEditPlusPipeline(*[None] * 5, transformer=build_transformer()))

    def switch() -> None:
        stock.load([(dora, 1.0)])
        stock.pipe.delete_adapters(["a0"])

    theirs = min(_timed_once(switch) for _ in range(3))
    detail = f"{len(linears)} layers; stock {theirs * 1000:.0f} ms, ours {ours['dora'] * 1000:.1f}"
    share = ours["dora"] / theirs
    return [
        Figure("warm switch of a DoRA, share of stock's", share, "", 1 / 30, detail),
        Figure("warm switch of a LoKr", ours["lokr"] * 1000, "ms", None, "stock loads none"),
    ]


def _switching(engine: LoraEngine, path: Path) -> Callable[[], None]:
    scales: Sequence[float] = [1 + 0.01 * turn for turn in range(ROUNDS + 1)]
    left = iter(scales)

    def switch() -> None:
        # different scales each time: a stack that was composed before would cost nothing
        with engine.active([(path, next(left))]):
            pass

    return switch


def _dora_tensors(linears: Mapping[str, tuple[int, int]]) -> Tensors:
    tensors = {}
    for name, (out_features, in_features) in linears.items():
        stem = f"transformer.{name}"
        tensors[f"{stem}.lora_A.weight"] = torch.randn(16, in_features)
        tensors[f"{stem}.lora_B.weight"] = torch.randn(out_features, 16)
        tensors[f"{stem}.lora_magnitude_vector"] = torch.ones(out_features)
    return tensors


def _lokr_tensors(linears: Mapping[str, tuple[int, int]]) -> Tensors:
    tensors = {}
    for name, (out_features, in_features) in linears.items():
        tensors[f"{name}.lokr_w1"] = torch.randn(8, 8)
        tensors[f"{name}.lokr_w2"] = torch.randn(out_features // 8, in_features // 8)
    return tensors


def _timed_once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    from benchmarks.figure import figure_table

    print(figure_table(lora_kinds()))
