"""What the fields do by themselves: images by URL, examples, menus, the request as code."""

import dataclasses
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import gradio as gr

from server.playground import form_storage as drafts
from server.playground import views
from server.playground.components import is_free
from server.playground.examples import EXAMPLES
from server.playground.form import form_of_values, images_of_values
from server.playground.images import KeptImage
from server.playground.page_state import PageState, Updates, listen
from server.playground.snippets import Asked, curl, python

# What the code shows where nothing was given yet.
SOME_IMAGE = KeptImage("", "image.png")
SOME_PROMPT = "What to change"


class FormEvents:
    """Events of the fields; none of them runs an edit."""

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self, blocks: Any) -> None:
        """Listen to the fields."""
        page, field_error = self._page, self._page.places["images"]
        for slot in page.slots:
            for event in (slot.upload, slot.clear):
                listen(
                    event, self.check_images, page.slots, [field_error],
                    trigger_mode="always_last",
                )  # fmt: skip
        for event in (page["url"].submit, page["add_url"].click):
            fetched = listen(event, self.fetch_url, [page["url"]], [page["fetched"], field_error])
            listen(
                fetched.then, self.place, [page["fetched"], page["url"], *page.slots],
                [page["url"], *page.slots],
            )  # fmt: skip
        listen(page["examples"].click, self.use_example, [], [*page.slots, page["prompt"]])
        listen(page["size"].change, self.choose_size, [page["size"]], [page["sides"]])
        rows = [page["lora_row_2"], page["lora_row_3"]]
        for menu in page.lora_menus:
            listen(menu.change, self.show_lora_rows, page.lora_menus, rows)
        listen(page["refresh"].click, self.refresh, [], page.lora_menus)
        menus = [*page.lora_menus, page["head"], page["timer"]]
        listen(blocks.load, self.open, [], menus)
        listen(page["timer"].tick, self.look, [], [page["head"], page["timer"]])
        changed = [*(component.change for component in page.fields), page["code_tab"].select]
        listen(
            partial(gr.on, changed), self.show_code, page.fields,
            [page["curl"], page["python"], page["code_note"], page["draft"]],
            trigger_mode="always_last",
        )  # fmt: skip

    def open(self) -> Updates:
        """What a page that is opened shows at once."""
        return {**self.refresh(), **self.look()}

    def look(self) -> Updates:
        """How the model is; asked again while it is being loaded."""
        return {
            self._page["head"]: views.head(self._page_state.status()),
            self._page["timer"]: gr.update(active=self._page_state.is_starting),
        }

    def refresh(self) -> Updates:
        """The menus with what lies in weights/loras now; what is chosen stays."""
        choices = self._page_state.lora_choices()
        return {menu: gr.update(choices=choices) for menu in self._page.lora_menus}

    async def check_images(self, *images: Any) -> AsyncIterator[Updates]:
        """Say at once what is wrong with an image; what is right is stored for the run.

        The sentence about an earlier image goes first: one that comes meanwhile must stay.
        """
        yield self._about_images(None)
        try:
            for index, image in enumerate(images_of_values(images)):
                if image is not None:
                    await self._page_state.shelf.keep(image, f"images/{index}")
        except Exception as exc:
            yield self._about_images(exc)

    async def fetch_url(self, url: Any) -> AsyncIterator[Updates]:
        """Fetch the image that is named, for `place`."""
        page, url = self._page, str(url or "")
        yield {page["fetched"]: None, page.places["images"]: views.notice("Fetching…")}
        try:
            image = await self._page_state.shelf.fetch(url)
        except Exception as exc:
            yield self._about_images(exc)
            return
        yield {**self._about_images(None), page["fetched"]: (image.path, url)}

    def place(self, fetched: Any, url: Any, *slots: Any) -> Updates:
        """Put what was fetched into the first slot that is empty by now, else into the last.

        The URL goes out of its box, unless another was typed there meanwhile.
        """
        page = self._page
        if fetched is None:
            return {page["url"]: gr.skip()}
        path, fetched_url = fetched
        free = next((index for index, slot in enumerate(slots) if not slot), len(slots) - 1)
        return {
            page.slots[free]: gr.update(value=path),
            page["url"]: "" if url == fetched_url else gr.skip(),
        }

    def _about_images(self, exc: Exception | None) -> Updates:
        """The sentence about the images, or none.

        It leaves other fields alone: it may come later than the answer of a run that was started
        meanwhile.
        """
        sentence = views.field_error(self._page_state.field_error_of(exc).sentence) if exc else ""
        return {self._page.places["images"]: sentence}

    def use_example(self, event: gr.EventData) -> Updates:
        """Put a drawn scene and its prompt into the fields."""
        example = next((each for each in EXAMPLES if each.name == event.value), None)
        if example is None:
            return {self._page["prompt"]: gr.skip()}
        files = list(map(str, example.paths))
        padded = [*files, *[None] * (len(self._page.slots) - len(files))]
        slots = zip(self._page.slots, padded, strict=True)
        return {
            **{slot: gr.update(value=file) for slot, file in slots},
            self._page["prompt"]: example.prompt,
        }

    def choose_size(self, size: Any) -> Updates:
        """Show the sides where they are typed."""
        return {self._page["sides"]: gr.update(visible=is_free(size))}

    def show_lora_rows(self, *references: Any) -> Updates:
        """Show one row of LoRAs more than are filled."""
        return self._page_state.lora_rows(references)

    async def show_code(self, request: gr.Request, *values: Any) -> Updates:
        """The request that the form stands for, as curl and as Python; and a draft of the form."""
        page = self._page
        draft = {page["draft"]: await drafts.draft_of_values(values, self._page_state.shelf)}
        try:
            form = form_of_values(values)
            form = dataclasses.replace(
                form, prompt=(form.prompt.strip() and form.prompt) or SOME_PROMPT
            )
            params, images = await self._page_state.runner.ask(form)
        except Exception as exc:
            # the field itself says so when the edit is run
            # and a request that the fields no longer stand for would be copied by mistake
            note = views.notice(str(exc))
            return {**draft, page["curl"]: "", page["python"]: "", page["code_note"]: note}
        asked = Asked(
            params,
            form.is_seed_locked,
            images or [SOME_IMAGE],
            form.output_format,
            self._page_state.base_url(request),
            self._page_state.parts.has_keys,
        )
        words = "Files are named as on your machine: run this beside them." if images else ""
        return {
            **draft,
            page["curl"]: curl(asked),
            page["python"]: python(asked),
            page["code_note"]: views.notice(words) if words else "",
        }
