"""OpenAI's image edits and list of models."""

import asyncio
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response

from server.contracts.openai.answers import images_response
from server.contracts.openai.body import read_body, request_body
from server.contracts.openai.problems import REQUEST_ID, problem_of_job, render
from server.contracts.openai.schemas import (
    EditRequest,
    ErrorBody,
    ImagesResponse,
    ModelList,
    ModelView,
)
from server.contracts.openai.stream import EditStream
from server.job import Job, JobStatus, Submission
from server.jobs.service import EditService
from server.web.auth import caller
from server.web.contract import Services
from server.web.idempotency import IdempotencyKey, keyed_request
from server.web.problem import Problem
from server.web.request import base_url, note_warnings, unless_disconnected, while_connected

NAME = "openai"
# `qwen-edit:<preset>` is a model for clients that have only a model box.
PRESET_PREFIX = "qwen-edit"
SHOWN_MODEL_CHARS = 200
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": ImagesResponse, "content": {"text/event-stream": {}}},
    **{status: {"model": ErrorBody} for status in (400, 401, 413, 429, 500, 503)},
}


def router(services: Services) -> APIRouter:
    """Return the routes of this contract."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"])
    service = services.edits
    # the safety checker sees finished images only
    shows_previews = not services.settings.blocks_unsafe

    @routes.post(
        "/images/edits",
        openapi_extra=request_body(),
        responses=RESPONSES,
    )
    async def edit_images(request: Request, key: IdempotencyKey) -> Response:
        """Edit one to three images. The response comes once the edit is done, or as a stream.

        A client that disconnects cancels the job; otherwise its retry would run a second one. With
        an Idempotency-Key the job stays, and the retry gets its result.
        """
        body, images = await read_body(request)
        submission = Submission(
            contract=NAME,
            endpoint=_endpoint(body),
            params=body.params(shows_previews=shows_previews),
            output_format=body.output_format,
            base64_output=body.stream or body.response_format == "b64_json",
            quality=body.output_compression,
            owner=caller(request).owner,
            preset=_preset(body),
        )
        keyed = await keyed_request(request, key, body, images, answers_outcome=True)
        job = await while_connected(request, service.submit(submission, images, keyed))
        if body.stream:
            return EditStream(service, job, services.clock, cancels=keyed is None)
        ended = await unless_disconnected(request, service.queue.wait(job.id)) or job
        if keyed is None and not ended.status.is_final:
            # the client has left or the server is stopping: nobody can fetch the outputs later
            await service.cancel(job.id)
        note_warnings(request, ended)
        return await _answer(service, ended, base_url(request))

    _add_models(routes, services)
    return routes


async def _answer(service: EditService, job: Job, base: str) -> Response:
    if job.status is not JobStatus.SUCCEEDED:
        return render(problem_of_job(job), job.id, is_final=job.status.is_final)
    content = await images_response(service, job, base)
    return Response(content, media_type="application/json", headers={REQUEST_ID: job.id})


def _add_models(routes: APIRouter, services: Services) -> None:
    created = round(services.clock())

    def model() -> ModelView:
        return ModelView(id=services.model_name, created=created)

    @routes.get("/models")
    async def list_models(response: Response) -> ModelList:
        """List the loaded model, and each preset as a model of its own."""
        response.headers[REQUEST_ID] = uuid.uuid4().hex
        presets = await asyncio.to_thread(services.presets.usable)
        names = [f"{PRESET_PREFIX}:{preset.name}" for preset in presets]
        return ModelList(data=[model(), *(ModelView(id=name, created=created) for name in names)])

    @routes.get(
        "/models/{model_id:path}", response_model=ModelView, responses={404: {"model": ErrorBody}}
    )
    async def get_model(response: Response, model_id: str) -> ModelView | Response:
        """Return the loaded model, under its own name only, or a preset."""
        response.headers[REQUEST_ID] = uuid.uuid4().hex
        name, _, preset = model_id.partition(":")
        if name == PRESET_PREFIX and preset:
            await asyncio.to_thread(services.presets.find, preset)
            return ModelView(id=model_id, created=created)
        if model_id != services.model_name:
            message = f"There is no model {model_id!r}; {services.model_name} is loaded."
            return render(Problem(404, "model_not_found", message, "model"))
        return model()


def _preset(body: EditRequest) -> str | None:
    """Return the preset that the model names as `qwen-edit:<preset>`."""
    name, colon, preset = str(body.model or "").partition(":")
    return preset if colon and name == PRESET_PREFIX else None


def _endpoint(body: EditRequest) -> str:
    """Return the requested model as the list of jobs shows it."""
    return str(body.model)[:SHOWN_MODEL_CHARS] if body.model else "images/edits"
