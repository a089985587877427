"""Layers that compute with a changed weight while a change is active.

They get their class by assignment, so their parameters, names, hooks and state dict do not change,
and without a change they return the base layer's result. The change is a plain attribute: under
torch.compile a parameter of another rank needs another graph, a plain tensor does not.
"""

from dataclasses import dataclass

import torch
from diffusers.models.normalization import RMSNorm
from torch import nn

from pipelines.engine.lora.change import LayerChange


class AdaptableLinear(nn.Linear):
    """nn.Linear that computes a changed weight's product while a change is active."""

    change: LayerChange | None = None
    scratch: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.change is None:
            return super().forward(x)
        return self.change.apply(x, self.weight, self.bias, self.scratch)


@dataclass(frozen=True, slots=True)
class _ChangedNorm:
    """What RMSNorm's `forward` reads of a norm."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    eps: float


class AdaptableNorm(RMSNorm):  # type: ignore[misc]
    """RMSNorm that scales by a changed weight while a change is active."""

    change: LayerChange | None = None
    scratch: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor
        if self.change is None:
            changed = super().forward(x)
            return changed
        every = slice(0, len(self.weight))
        total = self.weight.float() + sum(
            term.delta(self.weight, every) for term in self.change.terms
        )
        norm = _ChangedNorm(total.to(self.weight.dtype), self.bias, self.eps)
        changed = RMSNorm.forward(norm, x)
        return changed
