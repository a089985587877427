"""WaveSpeed's submit and result over the one job model."""

import base64
import datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from server.client_request import base_url
from server.contracts.wavespeed.codes import (
    CODES,
    STATUSES,
    BusinessCode,
    business_code,
    error_sentence,
)
from server.contracts.wavespeed.schemas import (
    Envelope,
    Prediction,
    Status,
    SubmitRequest,
    Timings,
    Urls,
)
from server.edit_service import EditService, Submission, output_url
from server.errors import InvalidRequest
from server.job import Job
from server.problem import Problem

NAME = "wavespeed"
MODELS = ("edit-plus-lora", "edit-plus")
MODEL_PREFIX = "wavespeed-ai/qwen-image"


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
        has_nsfw_contents=[output.is_unsafe for output in job.outputs],
        status=STATUSES[job.status],
        created_at=_iso(job.created_at),
        error=error_sentence(job),
        executionTime=round(total * 1000),
        timings=Timings(inference=round(inference * 1000)),
        code=business_code(job),
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


def _iso(moment: float) -> str:
    time = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
