"""Forwards of the demo model's transformer beside diffusers', in one run.

The model that people try, at its trained size. Forwards alternate, so that a busy moment hits all
of them.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel

from benchmarks.figure import Figure
from pipelines.engine import loading
from pipelines.engine.families.family import ForwardInputs, Grid, References
from pipelines.engine.transformer.forward import FastForward
from tests.pipelines.engine.transformer.stock import stock_velocity

MODEL = Path(__file__).parent.parent / "weights" / "demo"
ROUNDS = 25
# Images and text tokens of the demo model's edits. The targets are those of the first shape.
SHAPES: Mapping[str, tuple[tuple[Grid, ...], int]] = {
    "256×256, one reference": (((1, 16, 16),) * 2, 21),
    "256×256, three references": (((1, 16, 16),) * 4, 43),
}
# Of stock's time, by what is left out beyond diffusers' copies.
LIMITS = {"same bits": 1 / 1.3, "last block pruned": 1 / 1.6}
Work = Callable[[], torch.Tensor]


def forwards() -> list[Figure]:
    """The fast forward's time as a share of stock's, by shape."""
    with torch.no_grad():
        return [figure for shape, sizes in SHAPES.items() for figure in _shares(shape, *sizes)]


def _shares(shape: str, grids: Sequence[Grid], text: int) -> list[Figure]:
    transformer = loading.load_model(MODEL, torch.float32).pipe.transformer
    works = dict(_works(transformer, grids, text))
    assert torch.equal(works["same bits"](), works["stock"]())
    seconds = _medians(works)
    stock = seconds["stock"]
    return [
        Figure(
            f"forward, {name}, {shape}, share of stock's",
            seconds[name] / stock,
            "×",
            limit if shape == next(iter(SHAPES)) else None,
            f"median of {ROUNDS}; stock {stock * 1000:.1f} ms, ours {seconds[name] * 1000:.1f}",
        )
        for name, limit in LIMITS.items()
    ]


def _works(
    transformer: QwenImageTransformer2DModel, grids: Sequence[Grid], text: int
) -> Sequence[tuple[str, Work]]:
    generator = torch.Generator().manual_seed(0)
    config = transformer.config
    count = sum(map(math.prod, grids[1:]))
    inputs = ForwardInputs(
        torch.randn(1, math.prod(grids[0]), config.in_channels, generator=generator),
        torch.tensor([0.7]),
        step=0,
        grid=grids[0],
        prompt_embeds=torch.randn(1, text, config.joint_attention_dim, generator=generator),
        references=References(
            torch.randn(1, count, config.in_channels, generator=generator), tuple(grids[1:])
        ),
    )

    def fast(*, is_pruned: bool) -> Work:
        forward = FastForward(transformer, prunes_last_block=is_pruned)
        schedule = forward.modulations.of((0.7,), torch.float32)
        return lambda: forward.velocity(inputs, schedule.at(0, inputs.timestep))

    return (
        ("stock", lambda: stock_velocity(transformer, inputs)),
        ("same bits", fast(is_pruned=False)),
        ("last block pruned", fast(is_pruned=True)),
    )


def _medians(works: Mapping[str, Work]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}
