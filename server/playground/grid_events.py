"""The grid: its edits in the queue, shown as they come."""

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from server.playground import views
from server.playground.desk import Desk, Updates, listen
from server.playground.form import form_of_values, random_seed
from server.playground.grid import Vary, cells

# The fields that are the grid's own, behind those of the form.
OWN_FIELDS = ("vary", "scales", "seeds")


class GridEvents:
    """One grid at a time for each open page."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._page = desk.page

    def wire(self) -> None:
        """Listen to the buttons and to what is varied."""
        page = self._page
        outputs = [
            *self._desk.complaint_outputs, page["grid_progress"], page["grid"],
            page["grid_jobs"], page["history"], page.seed,
        ]  # fmt: skip
        own = [page[name] for name in OWN_FIELDS]
        listen(page["run_grid"].click, self.run, [*page.fields, *own], outputs)
        listen(page["cancel_grid"].click, self.cancel, [page["grid_jobs"]], [page["grid_progress"]])
        listen(
            page["vary"].change, self.choose, [page["vary"]], [page["scales"], page["seeds"]],
            queue=False,
        )  # fmt: skip

    async def run(self, request: gr.Request, *values: Any) -> AsyncIterator[Updates]:
        """Queue one edit for each cell and show them as they come."""
        form, own = None, values[-len(OWN_FIELDS) :]
        try:
            form = form_of_values(values[: -len(OWN_FIELDS)])
            seed = form.params(random_seed).seed
            wanted = cells(form, str(own[0]), str(own[1]), own[2], seed)
            jobs = await self._desk.runner.submit_all(
                [cell.form for cell in wanted], self._desk.base_url(request)
            )
        except Exception as exc:
            yield self._desk.complain_of(exc, form)
            return
        page, labels, ids = self._page, [cell.label for cell in wanted], [job.id for job in jobs]
        yield {
            **self._desk.no_complaints(),
            page.seed: seed,
            page["grid_jobs"]: ids,
            page["grid_progress"]: views.grid_progress([], len(ids)),
        }
        async for states in self._desk.runner.follow(ids):
            shown = [states.get(job_id) for job_id in ids]
            known = [state for state in shown if state is not None]
            executor = self._desk.parts.executor.state
            yield {
                page["grid_progress"]: views.grid_progress(known, len(ids)),
                page["grid"]: views.grid(labels, shown, executor),
            }
        yield {
            page["grid_progress"]: "",
            page["grid_jobs"]: [],
            **await self._desk.history(),
        }

    async def cancel(self, jobs: Any) -> Updates:
        """Cancel all edits of the grid."""
        await self._desk.runner.cancel([str(job_id) for job_id in jobs])
        return {self._page["grid_progress"]: gr.skip()}

    def choose(self, vary: Any) -> Updates:
        """Show what belongs to the choice."""
        return {
            self._page["scales"]: gr.update(visible=vary == Vary.LORA_SCALE),
            self._page["seeds"]: gr.update(visible=vary == Vary.SEED),
        }
