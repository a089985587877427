"""The parameters of an edit: plain, frozen, validated data."""

import math
from dataclasses import dataclass, field, replace

from pipelines.api.errors import InvalidParameter
from pipelines.api.sampling import CFG_RANGE as CFG_RANGE
from pipelines.api.sampling import STEPS_RANGE as STEPS_RANGE
from pipelines.api.sampling import Sampling
from pipelines.api.sizes import SizeBounds

MAX_REFERENCES = 3
MAX_LORAS = 3
MAX_OUTPUTS = 6
MAX_PREVIEWS = 3
LORA_SCALE_RANGE = (0.0, 4.0)
LORA_ALPHA_RANGE = (0.001, 10_000.0)
SEED_RANGE = (0, 2**31 - 1)
# Bounds the tokenizer's work; the pipeline itself counts tokens.
MAX_PROMPT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class LoraRef:
    """A LoRA reference (a name, a hub ID, a URL; a local path in the engine) and its scale.

    `alpha` is that of a file which does not say its own; `multiplier` is what it makes of the scale
    in the engine.
    """

    path: str
    scale: float = 1.0
    alpha: float | None = None
    multiplier: float = 1.0

    def __post_init__(self) -> None:
        _check(bool(self.path.strip()), "loras.path", "must not be empty")
        low, high = LORA_SCALE_RANGE
        inside = math.isfinite(self.scale) and low <= self.scale <= high
        _check(inside, "loras.scale", f"must be between {low} and {high}, got {self.scale}")
        if self.alpha is not None:
            low, high = LORA_ALPHA_RANGE
            inside = math.isfinite(self.alpha) and low <= self.alpha <= high
            _check(inside, "loras.alpha", f"must be between {low} and {high}, got {self.alpha}")


@dataclass(frozen=True, slots=True)
class EditParams:
    """One edit, without its images.

    None leaves a value to the model: `size` follows the last image's aspect. `schedule` is the
    request's shift and terminal, or sigmas, and `preset_sampling` the profile of its preset; what
    they and the request's steps and CFG scale leave open comes from LoRAs and the model. Output k
    of `num_outputs` uses seed + k. `max_prompt_tokens` truncates longer prompts. `extend_prompt`
    has the model rewrite the prompt first, if it can; `prompt_prefix` and `prompt_suffix` are added
    after both. `num_previews` images are decoded while the first output is denoised. The last
    `preset_loras` of the LoRAs are the preset's.
    Raises InvalidParameter, naming the field.
    """

    prompt: str
    seed: int
    negative_prompt: str | None = None
    size: tuple[int, int] | None = None
    bounds: SizeBounds = field(default_factory=SizeBounds)
    num_inference_steps: int | None = None
    true_cfg_scale: float | None = None
    num_outputs: int = 1
    loras: tuple[LoraRef, ...] = ()
    max_prompt_tokens: int | None = None
    extend_prompt: bool = False
    num_previews: int = 0
    schedule: Sampling = field(default_factory=Sampling)
    preset_sampling: Sampling = field(default_factory=Sampling)
    prompt_prefix: str = ""
    prompt_suffix: str = ""
    preset_loras: int = 0

    def __post_init__(self) -> None:
        _check(bool(self.prompt.strip()), "prompt", "must not be empty")
        for name, text in (("prompt", self.prompt), ("negative_prompt", self.negative_prompt)):
            length = len(text or "")
            allowed = f"must have at most {MAX_PROMPT_CHARS} characters, got {length}"
            _check(length <= MAX_PROMPT_CHARS, name, allowed)
        _check_range("seed", self.seed, SEED_RANGE)
        _check_range("num_outputs", self.num_outputs, (1, MAX_OUTPUTS))
        _check_range("num_previews", self.num_previews, (0, MAX_PREVIEWS))
        if self.size is not None:
            got = "*".join(map(str, self.size))
            _check(
                self.size in self.bounds,
                "size",
                f"must have sides of {self.bounds} pixels, got {got}",
            )
        if self.num_inference_steps is not None:
            _check_range("num_inference_steps", self.num_inference_steps, STEPS_RANGE)
        if self.true_cfg_scale is not None:
            _check_range("true_cfg_scale", self.true_cfg_scale, CFG_RANGE)
        self.sampling  # noqa: B018 - raises for sigmas beside a number of steps
        count = len(self.loras)
        _check(count <= MAX_LORAS, "loras", f"must have at most {MAX_LORAS} entries, got {count}")

    @property
    def own_loras(self) -> tuple[LoraRef, ...]:
        """The LoRAs that the request itself names."""
        return self.loras[: len(self.loras) - self.preset_loras]

    def with_affixes(self, prompt: str) -> str:
        """A prompt between the prefix and the suffix, which have a LoRA's trigger words."""
        parts = (self.prompt_prefix, prompt, self.prompt_suffix)
        return " ".join(part.strip() for part in parts if part.strip())

    @property
    def sampling(self) -> Sampling:
        """The sampling that the request asks for. Raises InvalidParameter."""
        return replace(
            self.schedule,
            steps=self.num_inference_steps,
            true_cfg_scale=self.true_cfg_scale,
        )


def _check(valid: bool, name: str, message: str) -> None:
    if not valid:
        raise InvalidParameter(name, message)


def _check_range(name: str, value: float, allowed: tuple[float, float]) -> None:
    low, high = allowed
    _check(low <= value <= high, name, f"must be between {low} and {high}, got {value}")
