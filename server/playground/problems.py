"""Which field of the page a problem belongs to."""

import re
from dataclasses import dataclass

from server.job import JobError
from server.playground.form import Form
from server.web.problem import Problem, problem_of

# Where a sentence can stand; `run` is beside the button, for what is no field's fault.
PLACES = (
    "images",
    "prompt",
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
_FIELD = re.compile(r"\b(images|loras)(?:[/.](\d+))?")


@dataclass(frozen=True, slots=True)
class FieldError:
    """A sentence for people, and the place where it stands."""

    place: str
    sentence: str


def field_error_of(exc: Exception, form: Form | None) -> FieldError:
    """Where the sentence of an error stands. `form` is what was asked with, as far as known."""
    problem: Problem = problem_of(exc)
    return FieldError(_place(problem.field or "", form), _sentence(problem.message))


def field_error_of_job(error: JobError, form: Form | None) -> FieldError:
    """Where the sentence of a failed job stands: it names its field, if it has one."""
    named = _FIELD.match(error.message)
    return FieldError(_place(named[0] if named else "", form), _sentence(error.message))


def _place(field: str, form: Form | None) -> str:
    field = field.replace(".", "/")
    if field.startswith("images"):
        return "images"
    if field.startswith("loras"):
        number = re.match(r"loras/(\d+)", field)
        index = int(number[1]) if number else 0
        # a scale is refused by its row, a file by its place in the request
        rows = form.lora_rows if form and not field.endswith("/scale") else (0, 1, 2)
        row = rows[min(index, len(rows) - 1)] if rows else 0
        return f"lora_{row + 1}"
    return field if field in PLACES else "run"


def _sentence(message: str) -> str:
    return message if message.endswith((".", "!", "?", "…")) else f"{message}."
