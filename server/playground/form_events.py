"""Events of the fields: images by URL, examples, menus, the request as code."""

import dataclasses
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import gradio as gr

from server.playground import views
from server.playground.examples import EXAMPLES
from server.playground.form import form_of_values, images_of_values, is_custom
from server.playground.form_storage import stored_of_values
from server.playground.images import StoredImage
from server.playground.page_state import PageState, Updates, listen
from server.playground.snippets import CodeRequest, curl, python

# Placeholders in the code while the fields are empty.
SAMPLE_IMAGE = StoredImage("", "image.png")
SAMPLE_PROMPT = "Describe the change"
FILES_NOTE = "Run this in the folder with your images."


class FormEvents:
    """Handles the fields; none of these events runs an edit."""

    def __init__(self, page_state: PageState) -> None:
        self._page_state = page_state
        self._page = page_state.page

    def wire(self, blocks: Any) -> None:
        """Listen to the fields and to a page load."""
        self._wire_images()
        page = self._page
        listen(page["examples"].click, self.use_example, [page["examples"]],
               [*page.slots, page["prompt"]])  # fmt: skip
        listen(page["size"].change, self.choose_size, [page["size"]], [page["sides"]])
        menus = [*page.lora_menus, page["preset"], page["preset_row"]]
        listen(page["refresh"].click, self.refresh, [], menus)
        loaded = [*menus, page["header"], page["timer"]]
        listen(blocks.load, self.load, [], loaded)
        listen(page["timer"].tick, self.update_header, [], [page["header"], page["timer"]])
        changed = [*(component.change for component in page.fields), page["code_tab"].select]
        listen(
            partial(gr.on, changed), self.show_code, page.fields,
            [page["curl"], page["python"], page["code_note"], page["stored_form"]],
            trigger_mode="always_last",
        )  # fmt: skip

    def _wire_images(self) -> None:
        page, image_error = self._page, self._page.errors["images"]
        for slot in page.slots:
            for event in (slot.upload, slot.clear):
                listen(
                    event, self.check_images, page.slots, [image_error],
                    trigger_mode="always_last",
                )  # fmt: skip
        for event in (page["url"].submit, page["add_url"].click):
            fetched = listen(event, self.fetch_url, [page["url"]], [page["fetched"], image_error])
            listen(
                fetched.then, self.add_fetched, [page["fetched"], page["url"], *page.slots],
                [page["url"], *page.slots],
            )  # fmt: skip

    def load(self) -> Updates:
        """Fill the menus and the header of a page that was loaded."""
        return {**self.refresh(), **self.update_header()}

    def update_header(self) -> Updates:
        """Show the state of the model; a timer repeats this while the model loads."""
        return {
            self._page["header"]: views.header(self._page_state.status()),
            self._page["timer"]: gr.update(active=self._page_state.is_starting),
        }

    def refresh(self) -> Updates:
        """Update the choices of the LoRA and preset menus; the selection stays."""
        choices, presets = self._page_state.lora_choices(), self._page_state.preset_choices()
        return {
            **{menu: gr.update(choices=choices) for menu in self._page.lora_menus},
            self._page["preset"]: gr.update(choices=presets),
            self._page["preset_row"]: gr.update(visible=len(presets) > 1),
        }

    async def check_images(self, request: gr.Request, *images: Any) -> AsyncIterator[Updates]:
        """Store the images, and show what is wrong with one of them.

        An earlier error is cleared first, so that one reported in the meantime stays.
        """
        yield self._image_error(None)
        owner = self._page_state.caller(request).owner
        try:
            for index, image in enumerate(images_of_values(images)):
                if image is not None:
                    await self._page_state.images.store(image, f"images/{index}", owner)
        except Exception as exc:
            yield self._image_error(exc)

    async def fetch_url(self, url: Any) -> AsyncIterator[Updates]:
        """Fetch the image behind the URL, for `add_fetched`."""
        page, url = self._page, str(url or "")
        yield {page["fetched"]: None, page.errors["images"]: views.notice("Fetching…")}
        try:
            image = await self._page_state.images.fetch(url)
        except Exception as exc:
            yield self._image_error(exc)
            return
        yield {**self._image_error(None), page["fetched"]: (image.path, url)}

    def add_fetched(self, fetched: Any, url: Any, *slots: Any) -> Updates:
        """Put the fetched image into the first empty slot, or into the last one.

        The URL is removed from its field unless another was typed in the meantime.
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

    def _image_error(self, exc: Exception | None) -> Updates:
        """Show or clear the error of the images alone.

        It may arrive after the answer to a run that started in the meantime.
        """
        message = views.field_error(self._page_state.field_error_of(exc).message) if exc else ""
        return {self._page.errors["images"]: message}

    def use_example(self, index: Any) -> Updates:
        """Put the images and the prompt of an example into the fields."""
        if not isinstance(index, int) or not 0 <= index < len(EXAMPLES):
            return {self._page["prompt"]: gr.skip()}
        example = EXAMPLES[index]
        files = list(map(str, example.paths))
        padded = [*files, *[None] * (len(self._page.slots) - len(files))]
        slots = zip(self._page.slots, padded, strict=True)
        return {
            **{slot: gr.update(value=file) for slot, file in slots},
            self._page["prompt"]: example.prompt,
        }

    def choose_size(self, size: Any) -> Updates:
        """Show width and height for a custom size."""
        return {self._page["sides"]: gr.update(visible=is_custom(size))}

    async def show_code(self, request: gr.Request, *values: Any) -> Updates:
        """Show the form's request as code, and store the form in the browser.

        Fields that are not valid clear the code, so that no outdated request is copied.
        """
        page = self._page
        owner = self._page_state.caller(request).owner
        stored_form = await stored_of_values(values, self._page_state.images, owner)
        stored = {page["stored_form"]: stored_form}
        try:
            shown, note = await self._code_request(request, values)
        except Exception as exc:
            note = views.notice(self._page_state.field_error_of(exc).message)
            return {**stored, page["curl"]: "", page["python"]: "", page["code_note"]: note}
        return {
            **stored,
            page["curl"]: curl(shown),
            page["python"]: python(shown),
            page["code_note"]: note,
        }

    async def _code_request(self, request: gr.Request, values: Any) -> tuple[CodeRequest, str]:
        form = form_of_values(values)
        prompt = form.prompt if form.prompt.strip() else SAMPLE_PROMPT
        params, images = await self._page_state.runner.prepare(
            dataclasses.replace(form, prompt=prompt), self._page_state.caller(request).owner
        )
        shown = CodeRequest(
            params,
            form.is_seed_locked,
            images or [SAMPLE_IMAGE],
            form.output_format,
            self._page_state.base_url(request),
            self._page_state.context.keys.has_keys,
            form.preset,
        )
        return shown, views.notice(FILES_NOTE) if images else ""
