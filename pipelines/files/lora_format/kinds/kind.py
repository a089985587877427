"""A kind of LoRA by its header: the tensors of a layer, by the ends of their keys."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

Shapes = Mapping[str, tuple[int, ...]]
# (out, in) of a linear layer
Features = tuple[int, int]


class Alpha(Enum):
    """A factor of alpha / rank, a part of the change, or without meaning."""

    OF_RANK = auto()
    PART = auto()
    IGNORED = auto()


class Misfit(Exception):
    """The shapes of a layer's tensors do not fit the layer; the message lists the shapes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to define a layer's change.

    `suffixes` are ends of keys with the part of the change that each marks; no two kinds share a
    part. A layer has all parts of one of `forms`. `rank` returns the rank by which alpha is
    divided, 0 when the kind ignores alpha, or raises Misfit. The change is zero when one of the
    parts is, except `terms`. `markers` are no floats. `alpha` says what a tensor of that
    name means. `rows` is the part that has a row for each of the layer's, if there is one.
    """

    name: str
    suffixes: tuple[tuple[re.Pattern[str], str], ...]
    forms: tuple[frozenset[str], ...]
    rank: Callable[[Shapes, Features], int]
    terms: frozenset[str] = frozenset()
    markers: frozenset[str] = frozenset()
    rows: str | None = None
    alpha: Alpha = Alpha.OF_RANK

    @property
    def factors(self) -> frozenset[str]:
        """The parts that are multiplied with each other."""
        return self.parts - self.terms

    @property
    def parts(self) -> frozenset[str]:
        """All parts that a layer can have."""
        return frozenset[str]().union(*self.forms)

    def nearest_form(self, present: Iterable[str]) -> frozenset[str]:
        """The form that differs least from these parts."""
        found = frozenset(present)
        return min(self.forms, key=lambda form: len(form ^ found))


def product_rank(shapes: Shapes, up: str, down: str, features: Features) -> int:
    """The rank of a product of two matrices of the layer's size. Raises Misfit."""
    rank = shapes[down][0] if shapes[down] else 0
    if rank < 1 or shapes[up] != (features[0], rank) or shapes[down] != (rank, features[1]):
        raise Misfit(f"{shape_text(shapes[up])} times {shape_text(shapes[down])}")
    return rank


def shape_text(shape: tuple[int, ...]) -> str:
    """The shape for a message."""
    return "×".join(map(str, shape)) or "a scalar"
