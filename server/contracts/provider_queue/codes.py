"""The queue's errors: of jobs and of requests."""

import uuid
from collections.abc import Mapping
from enum import StrEnum

from fastapi.responses import JSONResponse

from server.errors import InvalidRequest, PayloadTooLarge
from server.job import Job, JobStatus
from server.web.problem import Problem

NAME = "provider_queue"
REQUEST_ID_HEADER = "x-fal-request-id"
REFUSED = 422
CANCELED_MESSAGE = "The request was cancelled."
UNAUTHORIZED_MESSAGE = "Authorization Bearer or Key token is required"


class ErrorType(StrEnum):
    """The reason that a request ended without an image."""

    INFERENCE_FAILURE = "INFERENCE_FAILURE"
    INFERENCE_TIMEOUT = "INFERENCE_TIMEOUT"
    REQUEST_INVALID = "REQUEST_INVALID"
    CONTENT_BLOCKED = "CONTENT_BLOCKED"
    CANCELED = "CANCELED"
    INTERNAL_SERVER_ERROR = "INTERNAL_SERVER_ERROR"


# By the error code of a failed job.
ERROR_TYPES: Mapping[str, ErrorType] = {
    "invalid_parameter": ErrorType.REQUEST_INVALID,
    "invalid_picture": ErrorType.REQUEST_INVALID,
    "payload_too_large": ErrorType.REQUEST_INVALID,
    "fetch_failed": ErrorType.REQUEST_INVALID,
    "lora_not_found": ErrorType.REQUEST_INVALID,
    "lora_invalid": ErrorType.REQUEST_INVALID,
    "lora_overflow": ErrorType.REQUEST_INVALID,
    "content_blocked": ErrorType.CONTENT_BLOCKED,
    "timeout": ErrorType.INFERENCE_TIMEOUT,
    "inference_failed": ErrorType.INFERENCE_FAILURE,
    "out_of_memory": ErrorType.INFERENCE_FAILURE,
    "non_finite_output": ErrorType.INFERENCE_FAILURE,
    "device_failed": ErrorType.INFERENCE_FAILURE,
    "worker_lost": ErrorType.INFERENCE_FAILURE,
    "server_lost": ErrorType.INTERNAL_SERVER_ERROR,
    "internal_error": ErrorType.INTERNAL_SERVER_ERROR,
    "not_found": ErrorType.INTERNAL_SERVER_ERROR,
    "unavailable": ErrorType.INTERNAL_SERVER_ERROR,
    "model_not_found": ErrorType.INTERNAL_SERVER_ERROR,
    "model_unusable": ErrorType.INTERNAL_SERVER_ERROR,
}

# The status of a result. Never 408, 409 or 429: fal's client would retry ten times.
STATUSES: Mapping[ErrorType, int] = {
    ErrorType.REQUEST_INVALID: REFUSED,
    ErrorType.CONTENT_BLOCKED: REFUSED,
    ErrorType.CANCELED: 410,
    ErrorType.INFERENCE_FAILURE: 500,
    ErrorType.INFERENCE_TIMEOUT: 500,
    ErrorType.INTERNAL_SERVER_ERROR: 500,
}

# fal's types of validation errors.
FIELD_TYPES: Mapping[str, str] = {
    "missing_parameter": "missing",
    "invalid_picture": "image_load_error",
    "payload_too_large": "file_too_large",
    "fetch_failed": "file_download_error",
}

# Two statuses come from the provider's gateway, in its own shape.
GATEWAY_CODES: Mapping[int, str] = {401: "UNAUTHORIZED", 429: "RATE_LIMIT_EXCEEDED"}


def failure_of(job: Job) -> tuple[ErrorType, str] | None:
    """Return why a job ended without images and the message, or None if it did not."""
    if job.status is JobStatus.CANCELED:
        return ErrorType.CANCELED, CANCELED_MESSAGE
    if job.error is None:
        return None
    kind = ERROR_TYPES.get(job.error.code, ErrorType.INTERNAL_SERVER_ERROR)
    return kind, job.error.message


# A plain error or a list of validation errors; a gateway error; the body of a cancel.
ERROR_SCHEMA = {
    "anyOf": [
        {
            "type": "object",
            "required": ["detail"],
            "properties": {"detail": {"anyOf": [{"type": "string"}, {"type": "array"}]}},
        },
        {
            "type": "object",
            "required": ["error", "request_id"],
            "properties": {"error": {"type": "object"}, "request_id": {"type": "string"}},
        },
        {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}},
    ]
}


def render(problem: Problem, request_id: str | None = None) -> JSONResponse:
    """Render an error; one about a field becomes a validation error."""
    request_id = request_id or uuid.uuid4().hex
    headers = {**problem.headers, REQUEST_ID_HEADER: request_id}
    status, body = problem.status, _plain(problem.message)
    if status in GATEWAY_CODES:
        message = UNAUTHORIZED_MESSAGE if status == 401 else problem.message
        error = {"code": GATEWAY_CODES[status], "message": message}
        body = {"error": error, "request_id": request_id}
    elif problem.field and status in (InvalidRequest.status, PayloadTooLarge.status):
        status, body = REFUSED, _refusal(problem, problem.field)
    return JSONResponse(body, status, headers=headers)


def _plain(message: str) -> dict[str, object]:
    return {"detail": message, "message": message}


def _refusal(problem: Problem, field: str) -> dict[str, object]:
    place = [int(part) if part.isdigit() else part for part in field.split("/") if part != "body"]
    kind = FIELD_TYPES.get(problem.code, "value_error")
    detail = {"loc": ["body", *place], "msg": problem.message, "type": kind}
    names_it = field in problem.message
    return {
        "detail": [detail],
        "message": problem.message if names_it else f"{field}: {problem.message}",
    }
