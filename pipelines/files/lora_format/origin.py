"""The model that a LoRA says it was made for, and layers that other models have too.

Flux, HunyuanVideo and Qwen-Image share names and shapes of attention layers, so that a file for one
of them fits another and gives a wrong image.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import Linears

# What trainers write about the base model; other keys hold names that people chose.
_KEYS = ("modelspec.architecture", "ss_base_model_version", "ss_base_model", "base_model")
# The first match of a value decides. Values are compared without case, blanks and punctuation.
_FAMILIES = (
    ("Qwen-Image-2.1", r"qwen(image)?(edit)?21"),
    ("Qwen-Image", r"qwen"),
    ("Flux", r"flux|kontext"),
    ("HunyuanVideo", r"hunyuan"),
    ("Wan", r"^wan(ai|video|[12]|$)|wan2[12]"),
    ("Stable Diffusion XL", r"sdxl|stablediffusionxl|pony|illustrious"),
    ("Stable Diffusion 3", r"^sd3|stablediffusion(v)?3"),
    ("HiDream", r"hidream"),
    ("Z-Image", r"zimage"),
    ("LTX-Video", r"ltx"),
    ("Chroma", r"chroma"),
    ("Lumina", r"lumina"),
    ("Krea", r"krea"),
    ("CogVideo", r"cogvideo"),
)
_OWN = "Qwen-Image"
# Trainers write these when they are told nothing.
_UNTOLD = re.compile(r"^(sd15|sdv1|sd1|sdv2|sd2|stablediffusion(v)?[12]|unknown|none)")
_PUNCTUATION = re.compile(r"[\s._\-]+")
# Blocks of Flux and HunyuanVideo with two streams, which have the names of Qwen-Image's.
_SHARED_BLOCKS = 19
_SHARED_WIDTH = 3072
_ATTENTION = re.compile(r"transformer_blocks\.(\d+)\.attn\.")


def check_origin(
    metadata: Mapping[str, str], layers: Iterable[str], linears: Linears, name: str
) -> tuple[str, ...]:
    """Warnings about the model that the file was made for.

    `layers` are those of the model that the file changes; messages call the file `name`. Raises
    LoraInvalid where the metadata names another family.
    """
    said = {key: metadata[key] for key in _KEYS if metadata.get(key, "").strip()}
    families = {key: family_of(value) for key, value in said.items()}
    if _OWN in families.values():
        return ()
    for key, family in families.items():
        if family is not None:
            raise LoraInvalid(
                f"{name} is made for {family}, by its own metadata ({key}: {said[key]:.80}). Its "
                f"names fit this model, but its values would give a wrong image."
            )
    return tuple(_warnings(said, list(layers), linears, name))


def family_of(value: str) -> str | None:
    """The family that a value of the metadata names, or None."""
    text = _PUNCTUATION.sub("", value.lower())
    return next((family for family, mark in _FAMILIES if re.search(mark, text)), None)


def _warnings(
    said: Mapping[str, str], layers: list[str], linears: Linears, name: str
) -> Iterator[str]:
    for key, value in said.items():
        if _UNTOLD.search(_PUNCTUATION.sub("", value.lower())):
            yield (
                f"{name} names {value:.80} as its model ({key}), which trainers write when they "
                f"are told nothing; it may be made for another."
            )
            break
    blocks = [_ATTENTION.search(layer) for layer in layers]
    is_shared = all(block and int(block[1]) < _SHARED_BLOCKS for block in blocks)
    is_wide = any(linears.get(layer, (0, 0))[1] == _SHARED_WIDTH for layer in layers)
    if is_shared and is_wide and not said:
        yield (
            f"{name} changes only attention layers that Flux and HunyuanVideo have too, and does "
            f"not say for which model it was made."
        )
