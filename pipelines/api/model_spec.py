"""The settings that differ between the models of a family."""

from dataclasses import dataclass, field

from pipelines.api.sampling import Sampling

DEMO_NAME = "demo"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The settings of a model beyond diffusers' own files.

    `family` names the model's family in `pipelines.api.families`. Areas are in pixels: each
    reference image is resized to `reference_area` for the VAE (None: to the output's area) and to
    `condition_area` for the text encoder; an output without a size has `output_area`.
    `num_inference_steps` and `true_cfg_scale` apply when nothing else names any; `sampling` goes
    before them, and replaces the scheduler's own schedule. `can_write` means that the text encoder
    was trained to write, and so can rewrite prompts.
    """

    name: str
    family: str
    reference_area: int | None
    condition_area: int
    output_area: int
    num_inference_steps: int
    true_cfg_scale: float
    can_write: bool
    sampling: Sampling = field(default_factory=Sampling)
