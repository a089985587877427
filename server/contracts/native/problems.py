"""Errors in the native contract's shape."""

from fastapi.responses import JSONResponse

from server.web.problem import Problem

ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "field"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "field": {"type": ["string", "null"]},
            },
        }
    },
}


def render(problem: Problem) -> JSONResponse:
    """Render an error as `{"error": {code, message, field}}`."""
    error = {"code": problem.code, "message": problem.message, "field": problem.field}
    return JSONResponse({"error": error}, problem.status, headers=problem.headers)
