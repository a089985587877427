"""What crosses the border between the server and a worker process, grouped by direction.

Frozen plain data only: errors cross as (code, message), image bytes travel inside the messages, so
that nothing but the pipe joins the two processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import EditParams


class Stage(StrEnum):
    """Where an edit is, inside the worker."""

    EXTEND = "extend"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


# ── server to worker ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA that a reference was resolved to.

    `name` is the client's name for it, for error messages; `sha256` identifies the content; `path`
    is on the machine of the process that reads the message.
    """

    name: str
    sha256: str
    path: str
    scale: float


@dataclass(frozen=True, slots=True)
class Run:
    """Make the images of `params` from `references` (encoded RGB images, at least one).

    `loras` are the files of `params.loras`, in the same order.
    """

    job_id: str
    params: EditParams
    references: tuple[bytes, ...] = field(repr=False)
    loras: tuple[LoraFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Preload:
    """Read these LoRA files into memory: a later Run will use them."""

    loras: tuple[LoraFile, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Leave the job at its next step, or skip it when it has not begun."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process when the current job is done or canceled."""


ToWorker = Run | Preload | Cancel | Stop


# ── worker to server ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded. `linears` maps each LoRA target to its shape, (out, in) features."""

    model: ModelSpec
    device: str
    device_name: str
    dtype: str
    can_extend_prompts: bool
    checks_safety: bool
    linears: Mapping[str, tuple[int, int]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the process ends."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """`step` of `total` denoising steps are done, over all outputs of the job."""

    job_id: str
    stage: Stage
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The first output as it would be if it ended at this step: preview `index`, from 0."""

    job_id: str
    index: int
    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutputImage:
    """One finished output: `rgb` holds height × width × 3 bytes.

    `is_unsafe` is what the safety checker says of it, False where the operator named none.
    """

    job_id: str
    index: int
    seed: int
    width: int
    height: int
    rgb: bytes = field(repr=False)
    is_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """All images were sent. Seconds spent per stage, and the values the model filled in.

    `prompt` is what the model was given in the end: cut, or rewritten if `is_extended`.
    """

    job_id: str
    seconds: Mapping[Stage, float]
    num_inference_steps: int
    true_cfg_scale: float
    prompt: str
    is_extended: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot be done; the worker lives on."""

    job_id: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Canceled:
    """The job was left as asked."""

    job_id: str


JobEvent = Step | Preview | OutputImage | Done | Failed | Canceled
FromWorker = Ready | LoadFailed | JobEvent
