"""Files that are no LoRA at all, by the names of their tensors."""

import re
from collections.abc import Mapping

# The first match wins.
_FILES = (
    (r"\.(qweight|wscales|smooth_factor)$", "a model quantised by SVDQuant (nunchaku)"),
    (r"(^|[._])control(net)?_(blocks|add|img|x_embedder|context)", "a ControlNet"),
    (r"^(emb_params|string_to_param|clip_[lg]|<.*>)$", "an embedding (textual inversion)"),
    (
        r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(conv_in|conv1|down|up|mid|head)",
        "a VAE",
    ),
)
_WHOLE_MODEL = re.compile(r"(blocks|layers)[._]\d+\..*\.weight$")
_ADAPTER = re.compile(r"lora|lokr_|hada_|oft_|\.diff(_\w)?$|dora_|ia3_|\.alpha$")


def other_kind(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The name of what the file is, or None for what may be a LoRA."""
    # key by key, and no map: it would hold the interpreter's lock for all of them
    for mark, kind in _FILES:
        compiled = re.compile(mark)
        if any(compiled.search(key) for key in shapes):
            return kind
    is_adapter = any(_ADAPTER.search(key) for key in shapes)
    if not is_adapter and any(_WHOLE_MODEL.search(key) for key in shapes):
        return "a whole checkpoint"
    return None
