"""The presets that requests can name: those in `weights/presets`, and `lightning`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from pipelines.api.errors import LoraInvalid, PresetNotFound
from pipelines.api.families import Linears
from pipelines.api.params import LoraRef
from pipelines.api.profiles import LoraProfile
from pipelines.files.catalog import Catalog, LoraEntry
from pipelines.files.lora_format.file import plan_header
from pipelines.files.lora_profiles import read_profile
from pipelines.files.presets import Preset, PresetEntry, PresetFolder
from pipelines.files.safetensors_header import read_header
from server.job import Submission

# Made of the fastest LoRA with this word in its name and a profile that is no guess.
LIGHTNING = "lightning"


class Presets:
    """Finds presets and applies them. Files added since the start count."""

    def __init__(self, catalog: Catalog, linears: Callable[[], Linears | None]) -> None:
        """`linears` returns the loaded model's linear layers, or None while none is loaded."""
        self._folder = PresetFolder(catalog.presets)
        self._catalog = catalog
        self._linears = linears

    def entries(self) -> list[PresetEntry]:
        """All presets by name, the broken ones with their faults."""
        found = {entry.name: entry for entry in self._folder.entries()}
        if LIGHTNING not in found and (preset := self._lightning()):
            found[LIGHTNING] = PresetEntry(LIGHTNING, preset.title)
        return [found[name] for name in sorted(found)]

    def usable(self) -> list[PresetEntry]:
        """The presets that requests can name."""
        return [entry for entry in self.entries() if entry.problem is None]

    def find(self, name: str) -> Preset:
        """The preset with this name. Raises PresetNotFound, PresetInvalid."""
        try:
            return self._folder.find(name)
        except PresetNotFound:
            preset = self._lightning() if name == LIGHTNING else None
            if preset is None:
                known = ", ".join(entry.name for entry in self.entries()) or "none"
                raise PresetNotFound(f"There is no preset {name[:80]!r}. Found: {known}.") from None
            return preset

    async def applied(self, submission: Submission) -> Submission:
        """The submission with what its preset adds.

        Raises PresetNotFound, PresetInvalid, InvalidParameter.
        """
        if submission.preset is None:
            return submission
        preset = await asyncio.to_thread(self.find, submission.preset)
        return replace(submission, params=preset.applied(submission.params))

    def _lightning(self) -> Preset | None:
        """The preset of the Lightning LoRA with the fewest steps that fits the model."""
        linears = self._linears()
        found = [
            (profile.sampling.step_count or 0, lora.name, profile)
            for lora in self._catalog.loras()
            if LIGHTNING in lora.name.lower() and (profile := _profile(lora, linears))
        ]
        if not found:
            return None
        _, name, profile = min(found, key=lambda each: each[:2])
        return Preset(LIGHTNING, f"Lightning: {profile.sampling}", (LoraRef(name),))


def _profile(lora: LoraEntry, linears: Linears | None) -> LoraProfile | None:
    """The profile of a few-step LoRA that fits the model, or None."""
    try:
        header = read_header(lora.path, lora.name)
        profile = read_profile(lora.path, lora.name, header.metadata, lora.name)
        if profile is None or profile.is_guess:
            return None
        if linears is not None:
            plan_header(header, lora.path, linears, lora.name)
    except (LoraInvalid, OSError):
        return None
    return profile
