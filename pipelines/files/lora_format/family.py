"""The model that a LoRA was made for, guessed from the names and shapes of its tensors."""

import re
from collections.abc import Mapping

from pipelines.api.families import FAMILIES

# The first match wins; each pattern has names of layers that only this family has.
_FAMILIES = (
    ("Flux or HunyuanVideo", r"single_transformer_blocks|double_blocks|single_blocks"),
    (
        "Stable Diffusion XL",
        r"lora_te2_|put_blocks_\d_1_t|attentions[._]\d[._]transformer_blocks[._][2-9]",
    ),
    ("Stable Diffusion 1 or 2", r"(up|down|mid)_blocks?[._].*attentions|(input|output)_blocks"),
    ("Stable Diffusion 3", r"joint_blocks|transformer_blocks[._]\d+[._]attn2"),
    ("HiDream", r"(double|single)_stream_blocks"),
    ("Krea", r"txtfusion"),
    ("Wan", r"blocks[._]\d+[._](self_attn|cross_attn)|^([\w.]*\.)?blocks[._]\d+[._]attn[12][._]"),
    ("Z-Image or Lumina", r"(layers|noise_refiner)[._]\d+[._](attention|feed_forward)"),
    ("LTX-Video or PixArt", r"transformer_blocks[._]\d+[._](attn1|ff[._]net)"),
    *((family.lora_marks.name, family.lora_marks.pattern) for family in FAMILIES.values()),
    ("a model with Qwen-Image's names", r"transformer_blocks[._]\d+[._]attn[._]to_[qkv]"),
    ("a text encoder", r"^(lora_te\d?_|text_encoder|te\d?\.)|self_attn[._][qkv]_proj"),
)
# The width of `attn.to_q` distinguishes models whose layers have the same names.
_WIDTHS = {1152: "PixArt", 1536: "Stable Diffusion 3", 2432: "Stable Diffusion 3.5"}
# atomic: a name with many marks would take cubic time
_QUERY = re.compile(r"attn[._]to_q[._](?>.*?(lora_A|lora_down|lora\.down)).*weight$")


def guess_family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The family's name, or None when the names and shapes of the tensors do not tell."""
    for key, shape in shapes.items():
        if _QUERY.search(key) and len(shape) == 2 and shape[1] in _WIDTHS:
            return _WIDTHS[shape[1]]
    for family, pattern in _FAMILIES:
        # name by name, and no map: both would hold the interpreter's lock for all of them
        compiled = re.compile(pattern)
        if any(compiled.search(key) for key in shapes):
            return family
    return None
