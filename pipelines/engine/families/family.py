"""The torch half of a model family: the operations that differ, as one value."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from pipelines.api.families import ModelFamily
from pipelines.api.profiles import RunSampling, UsedSampling
from pipelines.api.sampling import Sampling

# Width and height in pixels.
Size = tuple[int, int]
# Frames, rows and columns of an image's tokens.
Grid = tuple[int, int, int]
Images = Sequence[PIL.Image.Image]


@dataclass(frozen=True, slots=True)
class References:
    """Encoded reference images.

    latents: (1, tokens, channels), packed, the images one after another. grids: one per image.
    """

    latents: torch.Tensor
    grids: tuple[Grid, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scheduler with its timesteps set.

    `shift` is exp(mu), None for explicit sigmas; `shift_terminal` is None without a terminal.
    """

    scheduler: SchedulerMixin
    shift: float | None
    shift_terminal: float | None

    def used(self, sampling: RunSampling) -> UsedSampling:
        """The sampling of a run with this schedule; waits for the device."""
        return UsedSampling(
            source=sampling.sources,
            steps=sampling.steps,
            true_cfg_scale=sampling.true_cfg_scale,
            shift=self.shift,
            shift_terminal=self.shift_terminal,
            sigmas=tuple(self.scheduler.sigmas[:-1].tolist()),
        )


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """What one forward of the transformer computes a velocity from.

    latents: (1, tokens, channels), packed, of the output with `grid`. timestep: (1,), from 1
    (noise) to 0 (image), the schedule's at `step`, from 0. prompt_embeds: (1, tokens, width).
    """

    latents: torch.Tensor
    timestep: torch.Tensor
    step: int
    grid: Grid
    prompt_embeds: torch.Tensor
    references: References

    @property
    def tokens(self) -> torch.Tensor:
        """The output's tokens, then the references', (1, tokens, channels)."""
        return torch.cat([self.latents, self.references.latents], dim=1)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The output's grid, then the references'."""
        return self.grid, *self.references.grids


# The velocity at the latents, in their shape.
Predict = Callable[[ForwardInputs], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The request that makes a text encoder rewrite a prompt.

    `instruction` is the system message, `image_label` the text before image `{number}`, `end` the
    token that ends an answer.
    """

    instruction: str
    image_label: str
    end: str


@dataclass(frozen=True, slots=True)
class EngineFamily:
    """A kind of model on a device. Most operations take diffusers' pipeline object first.

    pipeline_class: the diffusers class whose components are used; its `__call__` is not.
    load_components: the components that replace those of `from_pretrained`, by name.
    repair: corrects loaded components in place.
    images_seen_once: a block in which the text encoder sees the images of several prompts once.
    encode_prompt: a prompt and its images, resized to about an area in pixels, as
    (1, tokens, width).
    encode_references: the images, resized to about an area in pixels.
    starting_noise: packed noise for an output size, a seed and a dtype, the same on every device.
    schedule: a schedule for a number of steps and of output tokens, whose curve replaces parts of
    the model's own. It holds the state of one run, so each run has its own.
    predict: one forward of the transformer.
    guide: classifier-free guidance of a positive and a negative velocity at a scale.
    decode: the image of a size that packed latents stand for.
    """

    facts: ModelFamily
    pipeline_class: type[DiffusionPipeline]
    load_components: Callable[[Path], dict[str, object]]
    repair: Callable[[DiffusionPipeline], None]
    images_seen_once: Callable[[DiffusionPipeline], AbstractContextManager[None]]
    encode_prompt: Callable[[DiffusionPipeline, str, Images, int], torch.Tensor]
    encode_references: Callable[[DiffusionPipeline, Images, int], References]
    starting_noise: Callable[[DiffusionPipeline, Size, int, torch.dtype], torch.Tensor]
    schedule: Callable[[DiffusionPipeline, int, int, Sampling], Schedule]
    predict: Callable[[DiffusionPipeline, ForwardInputs], torch.Tensor]
    guide: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    decode: Callable[[DiffusionPipeline, torch.Tensor, Size], PIL.Image.Image]
    rewriting: Rewriting
