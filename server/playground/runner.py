"""Hands the page's edits to the queue, and tells how they go."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from pipelines.api.params import EditParams
from server.errors import NotFound
from server.job import Job, OutputFormat, Submission
from server.jobs.job_queue import JobState
from server.jobs.service import EditService
from server.playground.context import ENDPOINT, NAME
from server.playground.form import Form
from server.playground.images import ImageShelf, KeptImage

REPEAT_INTERVAL_S = 5.0

States = Mapping[str, JobState]


class Runner:
    """Submits forms, follows jobs, cancels them."""

    def __init__(
        self, service: EditService, shelf: ImageShelf, draw_seed: Callable[[], int]
    ) -> None:
        self._service = service
        self._shelf = shelf
        self._draw_seed = draw_seed

    async def ask(self, form: Form) -> tuple[EditParams, list[KeptImage]]:
        """What the form asks for, its images stored. Raises what a submit raises."""
        params = form.params(self._draw_seed)
        kept = [
            await self._shelf.keep(image, f"images/{slot}")
            for slot, image in enumerate(form.images)
            if image is not None
        ]
        return params, kept

    async def submit(self, form: Form, base_url: str) -> Job:
        """Queue the edit that the form asks for. Raises InvalidParameter and ServerError."""
        params, images = await self.ask(form)
        return await self._submit(params, images, form.output_format, base_url)

    async def submit_all(self, forms: Sequence[Form], base_url: str) -> list[Job]:
        """Queue one edit per form, all of them or none. Raises InvalidParameter and ServerError."""
        asked = [await self.ask(form) for form in forms]
        jobs: list[Job] = []
        try:
            for (params, images), form in zip(asked, forms, strict=True):
                jobs.append(await self._submit(params, images, form.output_format, base_url))
        except BaseException:
            await self.cancel([job.id for job in jobs])
            raise
        return jobs

    async def follow(self, job_ids: Sequence[str]) -> AsyncIterator[States]:
        """The jobs' states now and after each change, until all are final or the server closes.

        They come again every few seconds without a change: only then is a page that was closed
        noticed, and its stream ended. A job that is deleted meanwhile is left out.
        """
        changes: asyncio.Queue[JobState | None] = asyncio.Queue()
        watchers = [asyncio.create_task(self._watch(job_id, changes)) for job_id in job_ids]
        states: dict[str, JobState] = {}
        unfinished = len(watchers)
        try:
            while unfinished:
                try:
                    change = await asyncio.wait_for(changes.get(), REPEAT_INTERVAL_S)
                except TimeoutError:
                    yield dict(states)
                    continue
                if change is None:
                    unfinished -= 1
                    continue
                states[change.job.id] = change
                # what changed meanwhile is shown at once
                while not changes.empty() and (change := changes.get_nowait()) is not None:
                    states[change.job.id] = change
                if change is None:
                    unfinished -= 1
                yield dict(states)
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Cancel what has not ended; the last first, so that none of them moves up and starts."""
        for job_id in reversed(job_ids):
            with contextlib.suppress(NotFound):
                await self._service.cancel(job_id)

    async def _submit(
        self,
        params: EditParams,
        kept: Sequence[KeptImage],
        output_format: OutputFormat,
        base_url: str,
    ) -> Job:
        images = [base_url + image.route for image in kept]
        submission = Submission(NAME, ENDPOINT, params, output_format)
        return await self._service.submit(submission, images)

    async def _watch(self, job_id: str, changes: asyncio.Queue[JobState | None]) -> None:
        try:
            async for state in self._service.watch(job_id):
                # previews are bytes of images, and the page shows none
                changes.put_nowait(dataclasses.replace(state, previews=()))
        except NotFound:
            pass  # deleted by another client
        finally:
            changes.put_nowait(None)
