"""LoHa: the Hadamard product of two products, w1_a times w1_b and w2_a times w2_b."""

import re

from pipelines.files.lora_format.kinds.kind import Features, Kind, Shapes, product_rank

PARTS = ("w1_a", "w1_b", "w2_a", "w2_b")


def _rank(shapes: Shapes, features: Features) -> int:
    """The first product's rank; the second may have another."""
    rank = product_rank(shapes, "w1_a", "w1_b", features)
    product_rank(shapes, "w2_a", "w2_b", features)
    return rank


LOHA = Kind(
    name="LoHa",
    suffixes=tuple((re.compile(rf"\.hada_{part}$"), part) for part in PARTS),
    forms=(frozenset(PARTS),),
    rank=_rank,
)
