"""Submits the page's edits to the queue and follows them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from pipelines.api.params import EditParams
from pipelines.api.sizes import SizeBounds
from server.errors import InvalidRequest, NotFound
from server.job import Job, Submission
from server.jobs.job_state import JobState
from server.jobs.service import EditService
from server.playground.context import ENDPOINT, NAME
from server.playground.form import Form
from server.playground.images import ImageStore, StoredImage

# Seconds without a change after which `follow` repeats the states.
REPEAT_INTERVAL_S = 5.0

States = Mapping[str, JobState]


class Runner:
    """Submits forms, follows jobs, cancels them."""

    def __init__(
        self,
        service: EditService,
        images: ImageStore,
        draw_seed: Callable[[], int],
        sizes: SizeBounds,
    ) -> None:
        """`sizes` are those that forms may ask for."""
        self._service = service
        self._images = images
        self._draw_seed = draw_seed
        self._sizes = sizes

    async def prepare(self, form: Form, owner: str) -> tuple[EditParams, list[StoredImage]]:
        """Check the form and store its images. Raises InvalidParameter and ServerError."""
        params = form.params(self._draw_seed, self._sizes)
        images = [
            await self._images.store(image, f"images/{slot}", owner)
            for slot, image in enumerate(form.images)
            if image is not None
        ]
        return params, images

    async def submit(self, form: Form, base_url: str, owner: str) -> Job:
        """Queue the edit that the form describes. Raises InvalidParameter and ServerError."""
        params, images = await self.prepare(form, owner)
        return await self._submit(params, images, form, base_url, owner)

    async def submit_all(self, forms: Sequence[Form], base_url: str, owner: str) -> list[Job]:
        """Queue one edit per form, all or none. Raises InvalidParameter and ServerError."""
        prepared = [await self.prepare(form, owner) for form in forms]
        jobs: list[Job] = []
        try:
            for (params, images), form in zip(prepared, forms, strict=True):
                submitted = self._submit(params, images, form, base_url, owner)
                jobs.append(await submitted)
        except BaseException:
            await self.cancel([job.id for job in jobs])
            raise
        return jobs

    async def follow(self, job_ids: Sequence[str]) -> AsyncIterator[States]:
        """Yield the jobs' states now and after each change, until all are final.

        Ends early when the server closes. The states repeat every `REPEAT_INTERVAL_S`, because
        only a failing write shows that a page was closed. A deleted job is left out.
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
                # changes that arrived together are yielded together
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
        """Cancel the jobs, the last first, so that none of them moves up and starts."""
        for job_id in reversed(job_ids):
            with contextlib.suppress(NotFound):
                await self._service.cancel(job_id)

    async def _submit(
        self,
        params: EditParams,
        stored: Sequence[StoredImage],
        form: Form,
        base_url: str,
        owner: str,
    ) -> Job:
        if not stored:
            raise InvalidRequest("Add an image first.", field="images")
        images = [base_url + image.route for image in stored]
        submission = Submission(
            NAME, ENDPOINT, params, form.output_format, owner=owner, preset=form.preset or None
        )
        return await self._service.submit(submission, images)

    async def _watch(self, job_id: str, changes: asyncio.Queue[JobState | None]) -> None:
        try:
            async for state in self._service.queue.watch(job_id):
                # the page shows no previews, and they are large
                changes.put_nowait(dataclasses.replace(state, previews=()))
        except NotFound:
            pass  # deleted meanwhile
        finally:
            changes.put_nowait(None)
