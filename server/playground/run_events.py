"""Run and cancel an edit, and restore the page after a reload."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from server.job import Job, JobStatus
from server.jobs.job_state import JobState
from server.playground import views
from server.playground.form import Form, form_of_values
from server.playground.form_storage import values_of_stored
from server.playground.page_state import REPEATABLE, PageState, Updates, is_running, listen
from server.playground.problems import field_error_of_job


class RunEvents:
    """One edit at a time for each open page: submit, follow, show the result.

    These are three chained events, because Gradio disables a button until its event has ended, and
    Run must work as soon as the result is there. The second and third event also follow a refused
    edit, and may arrive when the next edit already runs. The third therefore acts only on the job
    that the second has reported as ended.
    """

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self, blocks: Any) -> None:
        """Listen to the buttons and to a page load."""
        page, page_state = self._page, self._page_state
        started = [page["jobs"], page["submitted"], page["progress"]]
        submitted = [
            *page_state.field_error_outputs, *started, page["last"], page["tabs"], page["seed"],
        ]  # fmt: skip
        restored = [*started, *page_state.fill_outputs, *page_state.shown_outputs, page["history"]]
        finished = [
            *page_state.field_error_outputs, *page_state.shown_outputs, page["ended"],
            page["jobs"], page["progress"], page["history"], page["header"],
        ]  # fmt: skip
        for start in (
            listen(page["run"].click, self.submit, page.fields, submitted),
            listen(blocks.load, self.restore, [page["last"], page["stored_form"]], restored),
        ):
            followed = listen(
                start.then, self.follow, [page["jobs"]],
                [page["progress"], page["history"], page["ended"]], **REPEATABLE,
            )  # fmt: skip
            listen(
                followed.then, self.finish, [page["ended"], page["jobs"], page["submitted"]],
                finished, **REPEATABLE,
            )  # fmt: skip
        listen(page["cancel"].click, self.cancel, [page["jobs"]], [page["progress"]])

    async def submit(self, request: gr.Request, *values: Any) -> Updates:
        """Queue the edit, or show what is wrong with it."""
        form = None
        try:
            form = form_of_values(values)
            job = await self._page_state.runner.submit(
                form, self._page_state.base_url(request), self._page_state.caller(request).owner
            )
        except Exception as exc:
            return self._page_state.show_exception(exc, form)
        return {
            **self._page_state.clear_errors(),
            **self._started(job, form),
            self._page["seed"]: job.request.params.seed,
            self._page["last"]: job.id,
            # the tab with the progress
            self._page["tabs"]: gr.Tabs(selected="result"),
        }

    async def restore(self, request: gr.Request, last: Any, stored_form: Any) -> Updates:
        """Restore the fields and the last edit of this browser."""
        job = await self._page_state.find(last, request) if last else None
        updates = await self._page_state.history(request)
        if values := values_of_stored(stored_form, self._page_state.images):
            updates |= self._page_state.fill(values)
        if job is None:
            return updates
        if is_running(job):
            return updates | self._started(job, self._page_state.settings_of(job)[0])
        return updates | (self._page_state.shown(job) if job.outputs else {})

    async def follow(self, request: gr.Request, jobs: Any) -> AsyncIterator[Updates]:
        """Show the progress of the edit until it has ended."""
        progress = self._page["progress"]
        if not jobs:
            yield {progress: gr.skip()}
            return
        yield await self._page_state.history(request)
        async for states in self._page_state.runner.follow([str(job_id) for job_id in jobs]):
            for state in states.values():
                yield {progress: self._progress(state)}
        yield {self._page["ended"]: jobs}

    async def finish(self, request: gr.Request, ended: Any, jobs: Any, form: Any) -> Updates:
        """Show the outcome of the edit, unless another runs by now."""
        page = self._page
        if not ended or ended != jobs:
            return {page["ended"]: gr.skip()}
        job = await self._page_state.find(ended[0], request)
        return {
            page["ended"]: [],
            page["progress"]: "",
            page["jobs"]: [],
            page["header"]: views.header(self._page_state.status()),
            **await self._page_state.history(request),
            **(self._outcome(job, form) if job else {}),
        }

    async def cancel(self, jobs: Any) -> Updates:
        """Cancel the running edit."""
        await self._page_state.runner.cancel([str(job_id) for job_id in jobs])
        return {self._page["progress"]: gr.skip()}

    def _started(self, job: Job, form: Form) -> Updates:
        page = self._page
        return {
            page["jobs"]: [job.id],
            page["submitted"]: form,
            page["progress"]: self._progress(JobState(job, None, None)),
        }

    def _progress(self, state: JobState) -> str:
        return views.progress(state, self._page_state.context.executor.state)

    def _outcome(self, job: Job, form: Form) -> Updates:
        if job.outputs:
            return self._page_state.shown(job)
        if job.error is not None:
            return self._page_state.show_error(field_error_of_job(job.error, form))
        message = (
            "Canceled." if job.status is JobStatus.CANCELED else "The server is shutting down."
        )
        return {self._page["progress"]: views.notice(message)}
