"""Presets: named requests in `weights/presets/<name>.toml`, for clients that only choose a model.

```toml
title = "Anime, fast"
prompt_suffix = "anime style"      # joined to the prompt with a blank

[[loras]]
path = "photo-to-anime"            # as in a request
scale = 0.9

[sampling]                         # what the request leaves open
steps = 4
```
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipelines.api.errors import InvalidParameter, PresetInvalid, PresetNotFound
from pipelines.api.params import MAX_LORAS, EditParams, LoraRef
from pipelines.api.sampling import Sampling, parse_sampling

SUFFIX = ".toml"
MAX_FILE_BYTES = 2**20
# A part of URLs and of model names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TEXT_KEYS = ("title", "prompt_prefix", "prompt_suffix", "negative_prompt")
KEYS = (*TEXT_KEYS, "loras", "sampling")
LORA_KEYS = ("path", "scale")


@dataclass(frozen=True, slots=True)
class Preset:
    """A named request; `title` is for people."""

    name: str
    title: str
    loras: tuple[LoraRef, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    prompt_prefix: str = ""
    prompt_suffix: str = ""
    negative_prompt: str | None = None

    def applied(self, params: EditParams) -> EditParams:
        """The parameters with what the preset adds. The request's own LoRAs come first.

        Raises InvalidParameter where there are too many LoRAs together.
        """
        count = len(params.loras) + len(self.loras)
        if count > MAX_LORAS:
            raise InvalidParameter(
                "loras",
                f"must have at most {MAX_LORAS} entries together with the {len(self.loras)} of the "
                f"preset {self.name}, got {len(params.loras)}",
            )
        negative = params.negative_prompt
        return replace(
            params,
            loras=(*params.loras, *self.loras),
            preset_loras=len(self.loras),
            preset_sampling=self.sampling,
            prompt_prefix=self.prompt_prefix,
            prompt_suffix=self.prompt_suffix,
            negative_prompt=self.negative_prompt if negative is None else negative,
        )


@dataclass(frozen=True, slots=True)
class PresetEntry:
    """A preset in a listing; `problem` says why it cannot be used."""

    name: str
    title: str
    problem: str | None = None


class PresetFolder:
    """The presets of one folder, read on each call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def entries(self) -> list[PresetEntry]:
        """All presets by name, the broken ones with their faults."""
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                found.append(PresetEntry(path.stem, read_preset(path).title))
            except PresetInvalid as exc:
                found.append(PresetEntry(path.stem, path.stem, str(exc)))
        return found

    def find(self, name: str) -> Preset:
        """The preset with this name. Raises PresetNotFound, PresetInvalid."""
        path = self._folder / f"{name}{SUFFIX}"
        if not NAME.fullmatch(name) or not path.is_file():
            known = ", ".join(entry.name for entry in self.entries()) or "none"
            raise PresetNotFound(f"There is no preset {name[:80]!r}. Found: {known}.")
        return read_preset(path)


def read_preset(path: Path) -> Preset:
    """The preset in a file. Raises PresetInvalid, which names it."""
    try:
        if not NAME.fullmatch(path.stem):
            raise ValueError(f"the name must match {NAME.pattern}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"the file has more than {MAX_FILE_BYTES // 2**20} MiB")
        return _parse(path.stem, tomllib.loads(path.read_text()))
    except (InvalidParameter, ValueError, OSError, RecursionError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc).rstrip(".")
        raise PresetInvalid(f"The preset {path.name} cannot be used: {reason}.") from exc


def _parse(name: str, values: dict[str, Any]) -> Preset:
    _check_keys(values, KEYS, "the file")
    for key in TEXT_KEYS:
        if not isinstance(values.get(key, ""), str):
            raise ValueError(f"{key} must be a text, got {values[key]!r}")
    return Preset(
        name,
        values.get("title") or name,
        _loras(values.get("loras", [])),
        parse_sampling(values.get("sampling", {})),
        values.get("prompt_prefix", ""),
        values.get("prompt_suffix", ""),
        values.get("negative_prompt"),
    )


def _loras(entries: Any) -> tuple[LoraRef, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("loras must be tables: [[loras]]")
    if len(entries) > MAX_LORAS:
        raise ValueError(f"loras has at most {MAX_LORAS} entries, got {len(entries)}")
    return tuple(_lora(entry) for entry in entries)


def _lora(entry: dict[str, Any]) -> LoraRef:
    _check_keys(entry, LORA_KEYS, "a table of loras")
    path, scale = entry.get("path"), entry.get("scale", 1.0)
    if not isinstance(path, str):
        raise ValueError(f"the path of a LoRA must be a text, got {path!r}")
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise ValueError(f"the scale of {path} must be a number, got {scale!r}")
    return LoraRef(path, float(scale))


def _check_keys(values: dict[str, Any], allowed: Sequence[str], place: str) -> None:
    if unknown := sorted(set(values) - set(allowed)):
        raise ValueError(
            f"{place} has unknown keys: {', '.join(unknown)}; allowed are {', '.join(allowed)}"
        )
