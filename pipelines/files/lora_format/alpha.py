"""The strength of PEFT's own files, whose alpha is in a configuration that is easily lost.

Source: PEFT's save_pretrained, which writes `adapter_model.safetensors` and `adapter_config.json`.
Trained with rank 4 and alpha 16, such a file alone would be applied four times too weakly.
"""

import re
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.files.lora_format.config import LoraConfig, read_config
from pipelines.files.lora_profiles import read_sidecar
from pipelines.files.safetensors_header import Header

# Trainers that put their own names behind PEFT's prefix mean alpha = rank.
_NATIVE = re.compile(r"^base_model\.model\.(?!diffusion_model\.|transformer\.|base_model\.)")
_DOWN = re.compile(r"\.lora_A(\.\w+)*$")
_ALPHA = re.compile(r"\.alpha$")


def multiplier_of(header: Header, path: Path, name: str, alpha: float | None) -> float:
    """The factor of the changes of a file at `path`, for an alpha that a request gives, or None.

    1 for files that tell their own strength. Messages call the file, whose header has been read,
    `name`. Raises LoraInvalid where the strength is unknown, and where it is given twice.
    """
    is_silent = not _tells_alpha(header, read_config(path, header.metadata, name))
    if alpha is None and is_silent:
        alpha = read_sidecar(path, name).alpha
    if alpha is None:
        if is_silent:
            raise LoraInvalid(
                f"{name} was saved by PEFT and does not say its alpha, so its strength is unknown: "
                f"give `alpha` beside its path, or keep the adapter_config.json."
            )
        return 1.0
    if not is_silent:
        raise LoraInvalid(f"{name} says its own alpha: leave out `alpha`.")
    ranks = {info.shape[0] for key, info in header.tensors.items() if _DOWN.search(key)}
    if len(ranks) != 1:
        found = ", ".join(map(str, sorted(ranks)))
        raise LoraInvalid(
            f"{name} has layers of several ranks ({found}): an alpha alone does not tell their "
            f"strength. Keep the adapter_config.json."
        )
    return alpha / ranks.pop()


def _tells_alpha(header: Header, config: LoraConfig) -> bool:
    if config.alpha is not None or config.alpha_patterns:
        return True
    keys = header.tensors
    return any(_ALPHA.search(key) for key in keys) or not all(map(_NATIVE.match, keys))
