"""Problems that clients see for each kind of error."""

from types import ModuleType
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.exceptions import HTTPException

from pipelines.api import errors as engine
from pipelines.api.errors import InvalidParameter
from pipelines.api.params import EditParams
from server import errors
from server.web.problem import Problem, problem_of


class Body(BaseModel):
    prompt: str
    steps: int = Field(8, le=100)
    loras: list[dict[str, float]] = []

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty")
        return value


def invalid(body: dict[str, Any]) -> Problem:
    with pytest.raises(ValidationError) as caught:
        Body(**body)
    return problem_of(caught.value)


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (
            errors.InvalidRequest("size is wrong", field="size"),
            Problem(400, "invalid_parameter", "size is wrong", "size"),
        ),
        (
            errors.InvalidImage("images/0 is damaged", field="images/0"),
            Problem(400, "invalid_picture", "images/0 is damaged", "images/0"),
        ),
        (errors.NotFound("There is no job 1."), Problem(404, "not_found", "There is no job 1.")),
        (errors.PayloadTooLarge(), Problem(413, "payload_too_large", "The request is too large.")),
        (
            errors.QueueFull("Full.", retry_after_s=7),
            Problem(429, "queue_full", "Full.", retry_after_s=7),
        ),
        (errors.Unavailable("No model."), Problem(503, "unavailable", "No model.")),
        (
            errors.FetchFailed("images/0: gone", field="images/0"),
            Problem(400, "fetch_failed", "images/0: gone", "images/0"),
        ),
        (
            InvalidParameter("loras.path", "must not be empty"),
            Problem(400, "invalid_parameter", "loras.path must not be empty", "loras/path"),
        ),
        (engine.LoraNotFound("No LoRA x."), Problem(400, "lora_not_found", "No LoRA x.")),
        (engine.LoraInvalid("x is empty."), Problem(400, "lora_invalid", "x is empty.")),
        (HTTPException(405), Problem(405, "http_error", "Method Not Allowed")),
    ],
)
def test_error_becomes_status_code_and_message(exc: Exception, expected: Problem) -> None:
    assert problem_of(exc) == expected


def test_error_without_message_has_the_docstring_of_its_class() -> None:
    assert problem_of(errors.Unauthorized()).message == errors.Unauthorized.__doc__


@pytest.mark.parametrize("exc", [RuntimeError("secret path /etc"), KeyError("secret")])
def test_unexpected_error_reveals_nothing_internal(exc: Exception) -> None:
    assert problem_of(exc) == Problem(500, "internal_error", "The server failed. Its log says why.")


def test_missing_field_is_reported_as_required() -> None:
    assert invalid({}) == Problem(400, "missing_parameter", "prompt is required", "prompt")


def test_invalid_value_is_reported_with_field_limit_and_value() -> None:
    problem = invalid({"prompt": "x", "steps": 101})

    assert (problem.status, problem.code, problem.field) == (400, "invalid_parameter", "steps")
    assert problem.message == "Input should be less than or equal to 100, got 101"


def test_nested_field_is_named_by_its_path() -> None:
    assert invalid({"prompt": "x", "loras": [{}, {"scale": "much"}]}).field == "loras/1/scale"


def test_message_of_a_validator_drops_pydantics_prefix() -> None:
    assert invalid({"prompt": ""}).message == "must not be empty, got ''"


def test_long_value_is_truncated() -> None:
    problem = invalid({"prompt": "x", "steps": "9" * 10_000 + "x"})

    assert len(problem.message) < 200
    assert problem.message.endswith("…")


def test_field_path_omits_the_body() -> None:
    error = {"type": "int_type", "loc": ("body", "seed"), "msg": "must be int", "input": "x"}

    assert problem_of(RequestValidationError([error])).field == "seed"


def test_error_of_the_whole_body_names_the_body() -> None:
    error = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "input": "{"}

    assert problem_of(RequestValidationError([error])).field == "body"


def test_first_of_several_errors_is_reported() -> None:
    assert invalid({"steps": 101}).field == "prompt"


def test_engine_limit_is_reported_with_its_field() -> None:
    with pytest.raises(InvalidParameter) as caught:
        EditParams(prompt="x", seed=-1)

    assert problem_of(caught.value).field == "seed"


@pytest.mark.parametrize(
    ("exc", "headers"),
    [
        (errors.QueueFull("Full.", retry_after_s=7), {"Retry-After": "7"}),
        (errors.Unauthorized(), {"WWW-Authenticate": "Bearer"}),
        (errors.NotFound(), {}),
    ],
)
def test_headers_depend_on_the_error(exc: Exception, headers: dict[str, str]) -> None:
    assert problem_of(exc).headers == headers


@pytest.mark.parametrize("module", [errors, engine])
def test_every_error_is_in_the_tree_at_the_top_of_its_file(module: ModuleType) -> None:
    tree = module.__doc__ or ""
    own = [
        name
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]

    assert own
    assert [name for name in own if name not in tree] == []
