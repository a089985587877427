"""Bodies that the server does not want: little of them is read, and the connection is closed.

uvicorn reads and discards what is left of a body after the response, however long it is.
"""

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from server.errors import PayloadTooLarge

# The most that is read of a body before its sender is admitted.
# With a read of the protocol before and after it, 64 KiB.
UNADMITTED_BYTES = 32 * 1024
# Key in the state of a request's scope.
_ADMITTED = "body_admitted"


def admit_body(request: Request) -> None:
    """Let a request without a key send a long body: a token or a cookie has admitted it."""
    request.scope.setdefault("state", {})[_ADMITTED] = True


class UnadmittedBody:
    """The body of a client that is not admitted; wraps the `receive` and `send` of its request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._received = 0
        self._is_complete = False

    async def receive(self) -> Message:
        """Receive a part of the body.

        Raises HTTPException (413) beyond UNADMITTED_BYTES, unless `admit_body` was called.
        """
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._received > UNADMITTED_BYTES and not self._is_admitted:
            # the only exception that FastAPI lets through its parsing of the body
            raise HTTPException(
                PayloadTooLarge.status,
                f"A request without a key may have a body of {UNADMITTED_BYTES // 1024} KiB.",
            )
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response; it closes the connection if a long body is left unread."""
        is_start = message["type"] == "http.response.start"
        if is_start and not self._is_complete and _may_be_long(self._scope):
            MutableHeaders(scope=message)["connection"] = "close"
        await self._send(message)

    @property
    def _is_admitted(self) -> bool:
        return _ADMITTED in self._scope.get("state", {})


def _may_be_long(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    # after a refusal, a client that waits for 100 Continue may send its body or the next request
    if "transfer-encoding" in headers or "expect" in headers:
        return True
    return int(headers.get("content-length", "0")) > UNADMITTED_BYTES
