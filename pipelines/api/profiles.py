"""The sampling profile of a run: each value comes from the first source that has one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pipelines.api.model_spec import ModelSpec
from pipelines.api.sampling import CURVE, Sampling, sigmas_text, terminal_text


class Source(StrEnum):
    """The origin of a value, in the order in which sources are asked."""

    REQUEST = "request"
    PRESET = "preset"
    LORA = "lora"
    MODEL = "model"
    SCHEDULER = "scheduler"


@dataclass(frozen=True, slots=True)
class LoraProfile:
    """The sampling profile of a LoRA, which messages call `name`.

    A guess is made from the name where that does not tell the schedule.
    """

    name: str
    sampling: Sampling
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class RunSampling:
    """The sampling profile of a run.

    `curve` has the shift and terminal, or the sigmas, that replace those of the model's scheduler.
    `sources` names the source of each value that has a meaning in this run. `warnings` are
    sentences for the client.
    """

    steps: int
    true_cfg_scale: float
    curve: Sampling
    sources: Mapping[str, Source]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UsedSampling:
    """The sampling of a finished run.

    `sigmas` are those that the scheduler ran, without the final 0. `shift` is exp(mu), and None
    where explicit sigmas leave it no meaning; `shift_terminal` None means none.
    """

    source: Mapping[str, Source]
    steps: int
    true_cfg_scale: float
    shift: float | None
    shift_terminal: float | None
    sigmas: tuple[float, ...]

    def __str__(self) -> str:
        """The values in a few words, without what the scheduler decided."""
        words = [f"{self.steps} steps", f"CFG {self.true_cfg_scale:g}"]
        own = self.source.keys() - {
            key for key, by in self.source.items() if by is Source.SCHEDULER
        }
        if "sigmas" in own:
            words.append(sigmas_text(self.sigmas))
        if "shift" in own:
            words.append(f"shift {self.shift:g}")
        if "shift_terminal" in own:
            words.append(terminal_text(self.shift_terminal))
        return ", ".join(words)


def resolve(
    request: Sampling, preset: Sampling, loras: Sequence[LoraProfile], spec: ModelSpec
) -> RunSampling:
    """Fill each value from its first source.

    `loras` are the profiles of the LoRAs that are applied, in the request's order.
    """
    defaults = Sampling(steps=spec.num_inference_steps, true_cfg_scale=spec.true_cfg_scale)
    layers = [
        (Source.REQUEST, request),
        (Source.PRESET, preset),
        *((Source.LORA, lora.sampling) for lora in loras),
        (Source.MODEL, spec.sampling),
        (Source.MODEL, defaults),
    ]
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for source, layer in layers:
        for key, value in layer.given.items():
            if not _is_settled(key, values):
                values[key], sources[key] = value, source
    curve = Sampling(**{key: values.get(key) for key in ("shift", "shift_terminal", "sigmas")})
    if curve.sigmas is None:
        for key in ("shift", "shift_terminal"):
            sources.setdefault(key, Source.SCHEDULER)
    else:
        values["steps"], sources["steps"] = len(curve.sigmas), sources["sigmas"]
    run = RunSampling(values["steps"], values["true_cfg_scale"], curve, sources)
    return replace(run, warnings=tuple(_warnings(run, loras)))


def _is_settled(key: str, values: Mapping[str, object]) -> bool:
    """Return whether an earlier source has this field, or one that excludes it."""
    excluding = ("sigmas",) if key in CURVE else CURVE if key == "sigmas" else ()
    return key in values or any(other in values for other in excluding)


def _warnings(run: RunSampling, loras: Sequence[LoraProfile]) -> Iterator[str]:
    for lora in loras:
        if lora.is_guess:
            yield (
                f"{lora.name} is taken for a few-step LoRA by its name: {lora.sampling}, on the "
                f"model's own schedule, is a guess."
            )
    for lora in loras:
        made_for = lora.sampling.step_count
        if made_for not in (None, run.steps):
            asker = _asker(run.sources["steps"])
            yield f"{lora.name} is made for {made_for} steps; {asker} asks for {run.steps}."
        scale = lora.sampling.true_cfg_scale
        if scale is not None and scale != run.true_cfg_scale:
            asker = _asker(run.sources["true_cfg_scale"])
            yield (
                f"{lora.name} is made for a true_cfg_scale of {scale:g}; {asker} asks for "
                f"{run.true_cfg_scale:g}."
            )


def _asker(source: Source) -> str:
    return "another LoRA" if source is Source.LORA else f"the {source}"
