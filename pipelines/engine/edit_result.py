"""What comes of an edit, and how far it is. Without torch, for workers that play a model."""

from dataclasses import dataclass, field

import PIL.Image

from pipelines.api.messages import Stage
from pipelines.api.profiles import UsedSampling


@dataclass(frozen=True, slots=True)
class Progress:
    """A stage, and how many denoising steps of all outputs are done."""

    stage: Stage
    step: int
    total: int


@dataclass(slots=True)
class EditResult:
    """The outputs in order, seconds per stage, and the values that the model filled in.

    `prompt` is the prompt that was encoded: cut, or rewritten if `is_extended`. `sampling` is set
    as the first output is denoised.
    """

    num_inference_steps: int
    true_cfg_scale: float
    prompt: str
    is_extended: bool = False
    sampling: UsedSampling | None = None
    warnings: tuple[str, ...] = ()
    images: list[PIL.Image.Image] = field(default_factory=list)
    seconds: dict[Stage, float] = field(default_factory=dict)
