"""A job: one requested edit, durable, and its life cycle.

queued ──► running ──► succeeded | failed | canceled
  │ ▲         │
  │ └─────────┘  the worker or the server died
  └──► canceled | failed
"""

import dataclasses
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict, Unpack

from pipelines.api.params import EditParams
from pipelines.api.profiles import UsedSampling
from server.limits import MAX_IMAGE_BYTES


class JobStatus(StrEnum):
    """The state of a job. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """True for a job that never changes again."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED}
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELED: frozenset(),
}


class OutputFormat(StrEnum):
    """The file format of outputs."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"


@dataclass(frozen=True, slots=True)
class Submission:
    """A requested edit, without its images.

    `contract` and `endpoint` name the wire contract and the model ID of the request.
    `max_image_bytes` limits each input image. `watermark` is drawn into the outputs. `quality` is
    that of JPEG and WebP, None for the default. `webhook` is called when the job has ended, with
    URLs under `base_url`, the server's address as the client knows it. `webhook_field` is the
    client's name for the webhook in error messages; it is not stored. `owner` is that of the
    client's key, None for jobs from before owners were stored. `preset` names the preset that
    `params` have been completed with.
    """

    contract: str
    endpoint: str
    params: EditParams
    output_format: OutputFormat = OutputFormat.PNG
    base64_output: bool = False
    max_image_bytes: int = MAX_IMAGE_BYTES
    watermark: str | None = None
    quality: int | None = None
    webhook: str | None = None
    webhook_field: str = field(default="webhook", compare=False)
    base_url: str = ""
    owner: str | None = None
    preset: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """One finished image. `name` is its file name and the last part of its URL."""

    name: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    seed: int
    is_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class JobError:
    """The reason why a job failed: a stable code and a message for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job: its final status and the result.

    `seconds` holds the duration of each stage. `used_prompt` is the prompt that the model read,
    truncated or rewritten. Jobs of version 0.1 have no `sampling`. `warnings` are sentences about
    a result that may not be what the client meant.
    """

    status: JobStatus
    error: JobError | None = None
    outputs: tuple[Output, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    num_inference_steps: int | None = None
    true_cfg_scale: float | None = None
    used_prompt: str | None = None
    is_prompt_extended: bool = False
    sampling: UsedSampling | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def failed(cls, code: str, message: str) -> "Outcome":
        """A failure."""
        return cls(JobStatus.FAILED, JobError(code, message))


class JobChanges(TypedDict, total=False):
    """The fields of an unfinished job that can change."""

    status: JobStatus
    prepared_at: float
    started_at: float
    cancel_requested: bool
    starts: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Job:
    """One job as stored on disk.

    `images` has one entry per input image: its URL, or None when the request carried the image
    itself. Times are Unix seconds. `starts` counts how often the job was handed to a worker,
    `attempts` how often a worker died while it ran. `outcome` is None until the job has ended.
    """

    request: Submission
    images: tuple[str | None, ...]
    created_at: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: JobStatus = JobStatus.QUEUED
    prepared_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    starts: int = 0
    attempts: int = 0
    outcome: Outcome | None = None

    @property
    def error(self) -> JobError | None:
        """The reason why the job failed."""
        return self.outcome.error if self.outcome else None

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The finished images."""
        return self.outcome.outputs if self.outcome else ()

    def evolve(self, **changes: Unpack[JobChanges]) -> "Job":
        """Return this job with some fields changed. Raises ValueError for a bad transition."""
        self._check_transition(changes.get("status", self.status))
        return dataclasses.replace(self, **changes)

    def ended(self, outcome: Outcome, finished_at: float) -> "Job":
        """Return this job with its outcome. Raises ValueError for a bad transition."""
        self._check_transition(outcome.status)
        return dataclasses.replace(
            self, status=outcome.status, finished_at=finished_at, outcome=outcome
        )

    def _check_transition(self, status: JobStatus) -> None:
        if status != self.status and status not in TRANSITIONS[self.status]:
            raise ValueError(f"a {self.status} job cannot become {status}")
