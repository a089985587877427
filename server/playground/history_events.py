"""The buttons in the history, the grid and the results: use again, use as input, delete."""

from typing import Any

import gradio as gr

from server.job import Job
from server.playground import views
from server.playground.form import values_of_form
from server.playground.updates import HISTORY_PAGE, Desk, Updates, listen

PICTURES_GONE = (
    "The pictures of that edit are no longer kept; all other settings are back. Add them again."
)


class HistoryEvents:
    """What a click on one of those buttons does."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._page = desk.page

    def wire(self) -> None:
        """Listen to the pieces of HTML that hold buttons."""
        page = self._page
        outputs = [
            *self._desk.fill_outputs, page["history"], page["shown"], page["notice"],
            *self._desk.complaint_outputs, *self._desk.shown_outputs,
        ]  # fmt: skip
        distinct = list(dict.fromkeys(outputs))
        for name in ("history", "grid", "outputs"):
            listen(page[name].click, self.act, [page["shown"], page["outputs"]], distinct)

    async def act(self, event: gr.EventData, shown: Any, result: Any) -> Updates:
        """Do what the button says. `result` is what stands under Result."""
        job_id, _, index = str(event.value).partition(":")
        shown = int(shown) or HISTORY_PAGE
        if event.action == "more":
            shown += HISTORY_PAGE
            return {self._page["shown"]: shown, **await self._desk.history(shown)}
        job = await self._desk.find(job_id)
        if job is None:
            return await self._desk.history(shown)
        match event.action:
            case "settings":
                return self._use_settings(job)
            case "input" if job.outputs:
                path = self._desk.parts.outputs.path(job.outputs[self._index(job, index)].name)
                return {self._page.slots[0]: gr.update(value=str(path) if path else None)}
            case "show" if job.outputs:
                return self._desk.shown(job, self._index(job, index))
            case "cancel":
                await self._desk.parts.service.cancel(job.id)
            case "delete":
                await self._desk.parts.service.delete(job)
                if job.id in str(result):
                    cleared = {self._page["compare"]: "", self._page["outputs"]: ""}
                    return {**cleared, **await self._desk.history(shown)}
        return await self._desk.history(shown)

    def _use_settings(self, job: Job) -> Updates:
        form, has_pictures = self._desk.settings_of(job)
        words = "" if has_pictures else views.notice(PICTURES_GONE)
        return {
            **self._desk.no_complaints(),
            **self._desk.fill(values_of_form(form), with_pictures=has_pictures),
            self._page["notice"]: words,
        }

    def _index(self, job: Job, typed: str) -> int:
        return min(int(typed) if typed.isdigit() else 0, len(job.outputs) - 1)
