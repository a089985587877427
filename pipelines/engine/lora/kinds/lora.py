"""LoRA: a product of two low-rank matrices."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from pipelines.engine.lora.terms import Product, Term, owned


@dataclass(frozen=True, slots=True)
class LowRank(Product):
    """`up @ down`. down: (rank, in), up: (out, rank)."""

    down: torch.Tensor
    up: torch.Tensor

    def apply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        # one fused kernel for product and sum, without a second tensor of the output's size
        return torch.addmm(y, functional.linear(x, self.down), self.up.t())

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return self.up[rows].float() @ self.down.float()

    def cast(self, dtype: torch.dtype) -> "LowRank":
        # without copies, which `joined` makes; a switch between LoRAs takes half of its time here
        return LowRank(self.down.to(dtype), self.up.to(dtype))

    @staticmethod
    def joined(terms: Sequence["LowRank"]) -> "LowRank":
        """The sum of the terms: ranks are concatenated."""
        if len(terms) == 1:
            return LowRank(owned(terms[0].down), owned(terms[0].up))
        return LowRank(
            torch.cat([term.down for term in terms]),
            torch.cat([term.up for term in terms], dim=1),
        )


def lora_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The layer's change times `factor`, which is folded into `up` in fp32.

    In bf16, an alpha of 3 at rank 4 would already be wrong by 0.3 %.
    """
    up = tensors["up"].float()
    yield LowRank(tensors["down"], up if factor == 1 else up * factor)
