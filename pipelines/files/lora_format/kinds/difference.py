"""Whole differences: of the weight, (out, in), of the bias, (out), or of both."""

import re

from pipelines.files.lora_format.kinds.companion import Companion
from pipelines.files.lora_format.kinds.kind import Alpha, Features, Kind, Misfit, Shapes, shape_text


def _rank(shapes: Shapes, features: Features) -> int:
    """0: a difference is not scaled by alpha. Raises Misfit."""
    for shape in shapes.values():
        if shape != features:
            raise Misfit(shape_text(shape))
    return 0


# A weight is new where ComfyUI's extraction says `set_weight`; its difference to the base counts.
DIFFERENCE = Kind(
    name="difference",
    suffixes=(
        (re.compile(r"\.diff$"), "diff"),
        (re.compile(r"\.set_weight$"), "set_weight"),
    ),
    # the last one is for layers that have a shift of the bias alone
    forms=(frozenset({"diff"}), frozenset({"set_weight"}), frozenset()),
    rank=_rank,
    # a new weight of zeros is a change
    terms=frozenset({"set_weight"}),
    alpha=Alpha.IGNORED,
    rows="diff",
)
SHIFT = Companion(
    part="shift",
    name="",
    suffixes=(re.compile(r"\.diff_b$"),),
    kinds=frozenset({"LoRA", "LoHa", "LoKr", "difference"}),
    fits=lambda shape, features: shape == features[:1],
)
# PEFT's `lora_bias`, which is scaled like the LoRA
BIAS = Companion(
    part="bias",
    name="",
    suffixes=(re.compile(r"\.lora_B(\.[^.]++)*\.bias$"),),
    kinds=frozenset({"LoRA"}),
    fits=lambda shape, features: shape == features[:1],
)
