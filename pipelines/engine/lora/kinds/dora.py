"""DoRA: a LoRA whose changed weight is scaled row by row or column by column.

With the gain c = magnitude / norm of W + D, the weight is c(W + D), so the change is
(c - 1)W + cD, which is scaled like any other. Without a scale all trainers agree on this. At other
scales LyCORIS and PEFT define changes that depend on other LoRAs, or are not zero at scale 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pipelines.engine.lora.kinds.lora import LowRank
from pipelines.engine.lora.recompose import changed_rows, row_slices
from pipelines.engine.lora.terms import Side, Term, Transform


@dataclass(frozen=True, slots=True)
class Gain(Transform):
    """The base weight with each row, or each column, times a number."""

    values: torch.Tensor

    def apply(self, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(total, vectors, self.values)

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        base = weight[rows].to(torch.float32, copy=True)
        return _scaled(base, self.side, self.values, rows)

    def cast(self, dtype: torch.dtype) -> "Gain":
        return Gain(self.side, self.values.to(dtype))

    @staticmethod
    def joined(gains: Sequence["Gain"]) -> tuple["Gain", ...]:
        """The sum of the gains, which are on the same side, as one or none."""
        if len(gains) < 2:
            return tuple(gains)
        return (replace(gains[0], values=torch.stack([gain.values for gain in gains]).sum(0)),)


@dataclass(frozen=True, slots=True)
class Scaled(Term):
    """Another term with each row, or each column, times a number."""

    side: Side
    values: torch.Tensor
    term: Term

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return _scaled(self.term.delta(weight, rows), self.side, self.values, rows)


def gain_of(magnitude: torch.Tensor, weight: torch.Tensor, terms: Sequence[Term]) -> torch.Tensor:
    """The gain c in fp32, (out, 1) for rows or (1, in) for columns.

    magnitude: (out), (out, 1) or (1, in). `terms` are the change D of `weight`.
    """
    columns = magnitude.dim() == 2 and magnitude.shape[0] == 1 != weight.shape[0]
    axis = 0 if columns else 1
    if len(terms) == 1 and isinstance(terms[0], LowRank):
        squares = _low_rank_squares(weight, terms[0], axis)
    else:
        squares = _squares(weight, terms, axis)
    norm = squares.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return (magnitude.float().flatten() / norm).unsqueeze(axis)


def decomposed(terms: Sequence[Term], gain: torch.Tensor, scale: float) -> Iterator[Term]:
    """The DoRA's change times `scale`. `terms` are D without a scale, in fp32."""
    side = Side.OUTPUT if gain.shape[1] == 1 else Side.INPUT
    scaled = scale * gain
    yield Gain(side, (scaled - scale).flatten())
    for term in terms:
        if not isinstance(term, LowRank):
            yield Scaled(side, scaled.flatten(), term)
        elif side is Side.OUTPUT:
            yield LowRank(term.down, term.up * scaled)
        else:
            yield LowRank(term.down.float() * scaled, term.up)


def _scaled(matrix: torch.Tensor, side: Side, values: torch.Tensor, rows: slice) -> torch.Tensor:
    factors = values[rows, None] if side is Side.OUTPUT else values
    return matrix.mul_(factors.float())


def _low_rank_squares(weight: torch.Tensor, term: LowRank, axis: int) -> torch.Tensor:
    """Squared norms of W + BA from Gram matrices: |W|² + 2 W·BA + |BA|², without a matrix BA."""
    down, up = term.down.float(), term.up.float()
    if axis == 1:
        inner = down @ down.t()
        parts = []
        for rows in row_slices(weight):
            base, own = weight[rows].float(), up[rows]
            mixed = 2 * (base @ down.t()) + own @ inner
            parts.append(base.square().sum(1) + (mixed * own).sum(1))
        return torch.cat(parts)
    total = ((up.t() @ up) @ down * down).sum(0)
    for rows in row_slices(weight):
        base = weight[rows].float()
        total += 2 * (up[rows].t() @ base * down).sum(0)
        total += base.square().sum(0)
    return total


def _squares(weight: torch.Tensor, terms: Sequence[Term], axis: int) -> torch.Tensor:
    """Squared norms of W + D, some rows of it at a time."""
    parts = [changed.square_().sum(axis) for _, changed in changed_rows(weight, terms)]
    return torch.cat(parts) if axis == 1 else torch.stack(parts).sum(0)
