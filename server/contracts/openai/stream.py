"""An edit as server-sent events: previews, then the outputs or an error."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import anyio
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.contracts.openai.answers import completed, partial_image
from server.contracts.openai.problems import REQUEST_ID, error_body, problem_of_job
from server.contracts.openai.schemas import ErrorEvent
from server.errors import NotFound, ServerError
from server.job import Job, JobStatus
from server.jobs.service import EditService
from server.web.problem import Problem, problem_of

# Proxies drop a connection that is silent for a minute; a job may wait longer.
KEEPALIVE_S = 15.0


class EditStream(StreamingResponse):
    """The events of one job."""

    def __init__(
        self, service: EditService, job: Job, clock: Callable[[], float], *, cancels: bool
    ) -> None:
        """`cancels`: a stream that ends before its job does cancels it."""
        self._service = service
        self._cancels = cancels
        self._job_id = job.id
        super().__init__(
            _with_keepalive(_events(service, job.id, clock)),
            media_type="text/event-stream",
            headers={REQUEST_ID: job.id, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events. Starlette cancels this when the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._cancels:
                # not in the generator: a cancellation during a send would never resume it
                with anyio.CancelScope(shield=True), contextlib.suppress(NotFound):
                    await self._service.cancel(self._job_id)


async def _events(
    service: EditService, job_id: str, clock: Callable[[], float]
) -> AsyncIterator[bytes]:
    shown = 0
    try:
        async for state in service.queue.watch(job_id):
            job = state.job
            for preview in state.previews:
                # a job that is retried after its worker died restarts with preview 0
                if preview.index >= shown:
                    shown = preview.index + 1
                    data = await partial_image(job, preview, clock())
                    yield _event("image_edit.partial_image", data)
        if job.status is not JobStatus.SUCCEEDED:
            yield _error(problem_of_job(job))
            return
        for output in job.outputs:
            yield _event("image_edit.completed", await completed(service, job, output))
    except ServerError as exc:
        yield _error(problem_of(exc))


async def _with_keepalive(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the events, and a comment after every `KEEPALIVE_S` of silence."""
    upcoming = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({upcoming}, timeout=KEEPALIVE_S)
            if not upcoming.done():
                yield KEEPALIVE_COMMENT
                continue
            event = upcoming.result()
            if event is None:
                return
            yield event
            upcoming = asyncio.ensure_future(anext(events, None))
    finally:
        upcoming.cancel()


def _error(problem: Problem) -> bytes:
    return _event("error", ErrorEvent(error=error_body(problem).error).model_dump_json())


def _event(name: str, data: str) -> bytes:
    return format_sse_event(event=name, data_str=data)
