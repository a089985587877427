"""Run, cancel, and what a reload finds again."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from server.job import Job, JobStatus
from server.job_queue import JobState
from server.playground import views
from server.playground.desk import Desk, Updates, is_running, listen
from server.playground.form import Form, form_of_values
from server.playground.problems import complaint_of_job


class RunEvents:
    """One edit at a time for each open page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._page = desk.page

    def wire(self, blocks: Any) -> None:
        """Listen to the buttons, to Enter, and to a page that is opened."""
        page = self._page
        outputs = [
            *self._desk.complaint_outputs, *self._desk.shown_outputs,
            page["jobs"], page["last"], page["history"], page["head"], page.seed,
        ]  # fmt: skip
        listen(page["run"].click, self.run, page.fields, outputs)
        listen(page["cancel"].click, self.cancel, [page["jobs"]], [page["progress"]])
        opened = dict.fromkeys((*outputs, *self._desk.fill_outputs))
        listen(blocks.load, self.resume, [page["last"]], list(opened))

    async def run(self, request: gr.Request, *values: Any) -> AsyncIterator[Updates]:
        """Queue the edit and show how it goes."""
        form = None
        try:
            form = form_of_values(values)
            job = await self._desk.runner.submit(form, self._desk.base_url(request))
        except Exception as exc:
            yield self._desk.complain_of(exc, form)
            return
        yield {
            **self._desk.no_complaints(),
            self._page.seed: job.params.seed,
            self._page["last"]: job.id,
        }
        async for updates in self._follow(job, form):
            yield updates

    async def resume(self, last: Any) -> AsyncIterator[Updates]:
        """Show this browser's last edit again, and follow it if it still runs."""
        job = await self._desk.find(last) if last else None
        if job is None:
            yield await self._desk.history()
            return
        form, has_pictures = self._desk.settings_of(job)
        yield {
            **self._desk.fill(form, with_pictures=has_pictures),
            # what is locked is typed by somebody, and this was not
            self._page.seed_lock: gr.update(value=False),
            **await self._desk.history(),
        }
        if is_running(job):
            async for updates in self._follow(job, form):
                yield updates
        elif job.outputs:
            yield self._desk.shown(job)

    async def cancel(self, jobs: Any) -> Updates:
        """Cancel the edit that runs."""
        await self._desk.runner.cancel([str(job_id) for job_id in jobs])
        return {self._page["progress"]: gr.skip()}

    async def _follow(self, job: Job, form: Form) -> AsyncIterator[Updates]:
        page = self._page
        yield {
            page["jobs"]: [job.id],
            page["progress"]: self._progress(JobState(job, None, None)),
            **await self._desk.history(),
        }
        async for states in self._desk.runner.follow([job.id]):
            job = states[job.id].job
            yield {page["progress"]: self._progress(states[job.id])}
        yield {
            **(self._desk.shown(job) if job.outputs else self._unmade(job, form)),
            page["jobs"]: [],
            page["head"]: views.head(self._desk.status()),
            **await self._desk.history(),
        }

    def _progress(self, state: JobState) -> str:
        return views.progress(state, self._desk.parts.executor.state)

    def _unmade(self, job: Job, form: Form) -> Updates:
        """An edit without a picture: its sentence at the field that it names."""
        if job.error is not None:
            return {
                **self._desk.complain(complaint_of_job(job.error, form)),
                self._page["progress"]: "",
            }
        words = "Canceled." if job.status is JobStatus.CANCELED else "The server stops."
        return {self._page["progress"]: views.notice(words)}
