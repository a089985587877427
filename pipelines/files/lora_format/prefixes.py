"""The words that trainers and wrappers put before a layer's name.

A closed vocabulary that is stripped word by word, because tools wrap each other's names:
`base_model.model.diffusion_model.`, `transformer.base_model.model.`, `_orig_mod.module.`.
"""

import re
from collections.abc import Iterable, Mapping

from pipelines.api.families import TEXT_ENCODER

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
# Without one of these, a key is the transformer's: a LoRA for the language model alone has the same
# names, and is none for this model.
_TEXT_WORD = re.compile(r"(?:lora_te\d?|text_encoders?|te\d?)[._]")
_WORD_OF_TEXT = re.compile(r"(?:language_model|qwen25_7b)[._]")
_FLAT_TEXT = TEXT_ENCODER.replace(".", "_")
# No tool has more, and each is searched for in the model's names.
MAX_WORDS = 8


def flat_names(layers: Iterable[str]) -> dict[str, str]:
    """The layers by every spelling of their names, joined by underscores."""
    names = {_without_inner(layer).replace(".", "_"): layer for layer in layers}
    for flat, layer in list(names.items()):
        # a list of a layer and a dropout, and an object of older versions of diffusers
        names.setdefault(re.sub(r"_to_out_0$", "_to_out", flat), layer)
        names.setdefault(flat.replace("_attn_", "_attn_processor_"), layer)
    return names


def module_of(stem: str, names: Mapping[str, str]) -> str | None:
    """The layer that the key's `stem` names after any of the words, or None."""
    component = ""
    for _ in range(MAX_WORDS + 1):
        if module := names.get(component + stem.replace(".", "_")):
            return module
        word = _word_at(stem, 0, is_text=bool(component))
        if word is None:
            return None
        if word.re is _TEXT_WORD:
            component = _FLAT_TEXT
        stem = stem[word.end() :]
    return None


def prefix_of(key: str) -> str:
    """The words before a layer's name, for people."""
    end, is_text = 0, False
    while not key.startswith("transformer_blocks", end):
        word = _word_at(key, end, is_text=is_text)
        if word is None:
            break
        end, is_text = word.end(), is_text or word.re is _TEXT_WORD
    return key[:end]


def _word_at(key: str, start: int, *, is_text: bool) -> re.Match[str] | None:
    """The word at `start`; the text encoder has two more."""
    word = _TEXT_WORD.match(key, start) or _WORD.match(key, start)
    return word or (_WORD_OF_TEXT.match(key, start) if is_text else None)


def _without_inner(layer: str) -> str:
    """A text encoder's layer without the words that tools leave out."""
    if not layer.startswith(TEXT_ENCODER):
        return layer
    inner = layer.removeprefix(TEXT_ENCODER).removeprefix("model.").removeprefix("language_model.")
    return TEXT_ENCODER + inner
