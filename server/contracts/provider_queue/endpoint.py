"""The handlers of one endpoint: submit, run, status, result and cancel."""

import uuid
from collections.abc import AsyncIterator

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import ServerSentEvent
from pydantic import BaseModel

from pipelines.api.errors import PresetNotFound
from server.contracts.provider_queue.answers import (
    CancelAnswer,
    StatusAnswer,
    outcome,
    status_answer,
    submitted,
)
from server.contracts.provider_queue.codes import NAME, REQUEST_ID_HEADER, render
from server.contracts.provider_queue.schemas import WATERMARK, EditRequest, FalEditRequest
from server.errors import InvalidRequest, NotFound, ServerError, Unavailable
from server.job import Job, JobStatus, OutputFormat, Submission
from server.jobs.service import RESTART_S, STOPPING, EditService
from server.web.auth import caller
from server.web.idempotency import IdempotencyKey, keyed_request
from server.web.preset_path import preset_of
from server.web.problem import problem_of
from server.web.request import base_url, note_warnings, unless_disconnected, while_connected

PRIORITY_HEADER = "x-fal-queue-priority"
MAX_IMAGE_BYTES = 10_000_000


class Endpoint:
    """The handlers of one endpoint under one mount."""

    def __init__(self, service: EditService, mount: str, name: str) -> None:
        self._service = service
        self._name = name
        self.path = f"{mount}/{name}"

    async def submit(
        self,
        request: Request,
        body: EditRequest,
        key: IdempotencyKey,
        fal_webhook: str | None = None,
    ) -> JSONResponse:
        """Queue an edit."""
        _refuse_webhook(fal_webhook)
        return await self._queued(request, await self._submit(request, body, key))

    async def submit_fal(
        self,
        request: Request,
        body: FalEditRequest,
        key: IdempotencyKey,
        fal_webhook: str | None = None,
    ) -> JSONResponse:
        """Queue an edit, and post its outcome to `fal_webhook`."""
        job = await self._submit_fal(request, body, key, webhook=fal_webhook)
        return await self._queued(request, job)

    async def submit_or_run(
        self,
        request: Request,
        body: FalEditRequest,
        key: IdempotencyKey,
        fal_webhook: str | None = None,
    ) -> JSONResponse:
        """Queue an edit if the request has x-fal-queue-priority, else run it."""
        if PRIORITY_HEADER in request.headers:
            return await self.submit_fal(request, body, key, fal_webhook)
        return await self.run(request, body, key, fal_webhook)

    async def run(
        self,
        request: Request,
        body: FalEditRequest,
        key: IdempotencyKey,
        fal_webhook: str | None = None,
    ) -> JSONResponse:
        """Run an edit and return its result.

        A client that disconnects cancels its job, unless it sent an Idempotency-Key.
        """
        _refuse_webhook(fal_webhook)
        job = await self._submit_fal(request, body, key, answers_outcome=True)
        waited = await unless_disconnected(request, self._service.queue.wait(job.id))
        ended = waited or job
        if not ended.status.is_final:
            if key is None:
                # the client has left or the server is stopping: a retry runs the edit again
                await self._service.cancel(job.id)
            return render(problem_of(Unavailable(STOPPING, retry_after_s=RESTART_S)), job.id)
        return await self._result(request, ended)

    async def status(self, request: Request, request_id: str) -> JSONResponse:
        """Return the status of a request."""
        state = await self._service.queue.state(request_id, caller(request))
        return _answer(200, status_answer(state, self._url(request, request_id)), request_id)

    async def stream(self, request: Request, request_id: str) -> AsyncIterator[ServerSentEvent]:
        """Stream the current status and every change, until it is COMPLETED."""
        last: StatusAnswer | None = None
        async for state in self._service.queue.watch(request_id):
            answer = status_answer(state, self._url(request, request_id))
            if answer != last:
                yield ServerSentEvent(data=answer)
            last = answer

    async def check(self, request: Request, request_id: str, response: Response) -> None:
        """Raise NotFound before a stream starts, and set its request id header."""
        await self._service.queue.state(request_id, caller(request))
        response.headers[REQUEST_ID_HEADER] = request_id

    async def result(self, request: Request, request_id: str) -> JSONResponse:
        """Return the result, or 202 with the status until there is one."""
        state = await self._service.queue.state(request_id, caller(request))
        return await self._result(request, state.job)

    async def cancel(self, request: Request, request_id: str) -> JSONResponse:
        """Cancel a request: immediately if it is waiting, at its next step if it is running."""
        try:
            before = (await self._service.queue.state(request_id, caller(request))).job
            job = before if before.status.is_final else await self._service.cancel(request_id)
        except NotFound:
            # a new id: the one in the path may be anything, which a header cannot carry
            return _answer(404, CancelAnswer(status="NOT_FOUND"), uuid.uuid4().hex)
        if job is before or job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
            return _answer(400, CancelAnswer(status="ALREADY_COMPLETED"), request_id)
        return _answer(202, CancelAnswer(status="CANCELLATION_REQUESTED"), request_id)

    async def _submit_fal(
        self,
        request: Request,
        body: FalEditRequest,
        key: str | None,
        *,
        webhook: str | None = None,
        answers_outcome: bool = False,
    ) -> Job:
        return await self._submit(
            request,
            body,
            key,
            output_format=body.output_format,
            data_uris=body.sync_mode,
            webhook=webhook,
            answers_outcome=answers_outcome,
        )

    async def _submit(
        self,
        request: Request,
        body: EditRequest,
        key: str | None,
        *,
        output_format: OutputFormat = OutputFormat.PNG,
        data_uris: bool = False,
        webhook: str | None = None,
        answers_outcome: bool = False,
    ) -> Job:
        images = body.references()
        keyed = await keyed_request(
            request, key, body, images, webhook=webhook, answers_outcome=answers_outcome
        )
        submission = Submission(
            contract=NAME,
            endpoint=self._name,
            params=body.params(),
            output_format=output_format,
            base64_output=data_uris,
            max_image_bytes=MAX_IMAGE_BYTES,
            watermark=WATERMARK if body.watermark else None,
            webhook=webhook,
            webhook_field="fal_webhook",
            base_url=base_url(request),
            owner=caller(request).owner,
            preset=preset_of(request),
        )
        try:
            submitted = self._service.submit(submission, images, keyed)
            return await while_connected(request, submitted)
        except PresetNotFound as exc:
            # to fal's clients a preset is an app
            raise NotFound(f"App not found: {self._name}/{submission.preset}") from exc
        except ServerError as exc:
            if exc.field and exc.field.startswith("images"):
                exc.field = exc.field.replace("images", body.images_field, 1)
            raise

    async def _queued(self, request: Request, job: Job) -> JSONResponse:
        state = await self._service.queue.state_of(job)
        return _answer(200, submitted(state, self._url(request, job.id)), job.id)

    async def _result(self, request: Request, job: Job) -> JSONResponse:
        if job.status.is_final:
            note_warnings(request, job)
            base = base_url(request)
            return _answer(*await outcome(self._service, job, base), job.id)
        state = await self._service.queue.state_of(job)
        return _answer(202, status_answer(state, self._url(request, job.id)), job.id)

    def _url(self, request: Request, request_id: str) -> str:
        """Return the request's own URL."""
        return f"{base_url(request)}{self.path}/requests/{request_id}"


def _answer(status: int, body: BaseModel, request_id: str) -> JSONResponse:
    headers = {REQUEST_ID_HEADER: request_id}
    return JSONResponse(body.model_dump(mode="json"), status, headers=headers)


def _refuse_webhook(url: str | None) -> None:
    if url is not None:
        raise InvalidRequest("webhook not supported")
