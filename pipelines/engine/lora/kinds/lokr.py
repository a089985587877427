"""LoKr: the Kronecker product of two small matrices."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pipelines.engine.lora.terms import Product, Term

# Of the base layer's multiplications. Factor 8 takes 1/8, factor 4 a quarter, which takes longer
# than writing the changed weight.
MAX_SHARE = 1 / 4


@dataclass(frozen=True, slots=True)
class Kronecker(Product):
    """`left ⊗ right` as two products. left: (l, m), right: (k, n), the layer is l·k by m·n."""

    left: torch.Tensor
    right: torch.Tensor

    def apply(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (height, width), (k, n) = self.left.shape, self.right.shape
        tokens = x.shape[0]
        inner = torch.mm(x.reshape(tokens * width, n), self.right.t()).view(tokens, width, k)
        # one kernel for product and sum
        left = self.left.expand(tokens, height, width)
        return torch.baddbmm(y.view(tokens, height, k), left, inner).view_as(y)

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return _rows(self.left, self.right, rows)


@dataclass(frozen=True, slots=True)
class KroneckerWeight(Term):
    """`left ⊗ right`, recomposed."""

    left: torch.Tensor
    right: torch.Tensor

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        return _rows(self.left, self.right, rows)


def lokr_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The layer's change times `factor`. Low-rank factors are multiplied out in fp32."""
    left = _matrix(tensors, "lokr_w1") * factor
    right = _matrix(tensors, "lokr_w2")
    share = 1 / left.shape[0] + 1 / right.shape[1]
    yield (KroneckerWeight if share > MAX_SHARE else Kronecker)(left, right)


def _matrix(tensors: Mapping[str, torch.Tensor], part: str) -> torch.Tensor:
    if part in tensors:
        return tensors[part].float()
    return tensors[f"{part}_a"].float() @ tensors[f"{part}_b"].float()


def _rows(left: torch.Tensor, right: torch.Tensor, rows: slice) -> torch.Tensor:
    """Rows of `left ⊗ right` in fp32: one row of `left` with some of `right`, or whole blocks."""
    left, right = left.float(), right.float()
    height, start, pieces = right.shape[0], rows.start, []
    while start < rows.stop:
        first, offset = divmod(start, height)
        whole = 0 if offset else (rows.stop - start) // height
        if whole:
            pieces.append(torch.kron(left[first : first + whole], right))
        else:
            end = min(height, offset + rows.stop - start)
            pieces.append(torch.kron(left[first : first + 1], right[offset:end]))
        start += len(pieces[-1])
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]
