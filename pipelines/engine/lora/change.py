"""The change of one layer by all LoRAs of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipelines.engine.lora.kinds.lora import LowRank
from pipelines.engine.lora.recompose import recompose
from pipelines.engine.lora.terms import Product, Side, Term, Transform


@dataclass(frozen=True, slots=True)
class LayerChange:
    """The sum of a layer's terms.

    Products are added to the base layer's output, transforms change its input or its output, and
    the other terms are added to a copy of its weight.
    """

    low_rank: LowRank | None = None
    products: tuple[Product, ...] = ()
    transforms: tuple[Transform, ...] = ()
    recomposed: tuple[Term, ...] = ()

    @classmethod
    def of(cls, terms: Sequence[Term]) -> "LayerChange":
        """The change that is the sum of the terms, in the cheapest form that is exact."""
        low_rank = [term for term in terms if isinstance(term, LowRank)]
        products = [t for t in terms if isinstance(t, Product) and not isinstance(t, LowRank)]
        transforms = [term for term in terms if isinstance(term, Transform)]
        others: list[Term] = [t for t in terms if not isinstance(t, Product | Transform)]
        # one after the other, transforms on both sides would also multiply with each other
        if others or len({term.side for term in transforms}) > 1:
            others, transforms = [*others, *transforms], []
        return cls(
            LowRank.joined(low_rank) if low_rank else None,
            tuple(products),
            tuple(transforms),
            tuple(others),
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms."""
        first = () if self.low_rank is None else (self.low_rank,)
        return *first, *self.products, *self.transforms, *self.recomposed

    @property
    def size_bytes(self) -> int:
        """The memory that the terms hold."""
        return sum(tensor.nbytes for term in self.terms for tensor in term.tensors)

    def apply(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scratch: torch.Tensor | None,
    ) -> torch.Tensor:
        """The changed layer's output. `scratch` has room for the weight if terms are recomposed."""
        flat = x.flatten(0, -2)
        if self.recomposed:
            assert scratch is not None
            weight = recompose(weight, self.recomposed, scratch)
        if self.transforms:
            y = self._transformed(flat, weight, bias)
        else:
            y = functional.linear(flat, weight, bias)
        if self.low_rank is not None:
            y = self.low_rank.apply(flat, y)
        for product in self.products:
            y = product.apply(flat, y)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _transformed(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self.transforms[0].side is Side.INPUT:
            # all of the same vectors: one after the other, transforms would multiply
            return functional.linear(_sum(x, self.transforms), weight, bias)
        y = _sum(functional.linear(x, weight), self.transforms)
        return y if bias is None else y + bias


def _sum(vectors: torch.Tensor, transforms: Sequence[Transform]) -> torch.Tensor:
    total = vectors
    for transform in transforms:
        total = transform.apply(vectors, total)
    return total
