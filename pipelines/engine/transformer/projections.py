"""Linear layers with one input, computed as one product."""

from collections.abc import Sequence

import torch
from torch import nn


class JointProjection:
    """Query, key and value of one stream, whose weights are views into one tensor.

    The layers stay what they are: their names, state dict and results do not change, and no memory
    is added. While one has an active change, or other weights than it had here, each layer computes
    its part itself.
    """

    def __init__(self, members: Sequence[nn.Linear]) -> None:
        """Move the members' weights and biases into one tensor each."""
        self._members = tuple(members)
        self._weight = torch.cat([member.weight.detach() for member in members])
        self._bias = torch.cat([member.bias.detach() for member in members])
        sizes = [member.out_features for member in members]
        weights, biases = torch.split(self._weight, sizes), torch.split(self._bias, sizes)
        for member, weight, bias in zip(members, weights, biases, strict=True):
            member.weight.data = weight
            member.bias.data = bias
        self._addresses = [weight.data_ptr() for weight in weights]

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Write the layers' outputs side by side. x: (tokens, in), out: (tokens, 3 × out)."""
        if self._is_whole():
            torch.addmm(self._bias, x, self._weight.T, out=out)
        else:
            for member, part in zip(self._members, out.chunk(len(self._members), -1), strict=True):
                part.copy_(member(x))

    def _is_whole(self) -> bool:
        members = zip(self._members, self._addresses, strict=True)
        return all(
            getattr(member, "change", None) is None and member.weight.data_ptr() == address
            for member, address in members
        )
