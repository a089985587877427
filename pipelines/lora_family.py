"""Guesses which model a LoRA was made for, from the names of its keys."""

import re
from collections.abc import Iterable

# The first that matches; the marks are names of layers that only this family has.
_FAMILIES = (
    ("Flux", r"single_transformer_blocks|double_blocks|single_blocks"),
    ("Stable Diffusion XL", r"lora_te2_|add_embedding|(input|middle|output)_blocks_\d+_1_transf"),
    ("Stable Diffusion 1 or 2", r"(up|down|mid)_blocks?[._].*attentions|(input|output)_blocks"),
    ("Stable Diffusion 3", r"joint_blocks|transformer_blocks[._]\d+[._]attn2"),
    ("Wan", r"blocks[._]\d+[._](self_attn|cross_attn)"),
    ("Z-Image or Lumina", r"(layers|noise_refiner)[._]\d+[._](attention|feed_forward)"),
    ("LTX-Video or PixArt", r"transformer_blocks[._]\d+[._](attn1|ff[._]net)"),
    ("HunyuanVideo", r"txt_in[._]individual_token_refiner|img_attn_qkv"),
    ("Qwen-Image", r"transformer_blocks[._]\d+[._](attn[._](add_[qkv]_proj|to_add)|(img|txt)_m)"),
    ("a text encoder", r"^(lora_te\d?_|text_encoder|te\d?\.)|self_attn[._][qkv]_proj"),
    ("a model with Qwen-Image's names", r"transformer_blocks[._]\d+[._]attn[._]to_[qkv]"),
)


def guess_family(keys: Iterable[str]) -> str | None:
    """The family's name, or None when the names say nothing."""
    joined = "\n".join(keys)
    for family, pattern in _FAMILIES:
        if re.search(pattern, joined, re.MULTILINE):
            return family
    return None
