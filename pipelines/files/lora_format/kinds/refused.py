"""Kinds that are not applied, by the ends of their keys, so that a refusal names them."""

import re
from collections.abc import Mapping

_REFUSED = (
    (re.compile(r"\.(a1|a2|b1|b2)(\.weight)?$"), "a GLoRA"),
    (re.compile(r"\.(on_input|ia3_l(\.[^.]++)*)$"), "an IA3"),
    (re.compile(r"\.(q_layer|p_layer|lambda_layer)(\.weight)?$"), "a T-LoRA"),
    (re.compile(r"\.hada_t\d$"), "a LoHa for convolutions"),
    (re.compile(r"\.lokr_t2$"), "a LoKr for convolutions"),
    (re.compile(r"\.lora_mid(\.weight)?$"), "a LoRA for convolutions"),
    (re.compile(r"\.lora_E(\.[^.]++)*$"), "an AdaLoRA"),
    (re.compile(r"\.vera_lambda_\w+$"), "a VeRA"),
    (re.compile(r"^bundle_emb\."), "a LoRA with embeddings (bundle_emb)"),
    (re.compile(r"\.scale_weight$"), "a LoRA in scaled fp8 (scale_weight)"),
    (re.compile(r"\.b_norm$"), "a LoRA with biases of norms (b_norm)"),
    (re.compile(r"\.diff_m$"), "a full difference of convolutions (.diff_m)"),
)
_OFT_BLOCKS = re.compile(r"\.oft_blocks$")


def refused_kind(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The name of a kind that is not applied, or None."""
    # key by key, and no map: it would hold the interpreter's lock for all of them
    for mark, kind in _REFUSED:
        if any(mark.search(key) for key in shapes):
            return kind
    if any(len(shape) == 4 and _OFT_BLOCKS.search(key) for key, shape in shapes.items()):
        return "a BOFT"
    return None
