"""State shared by the page's events: components, the server behind them, common updates."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from pipelines.api.errors import EngineError
from server.caller import Caller
from server.errors import NotFound, ServerError
from server.job import Job, JobStatus
from server.playground import problems, views
from server.playground.components import Layout
from server.playground.context import NAME, PageContext
from server.playground.form import (
    FIELDS,
    NO_PRESET,
    SLOTS,
    Form,
    SlotImage,
    as_offered,
    form_of_job,
    is_custom,
)
from server.playground.images import ImageStore
from server.playground.problems import FieldError
from server.playground.runner import Runner
from server.store.jobs import JobFilter
from server.web.auth import caller
from server.web.request import base_url
from server.workers.executor import ExecutorState

logger = logging.getLogger(__name__)

Updates = dict[Any, Any]
HISTORY_PAGE = 12
# For chained events: by default Gradio drops one while another of the same kind is pending.
REPEATABLE: Mapping[str, Any] = {"trigger_mode": "multiple"}
# The accordion around a field, opened when the field has a value or an error.
_ACCORDIONS = {
    **dict.fromkeys(("lora_1", "lora_2", "lora_3"), "loras"),
    **dict.fromkeys(("negative_prompt", "num_inference_steps", "true_cfg_scale"), "advanced"),
}


@dataclass(frozen=True, slots=True)
class PageState:
    """The page's components, the server behind it, and what runs its edits."""

    page: Layout
    context: PageContext
    runner: Runner
    images: ImageStore

    def base_url(self, request: gr.Request) -> str:
        """The server's address as this browser knows it."""
        return base_url(request.request)

    def caller(self, request: gr.Request) -> Caller:
        """The caller that has logged in with this browser."""
        return caller(request.request)

    def clear_errors(self) -> Updates:
        """Remove the errors of all fields."""
        return dict.fromkeys(self.page.errors.values(), "")

    def show_error(self, field_error: FieldError) -> Updates:
        """Show an error at its field alone, and open the accordion around the field."""
        updates = self.clear_errors()
        updates[self.page.errors[field_error.field]] = views.field_error(field_error.message)
        if accordion := _ACCORDIONS.get(field_error.field):
            updates[self.page[accordion]] = gr.update(open=True)
        if field_error.field.startswith("lora_"):
            updates[self.page[field_error.field.replace("_", "_row_")]] = gr.update(visible=True)
        return updates

    def show_exception(self, exc: Exception, form: Form | None = None) -> Updates:
        """Show the message of an exception at its field alone."""
        return self.show_error(self.field_error_of(exc, form))

    def field_error_of(self, exc: Exception, form: Form | None = None) -> FieldError:
        """The message of an exception and its field. Unexpected exceptions are logged."""
        if not isinstance(exc, EngineError | ServerError):
            logger.error("the page failed", exc_info=exc)
        return problems.field_error_of(exc, form)

    @property
    def field_error_outputs(self) -> list[Any]:
        """The components that `show_error` changes."""
        rows = [self.page[f"lora_row_{number}"] for number in (1, 2, 3)]
        accordions = [self.page["loras"], self.page["advanced"]]
        return [*self.page.errors.values(), *accordions, *rows]

    def fill(self, values: Sequence[Any], *, with_images: bool = True) -> Updates:
        """Put values into the fields, in the order of `FIELDS`, and open their accordions."""
        page, skipped = self.page, 0 if with_images else SLOTS
        of = as_offered(values, self.context.choice.good_sizes)
        updates: Updates = {page[name]: gr.update(value=of[name]) for name in FIELDS[skipped:]}
        updates[page["sides"]] = gr.update(visible=is_custom(of["size"]))
        updates |= self.lora_rows([of[name] for name in ("lora_1", "lora_2", "lora_3")])
        for name, accordion in _ACCORDIONS.items():
            if of[name]:
                updates[page[accordion]] = gr.update(open=True)
        return updates

    def lora_rows(self, references: Sequence[Any]) -> Updates:
        """Show the filled LoRA rows and one more."""
        filled = max((row + 1 for row, value in enumerate(references) if value), default=0)
        return {
            self.page[f"lora_row_{row}"]: gr.update(visible=filled >= row - 1) for row in (2, 3)
        }

    @property
    def fill_outputs(self) -> list[Any]:
        """The components that `fill` changes."""
        rows = [self.page["lora_row_2"], self.page["lora_row_3"]]
        accordions = [self.page["loras"], self.page["advanced"]]
        return [*self.page.fields, self.page["sides"], *rows, *accordions]

    def settings_of(self, job: Job) -> tuple[Form, bool]:
        """The form that repeats a job, and whether all its images are still kept."""
        images = [self._image(url) for url in job.images]
        kept = [image for image in images if image is not None]
        return form_of_job(job, kept), len(kept) == len(images)

    def shown(self, job: Job, index: int = 0) -> Updates:
        """Show the outputs of an edit, one of them compared with its input."""
        page = self.page
        before = self.images.route(job.images[0]) if job.images[0] else None
        return {
            page["compare"]: views.compare(job.outputs[index], before),
            page["outputs"]: views.result(job),
            page["tabs"]: gr.Tabs(selected="result"),
        }

    @property
    def shown_outputs(self) -> list[Any]:
        """The components that `shown` changes."""
        return [self.page[name] for name in ("compare", "outputs", "tabs")]

    async def find(self, job_id: object, request: gr.Request) -> Job | None:
        """The caller's job with this id, None when there is none."""
        queue = self.context.service.queue
        try:
            return (await queue.state(str(job_id), self.caller(request))).job
        except NotFound:
            return None

    async def history(self, request: gr.Request, shown: int = HISTORY_PAGE) -> Updates:
        """Refresh the history, up to `shown` edits."""
        wanted, sender = JobFilter(contract=NAME), self.caller(request)
        jobs, total = await self.context.service.queue.search(
            wanted, sender, limit=max(1, shown), offset=0
        )
        shows_all = self.context.keys.has_keys and sender.is_admin
        return {self.page["history"]: views.history(jobs, total, shows_all=shows_all)}

    def status(self) -> views.Status:
        """The state of the model, for the header."""
        executor, choice = self.context.executor, self.context.choice
        loaded = executor.model
        return views.Status(
            model=loaded.model.name if loaded else choice.path.name,
            device=loaded.device_name or loaded.device if loaded else None,
            state=executor.state,
            failure=executor.failure,
            warning=choice.warning,
        )

    @property
    def is_starting(self) -> bool:
        """True while the model loads."""
        return self.context.executor.state is ExecutorState.STARTING

    def preset_choices(self) -> list[tuple[str, str]]:
        """The choices of the preset menu: title and name."""
        return [NO_PRESET, *((each.title, each.name) for each in self.context.presets.usable())]

    def lora_choices(self) -> list[tuple[str, str]]:
        """The choices of the LoRA menus: label and reference."""
        return [
            (entry.name.removesuffix(".safetensors"), entry.name)
            for entry in self.context.catalog.loras()
        ]

    def _image(self, url: str | None) -> SlotImage | None:
        path = self.images.path(url) if url else None
        return SlotImage(str(path), path.name) if path else None


def listen(
    event: Callable[..., Any],
    fn: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Listen to an event of a component, with the options that all events of this page share.

    `preprocess=False` passes values as the browser sent them: Gradio decodes no image in this
    process, and the page's own checks report errors. Events do not wait for each other, because
    jobs have their own queue.
    """
    return event(
        fn,
        list(inputs),
        list(outputs),
        **{
            "preprocess": False,
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
            **options,
        },
    )


def is_running(job: Job | None) -> bool:
    """Return whether there is a job that has not finished."""
    return job is not None and job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
