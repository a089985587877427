"""WaveSpeed's submit and result."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from fastapi import APIRouter, Depends, Request

from server.contracts.wavespeed.codes import MODELS, NAME, BusinessCode
from server.contracts.wavespeed.schemas import Envelope, Prediction, Status, SubmitRequest
from server.contracts.wavespeed.views import prediction
from server.errors import InvalidRequest
from server.job import Job, Submission
from server.web.auth import caller
from server.web.contract import Services
from server.web.idempotency import IdempotencyKey, keyed_request
from server.web.preset_path import PRESET, declare_preset, preset_of
from server.web.request import base_url, note_warnings, while_connected

# A route's function, whose signature is its parameters.
Handler = Callable[..., Awaitable[Envelope[Prediction]]]


def router(services: Services) -> APIRouter:
    """Return submit and result."""
    routes = APIRouter()
    service, sync_timeout_s = services.edits, services.settings.sync_timeout_s

    async def submit(
        request: Request, body: SubmitRequest, key: IdempotencyKey, webhook: str | None = None
    ) -> Envelope[Prediction]:
        """Queue an edit; the response does not wait for images to be fetched."""
        base = base_url(request)
        endpoint = request.url.path.partition("/api/v3/")[2]
        submission = _submission(body, endpoint, webhook, base, caller(request).owner)
        submission = replace(submission, preset=preset_of(request))
        images = body.references()
        keyed = await keyed_request(request, key, body, images, webhook=webhook)
        job = await while_connected(request, service.submit(submission, images, keyed))
        if not body.enable_sync_mode:
            return await envelope(request, job)
        # A client that disconnects does not cancel the task, only the wait.
        job = await service.queue.wait(job.id, sync_timeout_s)
        answer = await envelope(request, job)
        if not job.status.is_final:
            answer.data.status = Status.PROCESSING
            answer.data.code = BusinessCode.TIMEOUT
            why = (
                "The server is restarting."
                if service.queue.is_draining
                else f"Sync mode timed out after {sync_timeout_s:g} seconds."
            )
            answer.data.error = f"{why} The prediction is still processing asynchronously."
        return answer

    async def result(request: Request, prediction_id: str) -> Envelope[Prediction]:
        """Return the current state of a prediction."""
        state = await service.queue.state(prediction_id, caller(request))
        return await envelope(request, state.job)

    async def envelope(request: Request, job: Job) -> Envelope[Prediction]:
        note_warnings(request, job)
        base = base_url(request)
        return Envelope(data=await prediction(service, job, base))

    _add(routes, submit, result)
    return routes


def _add(routes: APIRouter, submit: Handler, result: Handler) -> None:
    for model in MODELS:
        routes.add_api_route(f"/api/v3/{model}", submit, methods=["POST"])
        routes.add_api_route(
            f"/api/v3/{model}/{PRESET}",
            submit,
            methods=["POST"],
            dependencies=[Depends(declare_preset)],
        )
    for path in (
        "/api/v3/predictions/{prediction_id}/result",
        "/api/v3/predictions/{prediction_id}",
        "/api/v2/predictions/{prediction_id}/result",
    ):
        routes.add_api_route(path, result, methods=["GET"])


def _submission(
    body: SubmitRequest, endpoint: str, query_webhook: str | None, base: str, owner: str
) -> Submission:
    webhook = query_webhook or body.webhook_url
    if webhook and body.enable_base64_output:
        raise InvalidRequest(
            "a webhook cannot be combined with enable_base64_output: leave out one of them",
            field="enable_base64_output",
        )
    return Submission(
        contract=NAME,
        endpoint=endpoint,
        params=body.params(),
        output_format=body.output_format,
        base64_output=body.enable_base64_output,
        webhook=webhook or None,
        webhook_field="webhook" if query_webhook else "webhook_url",
        base_url=base,
        owner=owner,
    )
