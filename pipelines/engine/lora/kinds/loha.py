"""LoHa: the Hadamard product of two products of low-rank matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pipelines.engine.lora.kinds.lora import LowRank
from pipelines.engine.lora.terms import Term

# Two products of rank 16 are one of rank 256. Rank 32 would be 1024, which costs more memory than
# a copy of the weight.
MAX_PRODUCT_RANK = 256


@dataclass(frozen=True, slots=True)
class Hadamard(Term):
    """`(a @ b) * (c @ d)`. a, c: (out, rank), b, d: (rank, in)."""

    a: torch.Tensor
    b: torch.Tensor
    c: torch.Tensor
    d: torch.Tensor

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        first = self.a[rows].float() @ self.b.float()
        return first.mul_(self.c[rows].float() @ self.d.float())


def loha_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The layer's change times `factor`."""
    a, b, c, d = (tensors[part] for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    a = a.float() * factor
    if b.shape[0] * d.shape[0] > MAX_PRODUCT_RANK:
        yield Hadamard(a, b, c, d)
        return
    # The Hadamard product of two sums of outer products is the sum of the products of all pairs:
    # Σᵢⱼ (aᵢ∘cⱼ)(bᵢ∘dⱼ)ᵀ. This is exact.
    b, c, d = b.float(), c.float(), d.float()
    up = (a[:, :, None] * c[:, None, :]).flatten(1)
    down = (b[:, None, :] * d[None, :, :]).flatten(0, 1)
    yield LowRank(down, up)
