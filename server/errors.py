"""Errors between HTTP and the worker.

ServerError
├── InvalidRequest        400  a field has a value that is not allowed
│   ├── InvalidImage      400  an input image is unreadable or outside the limits
│   └── InvalidLora       400  a LoRA is missing or does not fit the model
├── Unauthorized          401  the API key is missing or wrong
├── Forbidden             403  the key's owner may not do this
├── WrongHost             403  the Host header names another server
├── WrongOrigin           403  a web page of another origin sends the request
├── NotFound              404  no such job, file or page
├── JobDeleted            410  the job of this Idempotency-Key was deleted
├── PayloadTooLarge       413  the body, or an image in it, is too large
├── KeyReused             422  this Idempotency-Key was sent with another request
├── QueueFull             429  too many jobs are waiting
├── TooManyLogins         429  too many keys were tried on the login form
├── TooManySubmits        429  too many jobs were submitted in a minute
├── Unavailable           503  the model could not be loaded
├── StorageFull           507  the database cannot be written now
├── FetchFailed           (fails the job; 400 where known at once)  a URL gave nothing usable
├── WorkerLost            (fails the job)  the worker process died MAX_ATTEMPTS times
├── ServerLost            (fails the job)  the server was stopped MAX_STARTS times
├── ContentBlocked        (fails the job)  the safety checker blocks an output
└── JobTimeout            (fails the job)  the job ran longer than allowed

`status` is the HTTP status when the error answers a request; `code` is stored with a failed job.
The docstring of a class is its default message. Each contract renders both in its own shape. The
engine's errors are in `pipelines.api.errors`.
"""

from typing import ClassVar

from server.limits import MAX_ATTEMPTS, MAX_STARTS


class ServerError(Exception):
    """The server failed. Its log says why."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """`field` is the one that the error is about, `retry_after_s` when a retry may succeed."""
        super().__init__(message or type(self).__doc__)
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidRequest(ServerError):
    """The request has a value that is not allowed."""

    status = 400
    code = "invalid_parameter"


class InvalidImage(InvalidRequest):
    """An input image cannot be used."""

    code = "invalid_picture"


class InvalidLora(InvalidRequest):
    """A LoRA cannot be used."""

    code = "lora_invalid"


class Unauthorized(ServerError):
    """A valid API key is required: as `Authorization: Bearer <key>`, `Key <key>` or `X-API-Key`."""

    status = 401
    code = "unauthorized"


class Forbidden(ServerError):
    """The owner of this key may not do this."""

    status = 403
    code = "forbidden"


class WrongHost(ServerError):
    """The Host header does not name this server."""

    status = 403
    code = "wrong_host"


class WrongOrigin(ServerError):
    """A web page of another origin sends the request."""

    status = 403
    code = "wrong_origin"


class NotFound(ServerError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


class JobDeleted(ServerError):
    """The job of this Idempotency-Key was deleted."""

    status = 410
    code = "job_deleted"


class PayloadTooLarge(ServerError):
    """The request is too large."""

    status = 413
    code = "payload_too_large"


class KeyReused(ServerError):
    """The Idempotency-Key was sent before with another request."""

    status = 422
    code = "idempotency_key_reused"


class QueueFull(ServerError):
    """The queue is full."""

    status = 429
    code = "queue_full"


class TooManyLogins(ServerError):
    """Too many wrong keys were tried."""

    status = 429
    code = "too_many_logins"


class TooManySubmits(ServerError):
    """Too many jobs were submitted with this key in a minute."""

    status = 429
    code = "rate_limited"


class Unavailable(ServerError):
    """The model is not available."""

    status = 503
    code = "unavailable"


class StorageFull(ServerError):
    """The server's database cannot be written."""

    status = 507
    code = "storage_full"


class FetchFailed(ServerError):
    """A URL in the request gave nothing usable."""

    status = 400
    code = "fetch_failed"


class WorkerLost(ServerError):
    __doc__ = (
        f"The worker process died {MAX_ATTEMPTS} times while it ran this job. "
        "Its last output is in the server's log."
    )

    code = "worker_lost"


class ServerLost(ServerError):
    __doc__ = (
        f"The server was stopped {MAX_STARTS} times while it ran this job; it is not retried again."
    )

    code = "server_lost"


class ContentBlocked(ServerError):
    """The safety checker blocked an output."""

    code = "content_blocked"


class JobTimeout(ServerError):
    """The job ran longer than the server allows."""

    code = "timeout"
