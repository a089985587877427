"""HTTP/1.1 with deadlines: for a request's head, for silence, and for clients that do not read.

Waits of hours and event streams are requests in progress, which have no deadline here; that of a
body is `BodyDeadline`'s.
"""

import asyncio
from asyncio import sslproto
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.web.connection_limits import ConnectionLimits, Peer

# The longest wait for the head of a request, on a new connection or after a response.
HEAD_TIMEOUT_S = 20.0
# A client must take this much of a response in each interval.
WRITE_INTERVAL_S = 30.0
MIN_WRITE_BYTES = 30 * 1024
# The most that one read takes: until the key is checked, little is read. See UNADMITTED_BYTES.
READ_BYTES = 16 * 1024

# TLS has a buffer of its own below the transport, allocated before this protocol knows of it.
sslproto.SSLProtocol.max_size = READ_BYTES


class LimitedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, limits: ConnectionLimits, **options: Any) -> None:
        """`options` are uvicorn's."""
        super().__init__(**options)
        self._limits = limits
        self._peer: Peer = ("", 0)
        self._is_busy = False
        self._head_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client its time for the first head."""
        super().connection_made(transport)
        transport.max_size = READ_BYTES  # type: ignore[attr-defined]
        # None if the client has already left
        self._peer = (transport.get_extra_info("peername") or self._peer)[:2]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        for deadline in (self._head_deadline, self._write_deadline):
            if deadline is not None:
                deadline.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read no more of a body until the application asks for it."""
        super().data_received(data)
        self._note_state()
        if self._is_busy and self.cycle.body:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """Give the client its time for the next head."""
        super().on_response_complete()
        self._note_state()

    def pause_writing(self) -> None:
        """Watch whether the client reads."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop watching."""
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None
        super().resume_writing()

    def _note_state(self) -> None:
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy == self._is_busy:
            return
        self._is_busy = is_busy
        if is_busy:
            self._limits.busy(self._peer)
            if self._head_deadline is not None:
                self._head_deadline.cancel()
        else:
            self._limits.silent(self._peer)
            self._expect_head()

    def _expect_head(self) -> None:
        # not renewed by what arrives: a head or the rest of a body may trickle in
        self._head_deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._end_silence)

    def _end_silence(self) -> None:
        if self.transport.get_write_buffer_size():
            # the client still reads its last response
            self._watch_writing()
            self._expect_head()
        elif self.conn.our_state is h11.IDLE:
            self.timeout_keep_alive_handler()
        else:
            self.transport.abort()

    def _watch_writing(self) -> None:
        if self._write_deadline is None:
            left = self.transport.get_write_buffer_size()
            self._write_deadline = self.loop.call_later(WRITE_INTERVAL_S, self._check_writing, left)

    def _check_writing(self, before: int) -> None:
        self._write_deadline = None
        left = self.transport.get_write_buffer_size()
        if left and before - left < MIN_WRITE_BYTES:
            self.transport.abort()
        elif left:
            self._watch_writing()
