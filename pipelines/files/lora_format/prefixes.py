"""The words that trainers and wrappers put before a layer's name.

A closed vocabulary that is stripped word by word, because tools wrap each other's names:
`base_model.model.diffusion_model.`, `transformer.base_model.model.`, `_orig_mod.module.`.
"""

import re
from collections.abc import Iterable, Mapping

WORDS = (
    "base_model",
    "model",
    "transformer",
    "diffusion_model",
    "pipe",
    "dit",
    "unet",
    "module",
    "_orig_mod",
    "lora_unet",
    "lora_transformer",
    "lycoris",
)
# The longest first: `lora_transformer_` before `transformer_`.
_WORD = re.compile(rf"(?:{'|'.join(sorted(WORDS, key=len, reverse=True))})[._]")
# No tool has more, and each is searched for in the model's names.
MAX_WORDS = 8


def flat_names(layers: Iterable[str]) -> dict[str, str]:
    """The layers by every spelling of their names, joined by underscores."""
    names = {layer.replace(".", "_"): layer for layer in layers}
    for flat, layer in list(names.items()):
        # a list of a layer and a dropout, and an object of older versions of diffusers
        names.setdefault(re.sub(r"_to_out_0$", "_to_out", flat), layer)
        names.setdefault(flat.replace("_attn_", "_attn_processor_"), layer)
    return names


def module_of(stem: str, names: Mapping[str, str]) -> str | None:
    """The layer that the key's `stem` names after any of the words, or None."""
    for _ in range(MAX_WORDS + 1):
        if module := names.get(stem.replace(".", "_")):
            return module
        word = _WORD.match(stem)
        if word is None:
            return None
        stem = stem[word.end() :]
    return None


def prefix_of(key: str) -> str:
    """The words before a layer's name, for people."""
    end = 0
    while not key.startswith("transformer_blocks", end) and (word := _WORD.match(key, end)):
        end = word.end()
    return key[:end]
