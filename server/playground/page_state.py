"""What the page's events share: the parts behind them, and updates that several of them make."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from pipelines.api.errors import EngineError
from server.errors import NotFound, ServerError
from server.job import Job, JobStatus
from server.playground import problems, views
from server.playground.components import Layout, is_free
from server.playground.context import NAME, PageContext
from server.playground.form import FIELDS, SLOTS, Form, SlotImage, form_of_job
from server.playground.images import ImageShelf
from server.playground.problems import FieldError
from server.playground.runner import Runner
from server.store.jobs import JobFilter
from server.web.request import base_url
from server.workers.executor import ExecutorState

logger = logging.getLogger(__name__)

Updates = dict[Any, Any]
HISTORY_PAGE = 12
# For an event that another leads to: else it is left out while one of its kind is under way.
REPEATABLE: Mapping[str, Any] = {"trigger_mode": "multiple"}
# The folds that hold fields: one with a complaint in it opens.
_FOLDS = {
    **dict.fromkeys(("lora_1", "lora_2", "lora_3"), "lora_fold"),
    **dict.fromkeys(("negative_prompt", "num_inference_steps", "true_cfg_scale"), "advanced"),
}


@dataclass(frozen=True, slots=True)
class PageState:
    """The page, the server's parts, and what runs edits."""

    page: Layout
    parts: PageContext
    runner: Runner
    shelf: ImageShelf

    def base_url(self, request: gr.Request) -> str:
        """The server's address as this browser knows it."""
        return base_url(request.request)

    def no_field_errors(self) -> Updates:
        """Take every sentence off the fields."""
        return dict.fromkeys(self.page.places.values(), "")

    def complain(self, field_error: FieldError) -> Updates:
        """The sentence at its field, and at no other; a fold that hides the field opens."""
        updates = self.no_field_errors()
        place = self.page.places[field_error.place]
        updates[place] = views.field_error(field_error.sentence)
        if fold := _FOLDS.get(field_error.place):
            updates[self.page[fold]] = gr.update(open=True)
        if field_error.place.startswith("lora_"):
            updates[self.page[field_error.place.replace("_", "_row_")]] = gr.update(visible=True)
        return updates

    def complain_of(self, exc: Exception, form: Form | None = None) -> Updates:
        """The sentence of an error at its field, and at no other."""
        return self.complain(self.field_error_of(exc, form))

    def field_error_of(self, exc: Exception, form: Form | None = None) -> FieldError:
        """The sentence of an error and its place; what nobody foresaw is logged."""
        if not isinstance(exc, EngineError | ServerError):
            logger.error("the page failed", exc_info=exc)
        return problems.field_error_of(exc, form)

    @property
    def field_error_outputs(self) -> list[Any]:
        """The components that complaints change."""
        rows = [self.page[f"lora_row_{number}"] for number in (1, 2, 3)]
        folds = [self.page["lora_fold"], self.page["advanced"]]
        return [*self.page.places.values(), *folds, *rows]

    def fill(self, values: Sequence[Any], *, with_images: bool = True) -> Updates:
        """Put values into the fields, in the order of `FIELDS`; folds with some open."""
        page, skipped = self.page, 0 if with_images else SLOTS
        of = dict(zip(FIELDS, values, strict=True))
        updates: Updates = {page[name]: gr.update(value=of[name]) for name in FIELDS[skipped:]}
        updates[page["sides"]] = gr.update(visible=is_free(of["size"]))
        updates |= self.lora_rows([of[name] for name in ("lora_1", "lora_2", "lora_3")])
        for name, fold in _FOLDS.items():
            if of[name]:
                updates[page[fold]] = gr.update(open=True)
        return updates

    def lora_rows(self, references: Sequence[Any]) -> Updates:
        """Show one row of LoRAs more than are filled."""
        filled = max((row + 1 for row, value in enumerate(references) if value), default=0)
        return {
            self.page[f"lora_row_{row}"]: gr.update(visible=filled >= row - 1) for row in (2, 3)
        }

    @property
    def fill_outputs(self) -> list[Any]:
        """The components that `fill` changes."""
        rows = [self.page["lora_row_2"], self.page["lora_row_3"]]
        folds = [self.page["lora_fold"], self.page["advanced"]]
        return [*self.page.fields, self.page["sides"], *rows, *folds]

    def settings_of(self, job: Job) -> tuple[Form, bool]:
        """The form that asks for a job again, and whether all its images are still kept."""
        images = [self._image(url) for url in job.images]
        kept = [image for image in images if image is not None]
        return form_of_job(job, kept), len(kept) == len(images)

    def shown(self, job: Job, index: int = 0) -> Updates:
        """The outputs of an edit, one of them beside its input."""
        page = self.page
        return {
            page["compare"]: self.compared(job, index),
            page["outputs"]: views.result(job),
            page["tabs"]: gr.Tabs(selected="result"),
        }

    @property
    def shown_outputs(self) -> list[Any]:
        """The components that `shown` changes."""
        names = ("compare", "outputs", "tabs")
        return [self.page[name] for name in names]

    def compared(self, job: Job, index: int) -> str:
        """Input and output, one over the other; where the input is gone, the output alone."""
        before = self.shelf.route(job.images[0]) if job.images[0] else None
        return views.compare(job.outputs[index], before)

    async def find(self, job_id: object) -> Job | None:
        """The job of this id, if there is one."""
        try:
            return (await self.parts.service.state(str(job_id))).job
        except NotFound:
            return None

    async def history(self, shown: int = HISTORY_PAGE) -> Updates:
        """The list of the page's edits as it is now."""
        wanted = JobFilter(contract=NAME)
        jobs, total = await self.parts.service.search(wanted, limit=max(1, shown), offset=0)
        return {self.page["history"]: views.history(jobs, total, self.parts.has_keys)}

    def status(self) -> views.Status:
        """What the head of the page says."""
        executor, choice = self.parts.executor, self.parts.choice
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
        """Whether the model is still being loaded."""
        return self.parts.executor.state is ExecutorState.STARTING

    def lora_choices(self) -> list[tuple[str, str]]:
        """What the menus of LoRAs offer."""
        return [
            (entry.name.removesuffix(".safetensors"), entry.name)
            for entry in self.parts.catalog.loras()
        ]

    def _image(self, url: str | None) -> SlotImage | None:
        path = self.shelf.path(url) if url else None
        return SlotImage(str(path), path.name) if path else None


def listen(
    event: Callable[..., Any],
    fn: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Listen to an event of a component, as all of this page do.

    Values come as the browser sent them, so that the server's own checks speak and not Gradio's;
    nothing waits for another event, since the jobs have a queue of their own.
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
    """Whether there is something to follow."""
    return job is not None and job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
