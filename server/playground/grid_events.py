"""Run, follow and cancel a grid."""

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from server.playground import views
from server.playground.form import form_of_values, random_seed
from server.playground.grid import MAX_CELLS, Vary, cells
from server.playground.page_state import REPEATABLE, PageState, Updates, listen

# The grid's own fields, sent after those of the form.
OWN_FIELDS = ("vary", "scales", "seeds")


class GridEvents:
    """One grid at a time for each open page, in three chained events like an edit's."""

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self, blocks: Any) -> None:
        """Listen to the buttons, to the choice of what varies, and to a page load."""
        page, page_state = self._page, self._page_state
        started = [page["grid_jobs"], page["grid_progress"]]
        own = [page[name] for name in OWN_FIELDS]
        submitted = [*page_state.field_error_outputs, *started, page["last_grid"], page["seed"]]
        for start in (
            listen(page["run_grid"].click, self.submit, [*page.fields, *own], submitted),
            listen(blocks.load, self.restore, [page["last_grid"]], started),
        ):
            followed = listen(
                start.then, self.follow, [page["grid_jobs"]],
                [page["grid_progress"], page["grid"], page["grid_ended"]], **REPEATABLE,
            )  # fmt: skip
            listen(
                followed.then, self.finish, [page["grid_ended"], page["grid_jobs"]],
                [*started, page["grid_ended"], page["history"]], **REPEATABLE,
            )  # fmt: skip
        listen(page["cancel_grid"].click, self.cancel, [page["grid_jobs"]], [page["grid_progress"]])
        listen(
            page["vary"].change, self.choose_vary, [page["vary"]], [page["scales"], page["seeds"]]
        )

    async def submit(self, request: gr.Request, *values: Any) -> Updates:
        """Queue one edit for each cell, or show what is wrong."""
        form, own = None, values[-len(OWN_FIELDS) :]
        try:
            form = form_of_values(values[: -len(OWN_FIELDS)])
            # the seed in the field counts even when it was drawn for the last edit
            form = dataclasses.replace(form, is_seed_locked=form.seed is not None)
            seed = form.params(random_seed).seed
            wanted = cells(form, str(own[0]), str(own[1]), own[2], seed)
            jobs = await self._page_state.runner.submit_all(
                [cell.form for cell in wanted],
                self._page_state.base_url(request),
                self._page_state.caller(request).owner,
            )
        except Exception as exc:
            return self._page_state.show_exception(exc, form)
        page = self._page
        labeled = [[job.id, cell.label] for job, cell in zip(jobs, wanted, strict=True)]
        return {
            **self._page_state.clear_errors(),
            page["seed"]: seed,
            page["last_grid"]: labeled,
            page["grid_jobs"]: labeled,
            page["grid_progress"]: views.grid_progress([], len(jobs)),
        }

    async def restore(self, request: gr.Request, last: Any) -> Updates:
        """Restore the last grid of this browser if one of its edits still exists."""
        labeled = [
            [str(pair[0]), str(pair[1])]
            for pair in (last if isinstance(last, list) else [])[:MAX_CELLS]
            if isinstance(pair, list) and len(pair) == 2
        ]
        found = [await self._page_state.find(job_id, request) for job_id, _ in labeled]
        # no id of another caller's job, which the browser may have sent
        known = [[job.id if job else "", pair[1]] for job, pair in zip(found, labeled, strict=True)]
        return {self._page["grid_jobs"]: known if any(found) else []}

    async def follow(self, labeled: Any) -> AsyncIterator[Updates]:
        """Show the cells until the last has ended."""
        page = self._page
        if not labeled:
            yield {page["grid_progress"]: gr.skip()}
            return
        ids, labels = [job_id for job_id, _ in labeled], [label for _, label in labeled]
        async for states in self._page_state.runner.follow(ids):
            shown = [states.get(job_id) for job_id in ids]
            known = [state for state in shown if state is not None]
            executor = self._page_state.context.executor.state
            yield {
                page["grid_progress"]: views.grid_progress(known, len(ids)),
                page["grid"]: views.grid(labels, shown, executor),
            }
        yield {page["grid_ended"]: labeled}

    async def finish(self, request: gr.Request, ended: Any, labeled: Any) -> Updates:
        """Make Run work again, unless another grid runs by now."""
        page = self._page
        if not ended or ended != labeled:
            return {page["grid_ended"]: gr.skip()}
        return {
            page["grid_ended"]: [],
            page["grid_progress"]: "",
            page["grid_jobs"]: [],
            **await self._page_state.history(request),
        }

    async def cancel(self, labeled: Any) -> Updates:
        """Cancel all edits of the grid."""
        await self._page_state.runner.cancel([job_id for job_id, _ in labeled])
        return {self._page["grid_progress"]: gr.skip()}

    def choose_vary(self, vary: Any) -> Updates:
        """Show the field that belongs to the choice."""
        return {
            self._page["scales"]: gr.update(visible=vary == Vary.LORA_SCALE),
            self._page["seeds"]: gr.update(visible=vary == Vary.SEED),
        }
