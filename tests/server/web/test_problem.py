"""What a client hears of each kind of error."""

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
def test_error_becomes_a_status_a_code_and_a_sentence(exc: Exception, expected: Problem) -> None:
    assert problem_of(exc) == expected


def test_error_without_a_message_says_what_its_kind_means() -> None:
    assert problem_of(errors.Unauthorized()).message == errors.Unauthorized.__doc__


@pytest.mark.parametrize("exc", [RuntimeError("secret path /etc"), KeyError("secret")])
def test_unexpected_error_tells_nothing_of_the_servers_insides(exc: Exception) -> None:
    assert problem_of(exc) == Problem(500, "internal_error", "The server failed. Its log says why.")


def test_missing_field_is_said_to_be_required() -> None:
    assert invalid({}) == Problem(400, "missing_parameter", "prompt is required", "prompt")


def test_wrong_value_is_named_with_its_field_and_what_came() -> None:
    problem = invalid({"prompt": "x", "steps": 101})

    assert (problem.status, problem.code, problem.field) == (400, "invalid_parameter", "steps")
    assert problem.message == "Input should be less than or equal to 100, got 101"


def test_nested_field_is_named_by_its_path() -> None:
    assert invalid({"prompt": "x", "loras": [{}, {"scale": "much"}]}).field == "loras/1/scale"


def test_sentence_of_our_own_check_comes_without_pydantics_words() -> None:
    assert invalid({"prompt": ""}).message == "must not be empty, got ''"


def test_long_value_is_shortened() -> None:
    problem = invalid({"prompt": "x", "steps": "9" * 10_000 + "x"})

    assert len(problem.message) < 200
    assert problem.message.endswith("…")


def test_place_in_the_body_is_named_without_the_body() -> None:
    error = {"type": "int_type", "loc": ("body", "seed"), "msg": "must be int", "input": "x"}

    assert problem_of(RequestValidationError([error])).field == "seed"


def test_body_that_is_none_is_named() -> None:
    error = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "input": "{"}

    assert problem_of(RequestValidationError([error])).field == "body"


def test_first_of_several_errors_is_told() -> None:
    assert invalid({"steps": 101}).field == "prompt"


def test_bound_of_the_engine_reaches_the_client() -> None:
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
def test_headers_belong_to_the_status(exc: Exception, headers: dict[str, str]) -> None:
    assert problem_of(exc).headers == headers


@pytest.mark.parametrize("module", [errors, engine])
def test_every_error_stands_in_the_tree_on_top_of_its_file(module: ModuleType) -> None:
    drawing = module.__doc__ or ""
    own = [
        name
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]

    assert own
    assert [name for name in own if name not in drawing] == []
