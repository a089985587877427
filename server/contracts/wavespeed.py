"""WaveSpeed's v3 contract: submit and result.

Source: the provider's public documentation and published clients; each rule that a client relies
on has a test in `tests/contracts/test_wavespeed.py`.
"""

import base64
import datetime
import secrets
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.params import (
    CFG_RANGE,
    LORA_SCALE_RANGE,
    MAX_LORAS,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
    LoraRef,
)
from pipelines.sizes import SizeBounds, parse_size
from server.client_request import base_url
from server.edit_service import EditService, Submission, output_url
from server.errors import InvalidRequest
from server.inputs import is_inline, is_url
from server.job import Job, JobStatus, OutputFormat
from server.problem import Problem

NAME = "wavespeed"
MODELS = ("edit-plus-lora", "edit-plus")
MODEL_PREFIX = "wavespeed-ai/qwen-image"
BOUNDS = SizeBounds(256, 1536)
CANCELED_MESSAGE = "The task was canceled."


class BusinessCode:
    """The integers in `data.code`, the provider's own."""

    MODERATED = 1200
    MISSING_PARAMETER = 1400
    INVALID_PARAMETER = 1401
    MEDIA_ACCESS_FAILED = 1402
    EXECUTION_FAILED = 1403
    TASK_FAILED = 1405
    INTERNAL = 5000
    UNAVAILABLE = 5003
    TIMEOUT = 5004


CODES = {
    "missing_parameter": BusinessCode.MISSING_PARAMETER,
    "invalid_parameter": BusinessCode.INVALID_PARAMETER,
    "lora_not_found": BusinessCode.INVALID_PARAMETER,
    "lora_invalid": BusinessCode.INVALID_PARAMETER,
    "invalid_picture": BusinessCode.MEDIA_ACCESS_FAILED,
    "payload_too_large": BusinessCode.MEDIA_ACCESS_FAILED,
    "fetch_failed": BusinessCode.MEDIA_ACCESS_FAILED,
    "inference_failed": BusinessCode.EXECUTION_FAILED,
    "out_of_memory": BusinessCode.EXECUTION_FAILED,
    "worker_lost": BusinessCode.TASK_FAILED,
    "server_lost": BusinessCode.TASK_FAILED,
    "timeout": BusinessCode.TIMEOUT,
    "internal_error": BusinessCode.INTERNAL,
    "unavailable": BusinessCode.UNAVAILABLE,
}


class Status(StrEnum):
    """The provider's words; while a task is unfinished, clients know the first two only."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


# Four published clients know no `cancelled` and would poll for ever.
STATUSES = {
    JobStatus.QUEUED: Status.CREATED,
    JobStatus.RUNNING: Status.PROCESSING,
    JobStatus.SUCCEEDED: Status.COMPLETED,
    JobStatus.FAILED: Status.FAILED,
    JobStatus.CANCELED: Status.FAILED,
}


class LoraItem(BaseModel):
    """One LoRA: a file name under weights/loras or a URL, and its strength."""

    path: str = Field(min_length=1)
    scale: Annotated[
        float, Field(ge=LORA_SCALE_RANGE[0], le=LORA_SCALE_RANGE[1], allow_inf_nan=False)
    ] = 1.0


class SubmitRequest(BaseModel):
    """The body of a submit. Unknown fields are tolerated, a null or "" counts as absent."""

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1)
    images: list[str] = Field(default=[], description="1–3 of: URL, data URI, base64")
    image: str | None = Field(None, description="The same as images with this one entry")
    size: str | None = Field(None, description="W*H, each 256–1536; absent: the last image's")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    seed: int = Field(-1, ge=-1, le=SEED_RANGE[1], description="-1 draws one")
    output_format: OutputFormat = OutputFormat.JPEG
    enable_base64_output: bool = False
    enable_sync_mode: bool = False
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    guidance_scale: float | None = Field(
        None, ge=CFG_RANGE[0], le=CFG_RANGE[1], description="The true CFG scale"
    )
    webhook_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value
            for key, value in data.items()
            if key == "prompt" or (value is not None and value != "")
        }

    def references(self) -> list[str]:
        """The input pictures: `images`, or the lone `image` where that is what can be meant.

        One client sends a path of its own machine in `images` beside a usable `image`.
        """
        if self.image and not (self.images and _is_reference(self.images[0])):
            return [self.image]
        return self.images

    def params(self) -> EditParams:
        """What the engine needs; a random seed is drawn here, once, so that it can be kept."""
        return EditParams(
            prompt=self.prompt,
            seed=secrets.randbelow(SEED_RANGE[1] + 1) if self.seed == -1 else self.seed,
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size else None,
            bounds=BOUNDS,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=self.guidance_scale,
            loras=tuple(LoraRef(lora.path, lora.scale) for lora in self.loras),
        )


class Urls(BaseModel):
    """Where to ask for the prediction."""

    get: str


class Timings(BaseModel):
    """Milliseconds."""

    inference: int


class Prediction(BaseModel):
    """A task as the provider shows it; the order of the fields is the provider's."""

    id: str
    model: str
    outputs: list[str]
    urls: Urls
    has_nsfw_contents: list[bool]
    status: Status
    created_at: str
    error: str
    executionTime: int  # noqa: N815 - the wire's name
    timings: Timings
    code: int = Field(0, description="Business code: 0, or why a task failed or is not done yet")


class Envelope(BaseModel):
    """What every success is wrapped in."""

    code: int = 200
    message: str = "success"
    data: Prediction


def router(service: EditService, *, public_url: str | None, sync_timeout_s: float) -> APIRouter:
    """The routes of this contract."""
    routes = APIRouter(tags=["WaveSpeed"])

    async def submit(request: Request, body: SubmitRequest, webhook: str | None = None) -> Envelope:
        _refuse_webhook(webhook or body.webhook_url, body)
        job = await service.submit(
            Submission(
                contract=NAME,
                endpoint=f"{MODEL_PREFIX}/{request.url.path.rpartition('/')[2]}",
                params=body.params(),
                images=body.references(),
                output_format=body.output_format,
                base64_output=body.enable_base64_output,
            )
        )
        if not body.enable_sync_mode:
            return await envelope(request, job)
        # A client that hangs up does not end the task: the wait alone is what it leaves.
        job = await service.wait(job.id, sync_timeout_s)
        answer = await envelope(request, job)
        if not job.status.is_final:
            answer.data.status = Status.PROCESSING
            answer.data.code = BusinessCode.TIMEOUT
            answer.data.error = (
                f"Sync mode timed out after {sync_timeout_s:g} seconds. The prediction is still "
                f"processing asynchronously."
            )
        return answer

    async def result(request: Request, prediction_id: str) -> Envelope:
        return await envelope(request, (await service.state(prediction_id)).job)

    async def envelope(request: Request, job: Job) -> Envelope:
        base = base_url(request, public_url)
        return Envelope(data=await prediction(service, job, base))

    for model in MODELS:
        routes.add_api_route(f"/api/v3/{MODEL_PREFIX}/{model}", submit, methods=["POST"])
    for path in (
        "/api/v3/predictions/{prediction_id}/result",
        "/api/v3/predictions/{prediction_id}",
        "/api/v2/predictions/{prediction_id}/result",
    ):
        routes.add_api_route(path, result, methods=["GET"])
    return routes


async def prediction(service: EditService, job: Job, base: str) -> Prediction:
    """The job in the provider's words. `base` is the server's address as the client knows it."""
    outputs = []
    for output in job.outputs:
        if job.base64_output:
            outputs.append(base64.b64encode(await service.read_output(output)).decode("ascii"))
        else:
            outputs.append(output_url(base, output))
    inference = sum(job.seconds.get(stage, 0.0) for stage in ("encode", "denoise", "decode"))
    total = (job.finished_at or job.created_at) - job.created_at
    return Prediction(
        id=job.id,
        model=job.endpoint,
        outputs=outputs,
        urls=Urls(get=f"{base}/api/v3/predictions/{job.id}/result"),
        has_nsfw_contents=[False] * len(job.outputs),
        status=STATUSES[job.status],
        created_at=_iso(job.created_at),
        error=_error(job),
        executionTime=round(total * 1000),
        timings=Timings(inference=round(inference * 1000)),
        code=_business_code(job),
    )


def render(problem: Problem) -> JSONResponse:
    """An error in the provider's shape: different clients read different keys of it."""
    message = problem.message
    if problem.field and problem.status == InvalidRequest.status:
        message = f'invalid request body, Error at "/{problem.field}": {message}'
    body: dict[str, object] = {"code": problem.status, "message": message, "error": message}
    if problem.code in CODES:
        body["data"] = {"code": CODES[problem.code]}
    return JSONResponse(body, problem.status, headers=problem.headers)


def _refuse_webhook(url: str | None, body: SubmitRequest) -> None:
    if not url:
        return
    if body.enable_base64_output:
        raise InvalidRequest(
            "a webhook cannot be combined with enable_base64_output: leave one of them out",
            field="enable_base64_output",
        )
    raise InvalidRequest(
        "webhooks are not served yet: leave webhook out and ask for the result instead",
        field="webhook",
    )


def _is_reference(text: str) -> bool:
    return is_url(text) or is_inline(text)


def _error(job: Job) -> str:
    if job.status is JobStatus.CANCELED:
        return CANCELED_MESSAGE
    return job.error.message if job.error else ""


def _business_code(job: Job) -> int:
    if job.status is JobStatus.CANCELED:
        return BusinessCode.TASK_FAILED
    return CODES.get(job.error.code, BusinessCode.INTERNAL) if job.error else 0


def _iso(moment: float) -> str:
    time = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
