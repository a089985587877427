"""Events of the LoRA rows: what the page tells about a LoRA, its trigger words, its scale."""

import re
from typing import Any

import gradio as gr

from pipelines.api.errors import EngineError, LoraInvalid
from server.errors import NotFound
from server.playground import lora_views
from server.playground.page_state import PageState, Updates, listen

_ROW_AND_SCALE = re.compile(r"([123]):(-?[0-9]{1,2}(?:\.[0-9]{1,4})?)")


class LoraEvents:
    """Handles the LoRA menus and the buttons below them."""

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self) -> None:
        """Listen to the menus and to the buttons."""
        page = self._page
        shown = [page["lora_row_2"], page["lora_row_3"], *page.lora_abouts]
        for event in (*(menu.change for menu in page.lora_menus), page["refresh"].click):
            listen(event, self.show, page.lora_menus, shown, trigger_mode="always_last")
        changed = [page["prompt"], *(page[f"scale_{row}"] for row in (1, 2, 3))]
        for about in page.lora_abouts:
            # Gradio's default drops a click while the one before is still on its way
            listen(about.click, self.act, [page["prompt"]], changed, trigger_mode="multiple")

    def show(self, *references: Any) -> Updates:
        """Show the filled LoRA rows and one more, and what is known about each LoRA."""
        abouts = {
            about: self._about(str(reference or "").strip(), row)
            for row, (about, reference) in enumerate(
                zip(self._page.lora_abouts, references, strict=True), start=1
            )
        }
        return self._page_state.lora_rows(references) | abouts

    def act(self, event: gr.EventData, prompt: Any) -> Updates:
        """Put a trigger word into the prompt, or the suggested scale into its field."""
        page, value = self._page, str(event.value)
        if event.action == "word":
            return {page["prompt"]: with_word(str(prompt or ""), value)}
        if event.action == "scale" and (match := _ROW_AND_SCALE.fullmatch(value)):
            return {page[f"scale_{match[1]}"]: float(match[2])}
        return {page["prompt"]: gr.skip()}

    def _about(self, reference: str, row: int) -> str:
        """The facts of a LoRA on this machine, nothing for any other."""
        reports = self._page_state.context.reports
        if not reference:
            return ""
        try:
            return lora_views.about(reports.brief(reports.find(reference)), row)
        except LoraInvalid as exc:
            return lora_views.unusable(str(exc))
        except (NotFound, EngineError, OSError):
            return ""  # a run will say what is wrong with it


def with_word(prompt: str, word: str) -> str:
    """Return the prompt with a trigger word at its end, unless it has the word already."""
    text = prompt.rstrip()
    if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text):
        return prompt
    if not text:
        return word
    return f"{text} {word}" if text[-1] in ".,;:!?" else f"{text}, {word}"
