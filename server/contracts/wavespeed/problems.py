"""Errors in WaveSpeed's shape."""

from fastapi.responses import JSONResponse

from server.contracts.wavespeed.codes import CODES
from server.errors import InvalidRequest
from server.web.problem import Problem

ERROR_SCHEMA = {
    "type": "object",
    "required": ["code", "message", "error"],
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "error": {"type": "string"},
        "data": {"type": "object", "properties": {"code": {"type": "integer"}}},
    },
}


def render(problem: Problem) -> JSONResponse:
    """Render an error. Different clients read different keys of it."""
    message = problem.message
    if problem.field and problem.status == InvalidRequest.status:
        message = f'invalid request body, Error at "/{problem.field}": {message}'
    body: dict[str, object] = {"code": problem.status, "message": message, "error": message}
    if problem.code in CODES:
        body["data"] = {"code": CODES[problem.code]}
    return JSONResponse(body, problem.status, headers=problem.headers)
