"""The listening socket: it closes what the limits refuse before anything else sees it.

Later would be too late: asyncio accepts every waiting connection before it calls a protocol, and
out of file descriptors it logs each attempt.
"""

import contextlib
import errno
import os
import resource
import socket
from typing import Any

from server.web.connection_limits import ConnectionLimits, Peer

# Descriptors for the database, files, workers, decoders and downloads.
RESERVED_FILES = 256
MAX_FILES = 65_536
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


def raise_file_limit() -> int:
    """Raise the limit of open files as far as an ordinary user may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MAX_FILES if hard == resource.RLIM_INFINITY else min(MAX_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return MAX_FILES if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def places(max_connections: int, file_limit: int) -> int:
    """Return how many connections the limit of open files allows, at most `max_connections`."""
    return min(max_connections, file_limit - min(RESERVED_FILES, file_limit // 2))


class Listener(socket.socket):
    """A listening TCP socket whose connections are counted until they are closed."""

    def limit(self, limits: ConnectionLimits) -> None:
        """Count connections from now on."""
        self._limits = limits
        self._ends_round = False
        # closed to accept, and then close, a connection when there is no other descriptor left
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises ConnectionAbortedError for one that was refused, and BlockingIOError after one that
        took the place of another: asyncio ends its round, and closes the other before the next.
        """
        if self._ends_round:
            self._ends_round = False
            raise BlockingIOError
        try:
            accepted, address = super().accept()
        except OSError as exc:
            if exc.errno in _OUT_OF_FILES:
                self._limits.note("no file descriptor is left; new connections are closed")
                self._refuse_with_spare()
            raise
        peer = address[:2]
        connection = _Counted(
            accepted.family, accepted.type, accepted.proto, fileno=accepted.detach()
        )
        if not self._limits.admit(connection, peer):
            connection.close()
            raise ConnectionAbortedError
        self._ends_round = self._limits.is_full
        connection.count(self._limits, peer)
        return connection, address

    def _refuse_with_spare(self) -> None:
        os.close(self._spare)
        try:
            with contextlib.suppress(OSError):
                super().accept()[0].close()
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        raise ConnectionAbortedError


class _Counted(socket.socket):
    _limits: ConnectionLimits | None = None

    def count(self, limits: ConnectionLimits, peer: Peer) -> None:
        self._limits, self._peer = limits, peer

    def close(self) -> None:
        if self._limits is not None:
            self._limits.release(self._peer, self)
        super().close()
