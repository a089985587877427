"""Errors as clients see them, before a contract renders them in its own shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pipelines.api.errors import EngineError, InvalidParameter, PresetNotFound
from server.errors import InvalidRequest, ServerError

SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """An HTTP status, a stable code, a message, and the field it is about (`loras/0/scale`)."""

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The response headers of this error."""
        if self.retry_after_s is not None:
            return {"Retry-After": str(self.retry_after_s)}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}


def problem_of(exc: Exception) -> Problem:
    """Convert an exception to what clients may see: nothing of the server's internals."""
    match exc:
        case RequestValidationError() | ValidationError():
            return _invalid(exc.errors())
        case ServerError():
            return Problem(exc.status, exc.code, str(exc), exc.field, exc.retry_after_s)
        case InvalidParameter():
            return Problem(InvalidRequest.status, exc.code, str(exc), exc.field.replace(".", "/"))
        case PresetNotFound():
            return Problem(404, exc.code, str(exc), "preset")
        case EngineError():
            return Problem(InvalidRequest.status, exc.code, str(exc))
        case ClientDisconnect():
            # nobody reads this; an error of the server would be logged with its traceback
            return Problem(InvalidRequest.status, InvalidRequest.code, "the body broke off", "body")
        case HTTPException():
            return Problem(exc.status_code, "http_error", str(exc.detail))
        case _:
            return Problem(ServerError.status, ServerError.code, str(ServerError()))


def _invalid(errors: Sequence[Any]) -> Problem:
    """Convert pydantic's first error: the field, what is allowed, and what was received."""
    error = errors[0]
    location = [str(part) for part in error["loc"] if part != "body"]
    field = "/".join(location) or "body"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return Problem(InvalidRequest.status, "missing_parameter", f"{field} is required", field)
    received = repr(error.get("input"))
    if len(received) > SHOWN_CHARS:
        received = received[: SHOWN_CHARS - 1] + "…"
    return Problem(InvalidRequest.status, InvalidRequest.code, f"{message}, got {received}", field)
