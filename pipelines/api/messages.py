"""Messages between the server and a worker process, grouped by direction.

Frozen plain data: errors travel as (code, message) and images as bytes inside the messages, so the
pipe is all that the two processes share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import EditParams
from pipelines.api.profiles import LoraProfile, UsedSampling


class Stage(StrEnum):
    """The stages of an edit inside the worker."""

    LOAD = "load"
    EXTEND = "extend"
    ENCODE = "encode"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA that a reference was resolved to.

    `name` is the client's name for it, for error messages; `sha256` identifies the content; `path`
    is on the machine of the process that reads the message. `profile` is its sampling profile,
    `warnings` are sentences for the client about the file, `multiplier` is a factor of the scale.
    """

    name: str
    sha256: str
    path: str
    scale: float
    profile: LoraProfile | None = None
    warnings: tuple[str, ...] = ()
    multiplier: float = 1.0


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
    """Leave the job at its next step, or skip it if it has not started."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Exit when the current job is done or canceled."""


ToWorker = Run | Preload | Cancel | Stop


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded. `linears` maps each LoRA target to its shape, (out, in) features.

    `forward` is the code that runs the transformer, with the reason where it is not the fast one.
    """

    model: ModelSpec
    device: str
    device_name: str
    dtype: str
    can_extend_prompts: bool
    checks_safety: bool
    forward: str
    forward_reason: str | None
    linears: Mapping[str, tuple[int, int]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded; the process exits."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Step:
    """`step` of `total` denoising steps are done, over all outputs of the job.

    Sent when a stage begins and after each step, and repeated unchanged within the other stages:
    the server takes a long silence for a hang.
    """

    job_id: str
    stage: Stage
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The first output decoded at an intermediate step: preview `index`, from 0."""

    job_id: str
    index: int
    width: int
    height: int
    rgb: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OutputImage:
    """One finished output: `rgb` holds height × width × 3 bytes.

    `is_unsafe` is the safety checker's verdict, False without a checker.
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
    """All images have been sent. Has the seconds per stage and the values the model filled in.

    `prompt` is the prompt that the model read: truncated, or rewritten if `is_extended`.
    `warnings` are sentences for the client.
    """

    job_id: str
    seconds: Mapping[Stage, float]
    sampling: UsedSampling
    prompt: str
    is_extended: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The job failed; the worker is ready for the next one, or exits if `is_fatal`."""

    job_id: str
    code: str
    message: str
    is_fatal: bool = False


@dataclass(frozen=True, slots=True)
class Canceled:
    """The job was left after a Cancel."""

    job_id: str


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """The memory of a device, and the LoRA cache of its worker; sent after Ready and each job.

    `memory_used_bytes` counts every process on the device, `memory_peak_bytes` this one alone.
    `lora_hits` of the LoRAs that jobs used since the worker's start were in memory, `lora_misses`
    were not.
    """

    device: str
    memory_used_bytes: int
    memory_peak_bytes: int
    memory_total_bytes: int
    lora_hits: int
    lora_misses: int
    lora_host_bytes: int
    lora_device_bytes: int


JobEvent = Step | Preview | OutputImage | Done | Failed | Canceled
FromWorker = Ready | LoadFailed | WorkerUsage | JobEvent
