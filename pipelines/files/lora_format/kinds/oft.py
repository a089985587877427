"""OFT: the base weight's rows (LyCORIS) or columns (OneTrainer), rotated block by block.

LyCORIS has blocks (count, size, size) and, beside them, the rows' new scales. Its alpha is a bound
on the rotation. OneTrainer has the entries above the diagonal, (count, size·(size - 1) / 2), with
one block for all or one for each, and a marker if they are scaled by the size.
"""

import math
import re

from pipelines.files.lora_format.kinds.kind import Alpha, Features, Kind, Misfit, Shapes, shape_text

_SUFFIXES = {
    "oft_blocks": r"\.oft_blocks$",
    "rescale": r"\.rescale$",
    "oft_weight": r"\.oft_R\.weight$",
    "scaled_oft": r"\.oft_R\.scaled_oft$",
}


def block_size(entries: int) -> int:
    """The size of a block with this many entries above its diagonal."""
    return (1 + math.isqrt(1 + 8 * entries)) // 2


def _rank(shapes: Shapes, features: Features) -> int:
    """0: an OFT has no rank. Raises Misfit."""
    shape = shapes.get("oft_blocks") or shapes["oft_weight"]
    if "oft_blocks" in shapes:
        is_fit = len(shape) == 3 and shape[1] == shape[2] and shape[0] * shape[1] == features[0]
        is_fit = is_fit and shapes.get("rescale", features[:1]) in (features[:1], (features[0], 1))
    else:
        size = block_size(shape[-1])
        is_fit = len(shape) == 2 and size * (size - 1) // 2 == shape[1]
        is_fit = is_fit and features[1] % size == 0 and shape[0] in (1, features[1] // size)
    if not is_fit:
        raise Misfit(f"blocks of {shape_text(shape)}")
    return 0


OFT = Kind(
    name="OFT",
    suffixes=tuple((re.compile(pattern), part) for part, pattern in _SUFFIXES.items()),
    forms=(
        frozenset({"oft_blocks"}),
        frozenset({"oft_blocks", "rescale"}),
        frozenset({"oft_weight"}),
        frozenset({"oft_weight", "scaled_oft"}),
    ),
    rank=_rank,
    terms=frozenset({"rescale", "scaled_oft"}),
    markers=frozenset({"scaled_oft"}),
    alpha=Alpha.PART,
)
