"""HTTP as bytes, since a client library refuses to send most of what is tested here."""

import contextlib
import http.client
import socket
from dataclasses import dataclass

import h11

Headers = list[tuple[bytes, bytes]]
# Only a request that is never answered waits this long.
PATIENCE_S = 60.0
# Of uvicorn, which parses HTTP with h11.
MAX_HEAD_BYTES = 64 * 1024
# The server waits for the rest of such a request, and its client leaves.
INCOMPLETE_S = 0.05


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request; `is_complete` is false where the server may wait for more of it."""

    method: bytes
    target: bytes
    headers: Headers
    body: bytes = b""
    is_complete: bool = True

    def encode(self) -> bytes:
        """The bytes on the wire."""
        lines = [self.method + b" " + self.target + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join([*lines, b"", self.body])

    @property
    def may_be_cut_off(self) -> bool:
        """Whether the server may close the connection while the request still arrives.

        It reads no more after a head that is too long, or that is none; closing then resets the
        connection, and the response may be lost on the way.
        """
        return not self.is_complete or not self._has_valid_head

    @property
    def _has_valid_head(self) -> bool:
        head = self.encode()[: -len(self.body) or None]
        if len(head) > MAX_HEAD_BYTES:
            return False
        parser = h11.Connection(h11.SERVER)
        try:
            parser.receive_data(head)
            return isinstance(parser.next_event(), h11.Request)
        except h11.RemoteProtocolError:
            return False


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response, read to its end."""

    status: int
    headers: bytes
    media_type: str
    body: bytes


def exchange(address: tuple[str, int], request: RawRequest) -> RawResponse | None:
    """Send the request on a connection of its own; None if the server closes it without a word.

    Raises TimeoutError when a complete request is not answered.
    """
    timeout_s = PATIENCE_S if request.is_complete else INCOMPLETE_S
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        # a refusal may close the connection before all is sent
        with contextlib.suppress(ConnectionError):
            connection.sendall(request.encode())
        connection.settimeout(timeout_s)
        try:
            return _read(connection, request.method)
        except (ConnectionError, http.client.HTTPException):
            return None
        except TimeoutError:
            if request.is_complete:
                raise
            return None


def _read(connection: socket.socket, method: bytes) -> RawResponse:
    with http.client.HTTPResponse(connection, method=method.decode("latin-1")) as response:
        response.begin()
        headers = bytes(response.headers)
        media_type = response.headers.get_content_type()
        return RawResponse(response.status, headers, media_type, response.read())
