"""A changed weight in memory that all layers share, for terms that have no cheaper form."""

from collections.abc import Sequence

import torch

from pipelines.engine.lora.terms import Term

# At a time, in fp32: two temporaries of 8 MiB beside the copy of the weight.
MAX_ELEMENTS = 2**21


def recompose(weight: torch.Tensor, terms: Sequence[Term], scratch: torch.Tensor) -> torch.Tensor:
    """The base weight plus the terms, as a view into `scratch`, which the next layer overwrites.

    The sum is in fp32 and is rounded once, like a merged weight.
    """
    out_features, in_features = weight.shape
    result = scratch[: weight.numel()].view_as(weight)
    step = max(1, MAX_ELEMENTS // in_features)
    for start in range(0, out_features, step):
        rows = slice(start, min(start + step, out_features))
        total = terms[0].delta(weight, rows)
        for term in terms[1:]:
            total += term.delta(weight, rows)
        result[rows] = total.add_(weight[rows])
    return result
