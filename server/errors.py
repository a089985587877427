"""What can go wrong between HTTP and the worker.

ServerError
├── InvalidRequest        400  a field's value is not allowed
│   ├── InvalidImage    400  an input image cannot be read or is outside the limits
│   └── InvalidLora       400  a LoRA is not on this machine, or cannot be applied
├── Unauthorized          401  no key, or a wrong one
├── WrongHost             403  the server was asked for under a name that is not its own
├── NotFound              404  no such job, file or page
├── PayloadTooLarge       413  the body, or an image in it, is too large
├── QueueFull             429  too many jobs wait; try again later
├── Unavailable           503  the model could not be loaded
├── FetchFailed           (fails the job; 400 where known at once)  an address gave nothing usable
├── WorkerLost            (fails the job)  the worker process died twice over the same job
├── ServerLost            (fails the job)  the server was stopped ten times over the same job
├── ContentBlocked        (fails the job)  the safety checker does not let an output through
└── JobTimeout            (fails the job)  the job ran longer than allowed

`status` is the HTTP status where the error answers a request; `code` is what a failed job keeps.
Each contract renders both in its own shape. The model's own errors stand in `pipelines.api.errors`.
"""

from typing import ClassVar


class ServerError(Exception):
    """The server failed. Its log says why."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)
        self.field = field


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


class WrongHost(ServerError):
    """The server was asked for under a name that is not its own."""

    status = 403
    code = "wrong_host"


class NotFound(ServerError):
    """There is nothing at this address."""

    status = 404
    code = "not_found"


class PayloadTooLarge(ServerError):
    """The request is too large."""

    status = 413
    code = "payload_too_large"


class QueueFull(ServerError):
    """The queue is full."""

    status = 429
    code = "queue_full"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(ServerError):
    """The model is not available."""

    status = 503
    code = "unavailable"


class FetchFailed(ServerError):
    """An address named in the request gave nothing usable."""

    status = 400
    code = "fetch_failed"


class WorkerLost(ServerError):
    """The worker process died while it ran this job, twice. The server's log has its last words."""

    code = "worker_lost"


class ServerLost(ServerError):
    """The server was stopped ten times while it ran this job; it is not tried again."""

    code = "server_lost"


class ContentBlocked(ServerError):
    """The safety checker found an output that it does not let through."""

    code = "content_blocked"


class JobTimeout(ServerError):
    """The job ran longer than the server allows."""

    code = "timeout"
