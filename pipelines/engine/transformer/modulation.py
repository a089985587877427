"""What a timestep does to the blocks: shifts, scales and gates, computed once per schedule.

They depend on the timestep and the weights alone. Computed anew, as in diffusers, they read 13.6 of
the model's 41 GB in each forward, for two rows.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from diffusers import QwenImageTransformer2DModel
from torch import nn
from torch.nn import functional

from pipelines.engine.bounded_cache import BoundedCache
from pipelines.engine.lora import LayerChange

# 40 steps of the published model take 265 MB.
_BYTES = 2**30


class Row(NamedTuple):
    """The modulation of some tokens before and after one sublayer, (width) each.

    `scale` has 1 added.
    """

    shift: torch.Tensor
    scale: torch.Tensor
    gate: torch.Tensor


# Row 0 is for the output's tokens, row 1 for the references', which models with `zero_cond_t` treat
# as free of noise. Without it, and for text, one row is for all.
Rows = tuple[Row, ...]


class BlockModulation(NamedTuple):
    """The modulation of one block: of both streams, around attention and around the MLP."""

    image_attention: Rows
    image_mlp: Rows
    text_attention: Rows
    text_mlp: Rows


@dataclass(frozen=True, slots=True)
class StepModulation:
    """The modulation at one timestep, by block, and of the output, (shift, scale) of (width)."""

    blocks: tuple[BlockModulation, ...]
    out: tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class ScheduleModulation:
    """The modulation at each step of a schedule, filled in while it runs for the first time."""

    table: "ModulationTable"
    dtype: torch.dtype
    size_bytes: int
    # the table's key has their addresses, which must not be those of others later
    changes: tuple[LayerChange | None, ...]
    steps: dict[int, StepModulation] = field(default_factory=dict)

    def at(self, step: int, timestep: torch.Tensor) -> StepModulation:
        """The modulation at a step, from 0, with its `timestep`, (1,), from 1 to 0."""
        if step not in self.steps:
            self.steps[step] = self.table.compute(timestep, self.dtype)
        return self.steps[step]


class ModulationTable:
    """The modulations of one transformer's schedules; a LoRA that changes them makes its own."""

    def __init__(self, transformer: QwenImageTransformer2DModel, max_bytes: int = _BYTES) -> None:
        self._transformer = transformer
        blocks = transformer.transformer_blocks
        sources = (
            transformer.time_text_embed,
            transformer.norm_out.linear,
            *(modulation for block in blocks for modulation in (block.img_mod, block.txt_mod)),
        )
        layers = (layer for source in sources for layer in source.modules())
        self._linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
        rows = 3 if transformer.zero_cond_t else 2
        self._numbers = len(blocks) * rows * 6 * transformer.inner_dim + 2 * transformer.inner_dim
        self._schedules: BoundedCache[ScheduleModulation] = BoundedCache(
            max_bytes, lambda schedule: schedule.size_bytes
        )

    def of(self, sigmas: tuple[float, ...], dtype: torch.dtype) -> ScheduleModulation:
        """The modulation of the schedule with these sigmas, under the active changes."""
        changes: tuple[LayerChange | None, ...] = tuple(
            getattr(layer, "change", None) for layer in self._linears
        )
        key = (sigmas, dtype, tuple(map(id, changes)))
        found = self._schedules.get(key)
        if found is None:
            size = len(sigmas) * self._numbers * dtype.itemsize
            size += sum(change.size_bytes for change in changes if change is not None)
            found = ScheduleModulation(self, dtype, size, changes)
            self._schedules.put(key, found)
        return found

    def compute(self, timestep: torch.Tensor, dtype: torch.dtype) -> StepModulation:
        """The modulation at a timestep.

        Bit-identical to diffusers only for one step at a time, with both rows in one product.
        """
        model = self._transformer
        moment = timestep.to(dtype)
        if model.zero_cond_t:
            moment = torch.cat([moment, moment * 0])
        # the second argument is read for its dtype
        embedded = model.time_text_embed(moment, moment)
        first = embedded[:1]
        scale, shift = model.norm_out.linear(functional.silu(first))[0].chunk(2)
        blocks = (
            BlockModulation(*_rows(block.img_mod(embedded)), *_rows(block.txt_mod(first)))
            for block in model.transformer_blocks
        )
        return StepModulation(tuple(blocks), (shift, 1 + scale))


def _rows(values: torch.Tensor) -> tuple[Rows, Rows]:
    """The rows around attention and around the MLP. values: (rows, 6 × width)."""
    rows = [row.chunk(6) for row in values]
    return (
        tuple(Row(row[0], 1 + row[1], row[2]) for row in rows),
        tuple(Row(row[3], 1 + row[4], row[5]) for row in rows),
    )
