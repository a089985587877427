"""Run, cancel, and what a reload finds again."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from server.job import Job, JobStatus
from server.jobs.job_queue import JobState
from server.playground import form_storage as drafts
from server.playground import views
from server.playground.form import Form, form_of_values
from server.playground.page_state import REPEATABLE, PageState, Updates, is_running, listen
from server.playground.problems import field_error_of_job


class RunEvents:
    """One edit at a time for each open page: submitted, followed, and its result shown.

    These are three events in a row. The button of an event that has not ended is dead, so that the
    one that shows Run again must not be the one that Run began. The second and the third run after
    a refused edit too, with nothing to do; they may come late, when the next has begun. So the
    third counts on what the second says has ended, and on nothing else.
    """

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self, blocks: Any) -> None:
        """Listen to the buttons, and to a page that is opened."""
        page, page_state = self._page, self._page_state
        begun = [page["jobs"], page["asked"], page["progress"]]
        submitted = [
            *page_state.field_error_outputs,
            *begun,
            page["last"],
            page["tabs"],
            page["seed"],
        ]
        opened = [*begun, *page_state.fill_outputs, *page_state.shown_outputs, page["history"]]
        finished = [
            *page_state.field_error_outputs, *page_state.shown_outputs, page["ended"],
            page["jobs"], page["progress"], page["history"], page["head"],
        ]  # fmt: skip
        for begins in (
            listen(page["run"].click, self.submit, page.fields, submitted),
            listen(blocks.load, self.resume, [page["last"], page["draft"]], opened),
        ):
            followed = listen(
                begins.then, self.follow, [page["jobs"]],
                [page["progress"], page["history"], page["ended"]], **REPEATABLE,
            )  # fmt: skip
            listen(
                followed.then, self.finish, [page["ended"], page["jobs"], page["asked"]], finished,
                **REPEATABLE,
            )  # fmt: skip
        listen(page["cancel"].click, self.cancel, [page["jobs"]], [page["progress"]])

    async def submit(self, request: gr.Request, *values: Any) -> Updates:
        """Queue the edit, or say what is wrong with it."""
        form = None
        try:
            form = form_of_values(values)
            job = await self._page_state.runner.submit(form, self._page_state.base_url(request))
        except Exception as exc:
            return self._page_state.complain_of(exc, form)
        return {
            **self._page_state.no_field_errors(),
            **self._begun(job, form),
            self._page["seed"]: job.request.params.seed,
            self._page["last"]: job.id,
            # where its progress is
            self._page["tabs"]: gr.Tabs(selected="result"),
        }

    async def resume(self, last: Any, draft: Any) -> Updates:
        """What a page shows that is opened again: its fields as they were, and its last edit."""
        job = await self._page_state.find(last) if last else None
        updates = await self._page_state.history()
        if kept := drafts.values_of_draft(draft, self._page_state.shelf):
            updates |= self._page_state.fill(kept)
        if job is None:
            return updates
        if is_running(job):
            return updates | self._begun(job, self._page_state.settings_of(job)[0])
        return updates | (self._page_state.shown(job) if job.outputs else {})

    async def follow(self, jobs: Any) -> AsyncIterator[Updates]:
        """Show how the edit goes, until it has ended."""
        progress = self._page["progress"]
        if not jobs:
            yield {progress: gr.skip()}
            return
        yield await self._page_state.history()
        async for states in self._page_state.runner.follow([str(job_id) for job_id in jobs]):
            for state in states.values():
                yield {progress: self._progress(state)}
        yield {self._page["ended"]: jobs}

    async def finish(self, ended: Any, jobs: Any, form: Any) -> Updates:
        """Show what became of the edit, unless another runs by now."""
        page = self._page
        if not ended or ended != jobs:
            return {page["ended"]: gr.skip()}
        job = await self._page_state.find(ended[0])
        return {
            page["ended"]: [],
            page["progress"]: "",
            page["jobs"]: [],
            page["head"]: views.head(self._page_state.status()),
            **await self._page_state.history(),
            **(self._outcome(job, form) if job else {}),
        }

    async def cancel(self, jobs: Any) -> Updates:
        """Cancel the edit that runs."""
        await self._page_state.runner.cancel([str(job_id) for job_id in jobs])
        return {self._page["progress"]: gr.skip()}

    def _begun(self, job: Job, form: Form) -> Updates:
        page = self._page
        return {
            page["jobs"]: [job.id],
            page["asked"]: form,
            page["progress"]: self._progress(JobState(job, None, None)),
        }

    def _progress(self, state: JobState) -> str:
        return views.progress(state, self._page_state.parts.executor.state)

    def _outcome(self, job: Job, form: Form) -> Updates:
        """The images; without any, the sentence at the field that it names."""
        if job.outputs:
            return self._page_state.shown(job)
        if job.error is not None:
            return self._page_state.complain(field_error_of_job(job.error, form))
        words = "Canceled." if job.status is JobStatus.CANCELED else "The server stops."
        return {self._page["progress"]: views.notice(words)}
