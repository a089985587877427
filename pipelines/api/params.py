"""The parameters of an edit: plain, frozen, validated data."""

import math
from dataclasses import dataclass, field

from pipelines.api.errors import InvalidParameter
from pipelines.api.sizes import SizeBounds

MAX_REFERENCES = 3
MAX_LORAS = 3
MAX_OUTPUTS = 6
MAX_PREVIEWS = 3
LORA_SCALE_RANGE = (0.0, 4.0)
CFG_RANGE = (0.0, 20.0)
# One step divides zero by zero in the published schedule (shift_terminal) and gives a NaN image.
STEPS_RANGE = (2, 100)
SEED_RANGE = (0, 2**31 - 1)
# Bounds the tokenizer's work; the pipeline itself counts tokens.
MAX_PROMPT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class LoraRef:
    """A LoRA reference (a name, a hub ID, a URL; a local path in the engine) and its scale."""

    path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(bool(self.path.strip()), "loras.path", "must not be empty")
        low, high = LORA_SCALE_RANGE
        inside = math.isfinite(self.scale) and low <= self.scale <= high
        _check(inside, "loras.scale", f"must be between {low} and {high}, got {self.scale}")


@dataclass(frozen=True, slots=True)
class EditParams:
    """One edit, without its images.

    None leaves a value to the model: `size` follows the last image's aspect, the steps and the CFG
    scale are the model's defaults. Output k of `num_outputs` uses seed + k. `max_prompt_tokens`
    truncates longer prompts. `extend_prompt` has the model rewrite the prompt first, if it can.
    `num_previews` images are decoded while the first output is denoised.
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
        count = len(self.loras)
        _check(count <= MAX_LORAS, "loras", f"must have at most {MAX_LORAS} entries, got {count}")


def _check(valid: bool, name: str, message: str) -> None:
    if not valid:
        raise InvalidParameter(name, message)


def _check_range(name: str, value: float, allowed: tuple[float, float]) -> None:
    low, high = allowed
    _check(low <= value <= high, name, f"must be between {low} and {high}, got {value}")
