"""Errors in the page's words, each with the field that shows it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.job import JobError
from server.playground.form import SLOTS, Form
from server.web.problem import problem_of

# Fields that show errors below themselves; `run` takes the errors that belong to no field.
ERROR_FIELDS = (
    "images",
    "prompt",
    "preset",
    "negative_prompt",
    "size",
    "lora_1",
    "lora_2",
    "lora_3",
    "seed",
    "num_inference_steps",
    "true_cfg_scale",
    "num_outputs",
    "grid",
    "run",
)
# Labels on the page by the names that the server's messages begin with.
_LABELS = {
    "images": "Image URL",
    "prompt": "Prompt",
    "preset": "Preset",
    "negative_prompt": "Negative prompt",
    "size": "Size",
    "seed": "Seed",
    "num_inference_steps": "Steps",
    "true_cfg_scale": "CFG scale",
    "num_outputs": "Outputs",
    "output_format": "Format",
    "grid": "The grid",
}
_ITEM = re.compile(r"(images|loras)[/.](\d+)(?:[/.](path|scale))?(?!\w)")
_EVERY_SLOT = tuple(range(SLOTS))


@dataclass(frozen=True, slots=True)
class FieldError:
    """A message, and the field of `ERROR_FIELDS` that shows it."""

    field: str
    message: str


def field_error_of(exc: Exception, form: Form | None) -> FieldError:
    """Describe an exception. `form` is the submitted form, where it could be read."""
    problem = problem_of(exc)
    # the page numbers images by their slots
    message = _with_labels(problem.message, form, _EVERY_SLOT)
    return FieldError(_field(problem.field or "", form), _as_sentence(message))


def field_error_of_job(error: JobError, form: Form | None) -> FieldError:
    """Describe the error of a failed job, whose message begins with its field if it has one."""
    item = _ITEM.match(error.message)
    # a job numbers its images from the first filled slot
    slots = form.image_slots if form else _EVERY_SLOT
    message = _with_labels(error.message, form, slots)
    return FieldError(_field(item[0] if item else "", form), _as_sentence(message))


def _field(name: str, form: Form | None) -> str:
    name = name.replace(".", "/")
    if name.startswith("images"):
        return "images"
    if name.startswith("loras"):
        item = _ITEM.match(name)
        row = _lora_row(int(item[2]) if item else 0, item[3] if item else None, form)
        return f"lora_{row + 1}"
    return name if name in ERROR_FIELDS else "run"


def _with_labels(message: str, form: Form | None, slots: Sequence[int]) -> str:
    """Replace the request's name of a field at the start of a message by the page's label."""
    if item := _ITEM.match(message):
        return _item_label(item, form, slots) + message[item.end() :]
    name = re.match(r"\w*", message)
    assert name is not None
    return _LABELS.get(name[0], name[0]) + message[name.end() :]


def _item_label(item: re.Match[str], form: Form | None, slots: Sequence[int]) -> str:
    kind, index, part = item[1], int(item[2]), item[3]
    if kind == "images":
        return f"Image {_nth(slots, index) + 1}"
    label = f"LoRA {_lora_row(index, part, form) + 1}"
    return f"{label}: scale" if part == "scale" else label


def _lora_row(index: int, part: str | None, form: Form | None) -> int:
    # scales are numbered by row, files by their place in the request
    return _nth(form.lora_rows if form and part != "scale" else _EVERY_SLOT, index)


def _nth(rows: Sequence[int], index: int) -> int:
    return rows[min(index, len(rows) - 1)] if rows else 0


def _as_sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?", "…")) else f"{message}."
