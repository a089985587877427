"""Whole differences of a weight."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pipelines.engine.lora.terms import Term


@dataclass(frozen=True, slots=True)
class Difference(Term):
    """A matrix as it is, (out, in)."""

    matrix: torch.Tensor

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return self.matrix[rows].to(torch.float32, copy=True)


@dataclass(frozen=True, slots=True)
class Replacement(Term):
    """A part of the way from the base weight to another one, (out, in)."""

    target: torch.Tensor
    share: float

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return (self.target[rows].float() - weight[rows].float()).mul_(self.share)


def difference_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The layer's change times `factor`."""
    if "diff" in tensors:
        yield Difference(tensors["diff"].float() * factor)
    if "set_weight" in tensors:
        yield Replacement(tensors["set_weight"], factor)
