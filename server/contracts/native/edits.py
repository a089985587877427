"""`/v1/edits`: submit, list, read, follow, cancel, delete."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.contracts.native.body import read_body, request_body
from server.contracts.native.schemas import EditPage, EditView, edit_view
from server.job import JobStatus, Submission
from server.jobs.job_state import JobState
from server.jobs.service import EditService
from server.store.jobs import JobFilter
from server.web.auth import caller
from server.web.contract import Services
from server.web.idempotency import IdempotencyKey, keyed_request
from server.web.request import base_url, unless_disconnected, while_connected

NAME = "native"
ENDPOINT = "edits"
MAX_WAIT_S = 600.0


def router(services: Services) -> APIRouter:
    """Return the routes under `/v1/edits`."""
    routes = APIRouter(prefix="/v1", tags=["native"])
    _add_submit_and_list(routes, services.edits)
    _add_single_edit(routes, services.edits)
    return routes


def _view(request: Request, state: JobState) -> EditView:
    return edit_view(state, base_url(request))


def _add_submit_and_list(routes: APIRouter, service: EditService) -> None:
    @routes.post("/edits", status_code=201, openapi_extra=request_body())
    async def create_edit(
        request: Request,
        key: IdempotencyKey,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
    ) -> EditView:
        """Queue an edit. With `wait`, respond once it is done or after that many seconds.

        A client that disconnects while waiting cancels the job, unless it sent an Idempotency-Key.
        """
        body, files = await read_body(request)
        submission = Submission(
            NAME,
            ENDPOINT,
            body.params(),
            body.output_format,
            watermark=body.watermark,
            owner=caller(request).owner,
            preset=body.preset,
        )
        images: list[str | bytes] = [*body.images, *files]
        keyed = await keyed_request(request, key, body, images)
        job = await while_connected(request, service.submit(submission, images, keyed))
        if wait:
            waited = await unless_disconnected(request, service.queue.wait(job.id, wait))
            if waited is None and keyed is None:
                waited = await service.cancel(job.id)
            job = waited or job
        return _view(request, await service.queue.state_of(job))

    @routes.get("/edits")
    async def list_edits(
        request: Request,
        status: Annotated[list[JobStatus] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> EditPage:
        """List your jobs of every contract, newest first; an admin sees all."""
        wanted = JobFilter(statuses=tuple(status) if status else None)
        jobs, total = await service.queue.search(
            wanted, caller(request), limit=limit, offset=offset
        )
        items = [_view(request, await service.queue.state_of(job)) for job in jobs]
        return EditPage(items=items, total=total, limit=limit, offset=offset)


def _add_single_edit(routes: APIRouter, service: EditService) -> None:
    async def found(request: Request, edit_id: str) -> JobState:
        return await service.queue.state(edit_id, caller(request))

    @routes.get("/edits/{edit_id}")
    async def get_edit(request: Request, state: Annotated[JobState, Depends(found)]) -> EditView:
        """Return the current state of a job."""
        return _view(request, state)

    @routes.get("/edits/{edit_id}/events", response_class=EventSourceResponse)
    async def stream_edit(
        request: Request, state: Annotated[JobState, Depends(found)]
    ) -> AsyncIterator[ServerSentEvent]:
        """Stream the current state of a job and every change; the last event is its final state."""
        async for update in service.queue.watch(state.job.id):
            yield ServerSentEvent(event="edit", data=_view(request, update))

    @routes.post("/edits/{edit_id}/cancel")
    async def cancel_edit(request: Request, state: Annotated[JobState, Depends(found)]) -> EditView:
        """Cancel an unfinished job at its next step; a finished one is returned as it is."""
        job = await service.cancel(state.job.id)
        return _view(request, await service.queue.state_of(job))

    @routes.delete(
        "/edits/{edit_id}",
        status_code=204,
        responses={202: {"description": "The job stops at its next step", "model": EditView}},
    )
    async def delete_edit(request: Request, state: Annotated[JobState, Depends(found)]) -> Response:
        """Cancel an unfinished job (202), or delete a finished one and its files (204)."""
        if state.job.status.is_final:
            await service.delete(state.job)
            return Response(status_code=204)
        job = await service.cancel(state.job.id)
        answer = _view(request, await service.queue.state_of(job))
        return JSONResponse(answer.model_dump(mode="json"), 202)
