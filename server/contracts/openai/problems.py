"""Errors in OpenAI's shape, and unsuccessful jobs as errors."""

import re
import uuid
from typing import Literal

from fastapi.responses import JSONResponse

from server.contracts.openai.schemas import ErrorBody, ErrorDetail
from server.job import Job, JobStatus
from server.web.problem import Problem

REQUEST_ID = "x-request-id"
# The SDKs retry 408, 409, 429 and 5xx twice unless this header says no.
SHOULD_RETRY = "x-should-retry"

# Caused by the input: a retry of the same request would fail again.
INPUT_FAULTS = frozenset(
    {
        "content_blocked",
        "fetch_failed",
        "invalid_parameter",
        "invalid_picture",
        "lora_invalid",
        "lora_not_found",
        "lora_overflow",
        "payload_too_large",
    }
)
# The codes that clients look for; all others are the server's own.
CODES = {
    "content_blocked": "moderation_blocked",
    "missing_parameter": "missing_required_parameter",
    "preset_not_found": "model_not_found",
    "unauthorized": "invalid_api_key",
}
_FIELD = re.compile(r"(?:images|loras)/\d+(?:/\w+)?")


ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def render(
    problem: Problem, request_id: str | None = None, *, is_final: bool = False
) -> JSONResponse:
    """Render an error. `is_final` tells the SDKs not to retry."""
    headers = {**problem.headers, REQUEST_ID: request_id or uuid.uuid4().hex}
    if is_final:
        headers[SHOULD_RETRY] = "false"
    return JSONResponse(error_body(problem).model_dump(), problem.status, headers=headers)


def error_body(problem: Problem) -> ErrorBody:
    """Return the error in OpenAI's shape."""
    return ErrorBody(
        error=ErrorDetail(
            message=problem.message,
            type=_error_type(problem.status),
            param=_param(problem.field),
            code=CODES.get(problem.code, problem.code),
        )
    )


def problem_of_job(job: Job) -> Problem:
    """Return the error of a job without images: 400 when caused by its input, else 500 or 503."""
    if job.status is JobStatus.CANCELED:
        return Problem(400, "canceled", "The edit was canceled.")
    if job.error is None:
        return Problem(503, "unavailable", "The server is stopping; the edit did not finish.")
    field = _FIELD.match(job.error.message)
    status = 400 if job.error.code in INPUT_FAULTS else 500
    return Problem(status, job.error.code, job.error.message, field[0] if field else None)


def _error_type(
    status: int,
) -> Literal["invalid_request_error", "authentication_error", "server_error"]:
    if status in (401, 403):
        return "authentication_error"
    return "server_error" if status == 429 or status >= 500 else "invalid_request_error"


def _param(field: str | None) -> str | None:
    """Return the field's name in this contract: images arrive as `image`, a preset as `model`."""
    if field == "preset":
        return "model"
    return "image" if field is not None and field.partition("/")[0] == "images" else field
