"""OFT: rotations of the base weight's rows or columns, block by block."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from pipelines.engine.lora.terms import Side, Term, Transform
from pipelines.files.lora_format.kinds.oft import block_size


@dataclass(frozen=True, slots=True)
class Rotation(Transform):
    """Blocks that are multiplied with vectors on either side of the base weight.

    blocks: (count, size, size), or (1, size, size) for the same block everywhere.
    """

    blocks: torch.Tensor

    def apply(self, vectors: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        blocks = self._all_blocks(vectors.shape[1])
        shape = len(vectors), *blocks.shape[:2]
        sums, factors = (tensor.view(shape).transpose(0, 1) for tensor in (total, vectors))
        changed: torch.Tensor = torch.baddbmm(sums, factors, blocks.mT)
        return changed.transpose(0, 1).reshape(vectors.shape)

    def delta(self, weight: torch.Tensor, rows: slice) -> torch.Tensor:
        size = self.blocks.shape[-1]
        if self.side is Side.INPUT:
            blocks = self._all_blocks(weight.shape[1]).float()
            by_block = weight[rows].float().view(-1, *blocks.shape[:2])
            return torch.einsum("okb,kbc->okc", by_block, blocks).flatten(1)
        first, last = rows.start // size, -(-rows.stop // size)
        blocks = self._all_blocks(weight.shape[0])[first:last].float()
        by_block = weight[first * size : last * size].float().view(-1, size, weight.shape[1])
        changed = torch.bmm(blocks, by_block).flatten(0, 1)
        return changed[rows.start - first * size : rows.stop - first * size].contiguous()

    def _all_blocks(self, features: int) -> torch.Tensor:
        size = self.blocks.shape[-1]
        return self.blocks.expand(features // size, size, size)


def oft_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The layer's change times `factor`."""
    if "oft_blocks" in tensors:
        side, changed = Side.OUTPUT, _rows(tensors)
    else:
        side, changed = Side.INPUT, _columns(tensors)
    identity = torch.eye(changed.shape[-1], device=changed.device)
    yield Rotation(side, factor * (changed - identity))


def _rows(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """LyCORIS: Cayley's transform of the blocks, whose norm alpha times the rows bounds."""
    blocks = tensors["oft_blocks"].float()
    skew = blocks - blocks.mT
    alpha = float(tensors["alpha"].float()) if "alpha" in tensors else 0.0
    bound = alpha * blocks.shape[0] * blocks.shape[1]
    norm = float(skew.norm()) + 1e-8
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    identity = torch.eye(skew.shape[-1], device=skew.device)
    rotated: torch.Tensor = torch.linalg.solve(identity - skew, identity + skew, left=False).mT
    if "rescale" in tensors:
        rotated = tensors["rescale"].float().view(*blocks.shape[:2], 1) * rotated
    return rotated


def _columns(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """OneTrainer: the series 1 + 2Q + 2Q² + 2Q³ + Q⁴ for Cayley's transform of the entries."""
    entries = tensors["oft_weight"].float()
    size = block_size(entries.shape[1])
    if "scaled_oft" in tensors:
        entries = entries / (2 * math.sqrt(size - 1))
    upper = torch.zeros(len(entries), size, size, device=entries.device)
    row, column = torch.triu_indices(size, size, 1, device=entries.device)
    upper[:, row, column] = entries
    skew = upper - upper.mT
    square = skew @ skew
    identity = torch.eye(size, device=entries.device)
    return (identity + 2 * (skew + square + square @ skew) + square @ square).mT
