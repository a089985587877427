"""The change of one layer by all LoRAs of a stack."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipelines.engine.lora.kinds.dora import Gain
from pipelines.engine.lora.kinds.lora import LowRank
from pipelines.engine.lora.recompose import recompose
from pipelines.engine.lora.terms import Product, Side, Term, Transform


@dataclass(frozen=True, slots=True)
class LayerChange:
    """The sum of a layer's terms, and a shift of its bias, (out).

    Products are added to the base layer's output, and transforms change its input or its output.
    Other terms, and all beside them, are added to a copy of the weight.
    """

    low_rank: LowRank | None = None
    products: tuple[Product, ...] = ()
    transforms: tuple[Transform, ...] = ()
    recomposed: tuple[Term, ...] = ()
    shift: torch.Tensor | None = None

    @classmethod
    def of(cls, terms: Sequence[Term], shift: torch.Tensor | None = None) -> "LayerChange":
        """The change that is the sum of the terms, in the cheapest form that is exact."""
        low_rank = [term for term in terms if isinstance(term, LowRank)]
        if low_rank and len(low_rank) == len(terms):
            return cls(LowRank.joined(low_rank), shift=shift)
        products = [term for term in terms if isinstance(term, Product)]
        transforms = [term for term in terms if isinstance(term, Transform)]
        # One after the other, transforms on both sides would also multiply with each other. Where
        # the weight is recomposed, the other terms are cheap, and rounded once with it.
        sides = {term.side for term in transforms}
        if len(products) + len(transforms) < len(terms) or len(sides) > 1:
            others = [term for term in terms if not isinstance(term, LowRank)]
            joined = [LowRank.joined(low_rank)] if low_rank else []
            return cls(recomposed=(*joined, *others), shift=shift)
        gains = [term for term in transforms if isinstance(term, Gain)]
        return cls(
            LowRank.joined(low_rank) if low_rank else None,
            tuple(term for term in products if not isinstance(term, LowRank)),
            (*Gain.joined(gains), *(term for term in transforms if not isinstance(term, Gain))),
            shift=shift,
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms."""
        first = () if self.low_rank is None else (self.low_rank,)
        return *first, *self.products, *self.transforms, *self.recomposed

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What the change holds in memory."""
        shift = () if self.shift is None else (self.shift,)
        return *(tensor for term in self.terms for tensor in term.tensors), *shift

    @property
    def size_bytes(self) -> int:
        """The memory that the change holds."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def apply(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scratch: torch.Tensor | None,
    ) -> torch.Tensor:
        """The changed layer's output. `scratch` has room for the weight if terms are recomposed."""
        flat = x.flatten(0, -2)
        if self.shift is not None:
            bias = self.shift if bias is None else bias + self.shift
        if self.recomposed:
            assert scratch is not None
            weight = recompose(weight, self.recomposed, scratch)
        outputs = [term for term in self.transforms if term.side is Side.OUTPUT]
        inputs = _sum(flat, [term for term in self.transforms if term.side is Side.INPUT])
        base = functional.linear(inputs, weight, None if outputs else bias)
        products = self.products if self.low_rank is None else (self.low_rank, *self.products)
        if outputs or len(products) > 1:
            start = base.new_zeros(1) if bias is None or not outputs else bias
            y = add_changes(base, flat, outputs, products, start)
        else:
            y = products[0].apply(flat, base) if products else base
        return y.view(*x.shape[:-1], y.shape[-1])


def add_changes(
    base: torch.Tensor,
    x: torch.Tensor,
    transforms: Sequence[Transform],
    products: Sequence[Product],
    start: torch.Tensor,
) -> torch.Tensor:
    """The base output plus its transforms, products and `start`, which is (out) or (1).

    The changes are summed before they are added: each sum with the base rounds as much as the
    rounding of a merged weight does.
    """
    total = start.expand_as(base)
    for transform in transforms:
        total = transform.apply(base, total)
    for product in products:
        total = product.apply(x, total)
    return base.add_(total)


def _sum(vectors: torch.Tensor, transforms: Sequence[Transform]) -> torch.Tensor:
    if len(transforms) < 2:
        return transforms[0].apply(vectors, vectors) if transforms else vectors
    # first the changes, which are smaller and so lose less when they are rounded
    total = vectors.new_zeros(1).expand_as(vectors)
    for transform in transforms:
        total = transform.apply(vectors, total)
    return total.add_(vectors)
