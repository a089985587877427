"""The terms of a layer's change: each adds a fixed matrix to the layer's base weight."""

import abc
import dataclasses
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import torch


class Side(Enum):
    """The vectors that a transform changes: those before the base weight, or those after it."""

    INPUT = auto()
    OUTPUT = auto()


def owned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of a view, which would keep a whole file on the device."""
    return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor


@dataclass(frozen=True, slots=True)
class Term(abc.ABC):
    """A matrix that is added to the base weight, in a form of its own.

    `delta` is enough: such a term is recomposed, that is, added to a copy of the weight whenever
    the layer runs. Products and transforms have a cheaper way.
    """

    @abc.abstractmethod
    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        """The matrix's `rows` in fp32, (rows, in), a new tensor.

        weight: the layer's whole base weight, (out, in), in the model's dtype.
        """

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the term holds in memory."""
        found: list[torch.Tensor] = []
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                found.append(value)
            elif isinstance(value, Term):
                found.extend(value.tensors)
        return tuple(found)

    def cast(self, dtype: torch.dtype) -> Self:
        """The term in `dtype`, without views into a file's data."""
        changed: dict[str, object] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, torch.Tensor):
                changed[name] = owned(value.to(dtype))
            elif isinstance(value, Term):
                changed[name] = value.cast(dtype)
        return dataclasses.replace(self, **changed)


@dataclass(frozen=True, slots=True)
class Product(Term):
    """A term that is multiplied with the input cheaper than a matrix of its size."""

    @abc.abstractmethod
    def apply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`y` plus the term's product with `x`. x: (tokens, in), y: (tokens, out)."""


@dataclass(frozen=True, slots=True)
class Transform(Term):
    """A term that is the base weight times a cheap matrix, from the left or from the right."""

    side: Side

    @abc.abstractmethod
    def apply(self, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """`total` plus the change of the vectors on the term's side, both (tokens, features)."""
