"""The time that a client has for the body of its request."""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The longest pause of a body, and its least bytes a second. Only time in which the server waits for
# the client counts.
GRACE_S = 30.0
MIN_BYTES_PER_S = 1024
TOO_SLOW = 408


class BodyDeadline:
    """Refuses a body that arrives too slowly, with 408, and closes its connection."""

    def __init__(
        self, app: ASGIApp, grace_s: float = GRACE_S, min_bytes_per_s: int = MIN_BYTES_PER_S
    ) -> None:
        self._app = app
        self._grace_s = grace_s
        self._min_bytes_per_s = min_bytes_per_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Time the parts of the body; afterwards a wait for the client's hang-up has no end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _TimedBody(receive, send, self._grace_s, self._min_bytes_per_s)
        await self._app(scope, body.receive, body.send)


class _TimedBody:
    def __init__(self, receive: Receive, send: Send, grace_s: float, min_bytes_per_s: int) -> None:
        self._receive = receive
        self._send = send
        self._left_s = self._grace_s = grace_s
        self._min_bytes_per_s = min_bytes_per_s
        self._is_complete = False
        self._is_late = False

    async def receive(self) -> Message:
        """Receive a part. Raises HTTPException (408)."""
        if self._is_complete:
            return await self._receive()
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(max(0.0, self._left_s)):
                message = await self._receive()
        except TimeoutError:
            self._is_late = True
            # the only exception that FastAPI lets through its parsing of the body
            raise HTTPException(
                TOO_SLOW,
                f"The body arrives too slowly: at least {self._min_bytes_per_s} bytes a second are "
                "required.",
            ) from None
        earned_s = len(message.get("body", b"")) / self._min_bytes_per_s
        # a fast start earns no longer pause
        self._left_s = min(self._grace_s, self._left_s - (clock() - began) + earned_s)
        self._is_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response; it closes the connection after a late body."""
        if self._is_late and message["type"] == "http.response.start":
            MutableHeaders(scope=message)["connection"] = "close"
        await self._send(message)
