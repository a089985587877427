"""A changed weight in memory that all layers share, for terms that have no cheaper form."""

from collections.abc import Iterator, Sequence

import torch

from pipelines.engine.lora.terms import Term

# At a time, in fp32: two temporaries of 8 MiB beside the copy of the weight.
MAX_ELEMENTS = 2**21


def recompose(weight: torch.Tensor, terms: Sequence[Term], scratch: torch.Tensor) -> torch.Tensor:
    """The base weight plus the terms, as a view into `scratch`, which the next layer overwrites.

    The sum is in fp32 and is rounded once, like a merged weight.
    """
    result = scratch[: weight.numel()].view_as(weight)
    for rows, changed in changed_rows(weight, terms):
        result[rows] = changed
    return result


def changed_rows(
    weight: torch.Tensor, terms: Sequence[Term]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows of the base weight plus the terms in fp32, some at a time."""
    for rows in row_slices(weight):
        total = terms[0].delta(weight, rows)
        for term in terms[1:]:
            total += term.delta(weight, rows)
        yield rows, total.add_(weight[rows])


def row_slices(weight: torch.Tensor) -> Iterator[slice]:
    """Slices of the weight's rows that bound temporaries in fp32."""
    out_features, in_features = weight.shape
    step = max(1, MAX_ELEMENTS // in_features)
    for start in range(0, out_features, step):
        yield slice(start, min(start + step, out_features))
