"""Response bodies of the queue."""

import base64
from typing import Literal

from pydantic import BaseModel

from server.contracts.provider_queue.codes import STATUSES, ErrorType, failure_of
from server.job import Job, JobStatus, Output
from server.jobs.job_state import JobState
from server.jobs.service import EditService, output_url

INFERENCE_STAGES = ("encode", "denoise", "decode")


class Submitted(BaseModel):
    """The response to a submit. Its URLs are absolute: fal's Python client uses them as is."""

    request_id: str
    response_url: str
    status_url: str
    cancel_url: str
    queue_position: int
    status: Literal["IN_QUEUE"] = "IN_QUEUE"


class InQueue(BaseModel):
    """A waiting request: `queue_position` others are ahead of it, not counting the running one."""

    status: Literal["IN_QUEUE"] = "IN_QUEUE"
    request_id: str
    queue_position: int
    response_url: str
    status_url: str
    cancel_url: str
    logs: None = None


class InProgress(BaseModel):
    """A running request."""

    status: Literal["IN_PROGRESS"] = "IN_PROGRESS"
    request_id: str
    response_url: str
    logs: list[str] = []


class Metrics(BaseModel):
    """Seconds."""

    inference_time: float


class Completed(BaseModel):
    """A request that has its images."""

    status: Literal["COMPLETED"] = "COMPLETED"
    request_id: str
    response_url: str
    logs: list[str] = []
    metrics: Metrics


class CompletedWithError(BaseModel):
    """A request that failed or was cancelled; `error` says why."""

    status: Literal["COMPLETED"] = "COMPLETED"
    request_id: str
    response_url: str
    logs: list[str] = []
    error: str
    error_type: ErrorType


StatusAnswer = InQueue | InProgress | Completed | CompletedWithError


class OutputItem(BaseModel):
    """An image in the provider's shape."""

    type: Literal["image"] = "image"
    url: str
    content_type: str
    file_name: str
    width: int
    height: int


class ImageItem(BaseModel):
    """An image in fal's shape."""

    url: str
    content_type: str
    file_name: str
    file_size: int
    width: int
    height: int


class Metadata(BaseModel):
    """The prompt that the model used, and whether the model rewrote it."""

    prompt: str
    prompt_extended: bool


class Timings(BaseModel):
    """Seconds."""

    inference: float


class Result(BaseModel):
    """The provider's fields first, then fal's."""

    request_id: str
    outputs: list[OutputItem]
    metadata: Metadata
    images: list[ImageItem]
    seed: int
    has_nsfw_concepts: list[bool]
    prompt: str
    timings: Timings


class Failure(BaseModel):
    """The body in place of a result for a request without one."""

    detail: str
    message: str
    error_type: ErrorType


class CancelAnswer(BaseModel):
    """The outcome of a cancel request."""

    status: Literal["CANCELLATION_REQUESTED", "ALREADY_COMPLETED", "NOT_FOUND"]


def submitted(state: JobState, url: str) -> Submitted:
    """Return the response to a submit. `url` is the request's own, without a trailing slash."""
    return Submitted(
        request_id=state.job.id,
        response_url=f"{url}/response",
        status_url=f"{url}/status",
        cancel_url=f"{url}/cancel",
        queue_position=state.position or 0,
    )


def status_answer(state: JobState, url: str) -> StatusAnswer:
    """Return a request's status, as one of the three that clients know."""
    job, response_url = state.job, f"{url}/response"
    if job.status is JobStatus.QUEUED:
        return InQueue(
            request_id=job.id,
            queue_position=state.position or 0,
            response_url=response_url,
            status_url=f"{url}/status",
            cancel_url=f"{url}/cancel",
        )
    if job.status is JobStatus.RUNNING:
        return InProgress(request_id=job.id, response_url=response_url)
    failure = failure_of(job)
    if failure is None:
        metrics = Metrics(inference_time=_inference_s(job))
        return Completed(request_id=job.id, response_url=response_url, metrics=metrics)
    kind, message = failure
    return CompletedWithError(
        request_id=job.id, response_url=response_url, error=message, error_type=kind
    )


async def outcome(service: EditService, job: Job, base: str) -> tuple[int, Result | Failure]:
    """Return a final job as HTTP status and body. `base` is the server's URL for the client."""
    failure = failure_of(job)
    if failure is None:
        return 200, await _result(service, job, base)
    kind, message = failure
    return STATUSES[kind], Failure(detail=message, message=message, error_type=kind)


async def _result(service: EditService, job: Job, base: str) -> Result:
    urls = [await _url(service, job, output, base) for output in job.outputs]
    pairs = list(zip(job.outputs, urls, strict=True))
    ended = job.outcome
    used = ended.used_prompt if ended else None
    prompt = job.request.params.prompt if used is None else used
    is_extended = ended is not None and ended.is_prompt_extended
    return Result(
        request_id=job.id,
        outputs=[
            OutputItem(
                url=url,
                content_type=output.content_type,
                file_name=output.name,
                width=output.width,
                height=output.height,
            )
            for output, url in pairs
        ],
        metadata=Metadata(prompt=prompt, prompt_extended=is_extended),
        images=[
            ImageItem(
                url=url,
                content_type=output.content_type,
                file_name=output.name,
                file_size=output.size_bytes,
                width=output.width,
                height=output.height,
            )
            for output, url in pairs
        ],
        seed=job.request.params.seed,
        has_nsfw_concepts=[output.is_unsafe for output in job.outputs],
        prompt=prompt,
        timings=Timings(inference=_inference_s(job)),
    )


async def _url(service: EditService, job: Job, output: Output, base: str) -> str:
    if not job.request.base64_output:
        return output_url(base, output)
    data = base64.b64encode(await service.outputs.read(output)).decode("ascii")
    return f"data:{output.content_type};base64,{data}"


def _inference_s(job: Job) -> float:
    seconds = job.outcome.seconds if job.outcome else {}
    return round(sum(seconds.get(stage, 0.0) for stage in INFERENCE_STAGES), 3)
