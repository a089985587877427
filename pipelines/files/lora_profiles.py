"""The sampling profile of a LoRA: from a file beside it, from its metadata, or from its name.

Few-step LoRAs were distilled on a schedule of their own, and no published file says which. Source
of Lightning's: https://github.com/ModelTC/Qwen-Image-Lightning, whose scheduler has a static shift
of 3 and no terminal.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.api.errors import InvalidParameter, LoraInvalid
from pipelines.api.profiles import LoraProfile
from pipelines.api.sampling import NO_TERMINAL, STEPS_RANGE, Sampling, parse_sampling

METADATA_KEY = "qwen_edit.sampling"
# Our part of a sidecar; other programs write their own keys into the same file.
SIDECAR_KEY = "qwen_edit"
SIDECAR_KEYS = ("sampling", "alpha")
MAX_SIDECAR_BYTES = 4 * 2**20

LIGHTNING_SHIFT = 3.0
# For few-step LoRAs whose names have no number.
GUESSED_STEPS = 8
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ .]?steps?(?![a-z])")
_LIGHTNING = re.compile(r"(?<![a-z])lightning(?![a-z])")
_FEW_STEPS = re.compile(r"(?<![a-z])(turbo|hyper|lcm|dmd|distill|distilled)(?![a-z])")
# Hyperrealism and the like are styles.
_NEEDS_STEPS = frozenset({"hyper"})


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What the operator wrote beside a LoRA file; `alpha` is that of files which lack it."""

    sampling: Sampling | None = None
    alpha: float | None = None


def read_profile(
    path: Path, reference: str, metadata: Mapping[str, str], name: str
) -> LoraProfile | None:
    """The profile of the file at `path`, which a request named by `reference`.

    Messages call the file `name`. Raises LoraInvalid for a malformed profile.
    """
    own = read_sidecar(path, name).sampling
    if own is None and METADATA_KEY in metadata:
        own = _parse(metadata[METADATA_KEY], f"{METADATA_KEY} in the metadata of {name}")
    if own is not None:
        return LoraProfile(name, own) if own else None
    return profile_of_name(f"{reference}/{path.name}", name)


def read_sidecar(path: Path, name: str) -> Sidecar:
    """Our part of the JSON file beside a LoRA. Raises LoraInvalid where it is malformed."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return Sidecar()
    place = f"{Path(name).with_suffix('.json').name} beside {name}"
    if beside.stat().st_size > MAX_SIDECAR_BYTES:
        raise LoraInvalid(f"{place} has more than {MAX_SIDECAR_BYTES // 2**20} MiB.")
    whole = _load(beside.read_bytes(), place)
    values = whole.get(SIDECAR_KEY, {}) if isinstance(whole, dict) else {}
    place = f"{SIDECAR_KEY} in {place}"
    if not isinstance(values, dict):
        raise LoraInvalid(f"{place} must be an object, got {values!r:.80}.")
    if unknown := sorted(set(values) - set(SIDECAR_KEYS)):
        allowed = " and ".join(SIDECAR_KEYS)
        raise LoraInvalid(f"{place} has unknown keys: {', '.join(unknown)}; allowed are {allowed}.")
    sampling = values.get("sampling")
    return Sidecar(
        None if sampling is None else _validate(sampling, f"sampling of {place}"),
        _alpha(values.get("alpha"), place),
    )


def profile_of_name(reference: str, name: str) -> LoraProfile | None:
    """The profile that a few-step LoRA's name tells, or None."""
    words = reference.lower()
    steps = [int(count) for count in _STEPS.findall(words)]
    count = next((each for each in reversed(steps) if _is_count(each)), None)
    if _LIGHTNING.search(words) and count is not None:
        return LoraProfile(
            name,
            Sampling(
                steps=count,
                true_cfg_scale=1.0,
                shift=LIGHTNING_SHIFT,
                shift_terminal=NO_TERMINAL,
            ),
        )
    kinds = set(_FEW_STEPS.findall(words))
    if kinds and (count is not None or kinds - _NEEDS_STEPS):
        return LoraProfile(
            name, Sampling(steps=count or GUESSED_STEPS, true_cfg_scale=1.0), is_guess=True
        )
    return None


def _is_count(steps: int) -> bool:
    return STEPS_RANGE[0] <= steps <= STEPS_RANGE[1]


def _parse(text: str, place: str) -> Sampling:
    return _validate(_load(text, place), place)


def _load(text: str | bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise LoraInvalid(f"{place} is no JSON: {exc}.") from exc


def _validate(values: object, place: str) -> Sampling:
    try:
        return parse_sampling(values)
    except (InvalidParameter, ValueError) as exc:
        raise LoraInvalid(f"{place} is malformed: {exc}.") from exc


def _alpha(value: object, place: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise LoraInvalid(f"{place} has an alpha that is no number above 0: {value!r}.")
    return float(value)
