"""The buttons of the history, the grid and the results."""

from typing import Any

import gradio as gr

from server.job import Job
from server.playground import views
from server.playground.form import values_of_form
from server.playground.page_state import HISTORY_PAGE, PageState, Updates, listen

IMAGES_EXPIRED = "The settings are back, but the images of that edit are no longer kept. Add them."


class HistoryEvents:
    """Handles clicks on the buttons inside the page's HTML."""

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self) -> None:
        """Listen to the components that contain buttons."""
        page = self._page
        outputs = [
            *self._page_state.fill_outputs, page["history"], page["shown"], page["notice"],
            *self._page_state.field_error_outputs, *self._page_state.shown_outputs,
        ]  # fmt: skip
        distinct = list(dict.fromkeys(outputs))
        for name in ("history", "grid", "outputs"):
            listen(page[name].click, self.act, [page["shown"], page["outputs"]], distinct)

    async def act(
        self, request: gr.Request, event: gr.EventData, shown: Any, result: Any
    ) -> Updates:
        """Do what the button says. `shown` is the length of the history, `result` the
        HTML under Result."""
        job_id, _, index = str(event.value).partition(":")
        shown = int(shown) or HISTORY_PAGE
        if event.action == "more":
            shown += HISTORY_PAGE
            return {self._page["shown"]: shown, **await self._page_state.history(request, shown)}
        job = await self._page_state.find(job_id, request)
        if job is None:
            return await self._page_state.history(request, shown)
        context = self._page_state.context
        match event.action:
            case "settings":
                return self._use_settings(job)
            case "input" if job.outputs:
                path = context.outputs.path(job.outputs[self._index(job, index)].name)
                return {self._page.slots[0]: gr.update(value=str(path) if path else None)}
            case "show" if job.outputs:
                return self._page_state.shown(job, self._index(job, index))
            case "cancel":
                await context.service.cancel(job.id)
            case "delete":
                await context.service.delete(job)
                if job.id in str(result):
                    cleared = {self._page["compare"]: "", self._page["outputs"]: ""}
                    return {**cleared, **await self._page_state.history(request, shown)}
        return await self._page_state.history(request, shown)

    def _use_settings(self, job: Job) -> Updates:
        form, has_images = self._page_state.settings_of(job)
        return {
            **self._page_state.clear_errors(),
            **self._page_state.fill(values_of_form(form), with_images=has_images),
            self._page["notice"]: "" if has_images else views.notice(IMAGES_EXPIRED),
        }

    def _index(self, job: Job, typed: str) -> int:
        return min(int(typed) if typed.isdigit() else 0, len(job.outputs) - 1)
