"""LoKr: the Kronecker product of w1 (l, m) and w2 (k, n), each whole or a product of two matrices.

The layer has l·k by m·n features.
"""

import re
from itertools import product

from pipelines.files.lora_format.kinds.kind import Features, Kind, Misfit, Shapes, shape_text

_WHOLE = {"lokr_w1": ("lokr_w1",), "lokr_w2": ("lokr_w2",)}
_SPLIT = {factor: (f"{factor}_a", f"{factor}_b") for factor in _WHOLE}
_PARTS = tuple(part for factor in _WHOLE for part in (*_WHOLE[factor], *_SPLIT[factor]))


def _rank(shapes: Shapes, features: Features) -> int:
    """The rank of w2, else of w1; 0 for two whole matrices, which LyCORIS scales by no alpha.

    Their alpha is then a placeholder that may be huge: 9999999999, which is infinite in fp16.
    """
    sizes, ranks = [], []
    for factor in ("lokr_w2", "lokr_w1"):
        size, rank = _factor(shapes, factor)
        sizes.append(size)
        ranks.append(rank)
    (k, n), (l, m) = sizes  # noqa: E741
    if (l * k, m * n) != features:
        raise Misfit(f"{shape_text((l, m))} by {shape_text((k, n))}")
    return ranks[0] or ranks[1]


def _factor(shapes: Shapes, factor: str) -> tuple[tuple[int, int], int]:
    """The size of a factor, and its rank or 0. Raises Misfit."""
    found = [shapes[part] for part in (factor, *_SPLIT[factor]) if part in shapes]
    if any(len(shape) != 2 for shape in found) or (len(found) == 2 and found[0][1] != found[1][0]):
        raise Misfit(" times ".join(map(shape_text, found)))
    return (found[0][0], found[-1][1]), found[0][1] if len(found) == 2 else 0


LOKR = Kind(
    name="LoKr",
    suffixes=tuple((re.compile(rf"\.{part}$"), part) for part in _PARTS),
    forms=tuple(
        frozenset(first + second)
        for first, second in product(*((_WHOLE[f], _SPLIT[f]) for f in _WHOLE))
    ),
    rank=_rank,
)
