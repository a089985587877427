"""Request and response bodies of `/v1/edits`."""

from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from pipelines.api.params import (
    CFG_RANGE,
    LORA_ALPHA_RANGE,
    MAX_LORAS,
    MAX_OUTPUTS,
    MAX_REFERENCES,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
    LoraRef,
)
from pipelines.api.sampling import Sampling
from pipelines.api.sizes import SizeBounds, parse_size
from server.contracts.native.sampling import SamplingItem, SamplingView, either, sampling_view
from server.job import Job, JobStatus, OutputFormat
from server.jobs.job_state import JobState
from server.jobs.service import output_url
from server.web import fields

BOUNDS = SizeBounds()


class LoraItem(fields.LoraItem):
    """A LoRA and its strength. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    alpha: float | None = Field(
        None,
        ge=LORA_ALPHA_RANGE[0],
        le=LORA_ALPHA_RANGE[1],
        description="For a file saved by PEFT without its configuration",
    )


class EditRequest(BaseModel):
    """The body of POST /v1/edits. Unknown fields are refused, so that no typo is ignored."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    images: list[str] = Field(
        default=[], description=f"1–{MAX_REFERENCES} of: URL, data URI, base64"
    )
    negative_prompt: str | None = None
    size: str | None = Field(None, description=f"W*H, each {BOUNDS}; defaults to the last image's")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    seed: int | None = Field(None, ge=-1, le=SEED_RANGE[1], description="-1 or absent: random")
    n: int = Field(
        1, ge=1, le=MAX_OUTPUTS, description="Number of outputs, with seeds seed, seed+1, …"
    )
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    true_cfg_scale: float | None = Field(None, ge=CFG_RANGE[0], le=CFG_RANGE[1])
    sampling: SamplingItem | None = None
    preset: str | None = Field(None, description="A name of GET /v1/presets")
    output_format: OutputFormat = OutputFormat.PNG
    prompt_extend: bool = Field(False, description="Have the model rewrite the prompt first")
    watermark: str | None = Field(
        None, max_length=100, description="Text drawn into the lower right corner"
    )

    def params(self) -> EditParams:
        """Convert to engine parameters. A random seed is drawn here, so that it is stored."""
        sampling = self.sampling.sampling() if self.sampling else Sampling()
        steps = either("num_inference_steps", self.num_inference_steps, "steps", sampling.steps)
        cfg_scale = either(
            "true_cfg_scale", self.true_cfg_scale, "true_cfg_scale", sampling.true_cfg_scale
        )
        return EditParams(
            prompt=self.prompt,
            seed=fields.seed_or_random(self.seed),
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size else None,
            bounds=BOUNDS,
            num_inference_steps=steps,
            true_cfg_scale=cfg_scale,
            schedule=replace(sampling, steps=None, true_cfg_scale=None),
            num_outputs=self.n,
            loras=tuple(LoraRef(item.path, item.scale, item.alpha) for item in self.loras),
            extend_prompt=self.prompt_extend,
        )


class OutputView(BaseModel):
    """A finished image."""

    url: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    seed: int
    is_unsafe: bool


class ErrorView(BaseModel):
    """The error of a failed job."""

    code: str
    message: str


class EditView(BaseModel):
    """A job. `position` counts the jobs ahead of it; a running one has done `step` of `steps`."""

    id: str
    status: JobStatus
    contract: str
    model: str
    preset: str | None
    prompt: str
    used_prompt: str | None
    seed: int
    position: int | None
    stage: str | None
    step: int | None
    steps: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: dict[str, float]
    outputs: list[OutputView]
    sampling: SamplingView | None
    warnings: list[str]
    error: ErrorView | None


class EditPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[EditView]
    total: int
    limit: int
    offset: int


def edit_view(state: JobState, base: str) -> EditView:
    """Render a job. `base` is the server's URL as the client knows it."""
    job, progress = state.job, state.progress
    outcome = job.outcome
    steps = outcome.num_inference_steps if outcome else None
    total = steps * job.request.params.num_outputs if steps else None
    return EditView(
        id=job.id,
        status=job.status,
        contract=job.request.contract,
        model=job.request.endpoint,
        preset=job.request.preset,
        prompt=job.request.params.prompt,
        used_prompt=outcome.used_prompt if outcome else None,
        seed=job.request.params.seed,
        position=state.position,
        stage=progress.stage if progress else None,
        step=progress.step if progress else total,
        steps=progress.total if progress else total,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        seconds=dict(outcome.seconds) if outcome else {},
        outputs=_outputs(job, base),
        sampling=sampling_view(outcome),
        warnings=list(outcome.warnings) if outcome else [],
        error=ErrorView(code=job.error.code, message=job.error.message) if job.error else None,
    )


def _outputs(job: Job, base: str) -> list[OutputView]:
    return [
        OutputView(
            url=output_url(base, output),
            content_type=output.content_type,
            size_bytes=output.size_bytes,
            width=output.width,
            height=output.height,
            seed=output.seed,
            is_unsafe=output.is_unsafe,
        )
        for output in job.outputs
    ]
