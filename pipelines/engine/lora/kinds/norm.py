"""Changed weights of norms."""

from collections.abc import Iterator, Mapping

import torch

from pipelines.engine.lora.kinds.difference import Difference, Replacement
from pipelines.engine.lora.terms import Term


def norm_terms(tensors: Mapping[str, torch.Tensor], factor: float) -> Iterator[Term]:
    """The norm's change times `factor`."""
    if "w_norm" in tensors:
        yield Difference(tensors["w_norm"].float() * factor)
    if "norm_weight" in tensors:
        yield Replacement(tensors["norm_weight"], factor)
