"""The weights of norms, one number per channel: a difference, or a new weight.

The model's linear layers tell which norms there are. A norm of queries or keys is as wide as one
head, which they do not tell: a width that divides the layer's is accepted until the model is there.
"""

import re
from collections.abc import Iterator

from pipelines.api.families import Linears
from pipelines.files.lora_format.kinds.kind import Alpha, Features, Kind, Misfit, Shapes, shape_text

# By the end of the linear layer's name, before or after which the norm is.
_NORMS = {
    "attn.to_q": "attn.norm_q",
    "attn.to_k": "attn.norm_k",
    "attn.add_q_proj": "attn.norm_added_q",
    "attn.add_k_proj": "attn.norm_added_k",
}
# What the tensors of other kinds mean for a norm. PEFT's `modules_to_save` are whole weights.
PARTS = {
    "diff": "w_norm",
    "w_norm": "w_norm",
    "set_weight": "norm_weight",
    "norm_weight": "norm_weight",
}


def norms_of(linears: Linears) -> dict[str, tuple[int, int]]:
    """The norms by name, with the largest and the smallest width that each can have."""
    return dict(_norms_of(linears))


def _norms_of(linears: Linears) -> Iterator[tuple[str, tuple[int, int]]]:
    if "txt_in" in linears:
        yield "txt_norm", (linears["txt_in"][1], linears["txt_in"][1])
    for linear, norm in _NORMS.items():
        for name, (out_features, _) in linears.items():
            if name.endswith(f".{linear}"):
                yield name.removesuffix(linear) + norm, (out_features, 1)


def _rank(shapes: Shapes, features: Features) -> int:
    """0: a norm has no rank. Raises Misfit."""
    largest, smallest = features
    for shape in shapes.values():
        if len(shape) != 1 or not smallest <= shape[0] <= largest or largest % shape[0]:
            raise Misfit(shape_text(shape))
    return 0


NORM = Kind(
    name="norm",
    suffixes=((re.compile(r"\.w_norm$"), "w_norm"), (re.compile(r"\.weight$"), "norm_weight")),
    forms=(frozenset({"w_norm"}), frozenset({"norm_weight"})),
    rank=_rank,
    terms=frozenset({"norm_weight"}),
    alpha=Alpha.IGNORED,
)
