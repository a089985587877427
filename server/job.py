"""A job: an edit somebody asked for, durable, and the states it goes through.

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
from typing import Any

from pipelines.api.params import EditParams
from server.limits import MAX_IMAGE_BYTES


class JobStatus(StrEnum):
    """Where a job is. The last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        """Whether the job will never change again."""
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
class Output:
    """One finished image. `name` is its file's and the last part of its URL."""

    name: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    seed: int
    is_unsafe: bool = False


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a stable code and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job as it stands on disk.

    `contract` and `endpoint` say which wire contract asked, and under which model id. `images`
    has one entry per input image: the URL to fetch it from, or None when the request carried it;
    one may have `max_image_bytes`. `watermark` is drawn into the outputs; `quality` is that of
    JPEG and WebP, None for the usual one. `webhook` is told when the job has ended, with URLs under
    `base_url`, the server's address as the client knew it. `used_prompt` is what the model was
    given in the end, cut or rewritten.
    Times are Unix seconds; `seconds` has the duration of each stage. `starts` counts how often it
    was handed to a worker, `attempts` how often a worker died over it.
    """

    contract: str
    endpoint: str
    params: EditParams
    images: tuple[str | None, ...]
    created_at: float
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    output_format: OutputFormat = OutputFormat.PNG
    base64_output: bool = False
    max_image_bytes: int = MAX_IMAGE_BYTES
    watermark: str | None = None
    quality: int | None = None
    webhook: str | None = None
    base_url: str = ""
    status: JobStatus = JobStatus.QUEUED
    prepared_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    cancel_requested: bool = False
    starts: int = 0
    attempts: int = 0
    num_inference_steps: int | None = None
    true_cfg_scale: float | None = None
    used_prompt: str | None = None
    is_prompt_extended: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None

    def evolve(self, **changes: Any) -> "Job":
        """This job with some fields changed. Raises ValueError for a transition that is none."""
        status = changes.get("status", self.status)
        if status != self.status and status not in TRANSITIONS[self.status]:
            raise ValueError(f"a {self.status} job cannot become {status}")
        return dataclasses.replace(self, **changes)
