"""One decoder process, driven from a thread."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from server.errors import InvalidImage
from server.media.decoder_frames import FRAME_HEAD, MAX_PAYLOAD_BYTES, REQUEST_HEAD, SIZE, Frame
from server.media.images import MAX_PIXELS

Size = tuple[int, int]
# Takes an image's size and its rows as RGB, from top to bottom.
Receiver = Callable[[Size, Iterator[bytes]], None]

# The memory of a decoder beyond that of an idle one. The rest of 512 MB is the server's, which
# holds the image as the client sent it.
MEMORY_BYTES = 460 * 2**20
# Seconds after which a decoder ends itself: its server has been killed.
ORPHAN_S = 12
# The program of a decoder and its limits.
DECODER_COMMAND = (
    sys.executable, "-W", "ignore", "-m", "server.media.decoder", str(MEMORY_BYTES), str(ORPHAN_S)
)  # fmt: skip
# A longer message is cut.
MAX_MESSAGE_BYTES = 500
_INHERITED = ("PATH", "LANG", "LC_", "LD_", "PYTHON", "COVERAGE_")
# glibc returns freed blocks to the system, and reserves no arena for each thread.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


class DecoderDied(Exception):
    """The process ended, or sent what no decoder sends."""


class OutOfMemory(Exception):
    """The image needs more memory than a decoder may use."""


class DecoderProcess:
    """A process that decodes one image at a time. It is never restarted, only replaced."""

    def __init__(self, command: Sequence[str]) -> None:
        self._connection, theirs = socket.socketpair()
        inherited = {
            name: value for name, value in os.environ.items() if name.startswith(_INHERITED)
        }
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                # libraries quote the image in their warnings; how the process ends is logged
                stderr=subprocess.DEVNULL,
                env={**inherited, **_MALLOC, "OPENBLAS_NUM_THREADS": "1"},
                # Ctrl-C is for the server, which ends its decoders itself
                start_new_session=True,
            )
        self._stream = self._connection.makefile("rb")

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Return whether the process runs."""
        return self._process.poll() is None

    def decode(self, data: bytes, receive: Receiver) -> None:
        """Decode an image and hand its size and rows to `receive`; blocks.

        Raises InvalidImage without the name of the field, OutOfMemory, DecoderDied, and what
        `receive` raises.
        """
        try:
            self._connection.sendall(REQUEST_HEAD.pack(len(data)))
            self._connection.sendall(data)
        except OSError as exc:
            raise DecoderDied(self._exit_reason()) from exc
        head = self._expect(Frame.SIZE)
        width, height = SIZE.unpack(head) if len(head) == SIZE.size else (0, 0)
        if not 0 < width * height <= MAX_PIXELS:
            raise DecoderDied(f"decoder {self.pid} sent a size of {width}×{height}")
        receive((width, height), self._rows(width * 3, height))
        self._expect(Frame.END)

    def kill(self) -> None:
        """Kill the process; a `decode` in another thread then raises DecoderDied."""
        self._process.kill()

    def close(self) -> None:
        """Kill the process and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        self._stream.close()
        self._connection.close()

    def _rows(self, row_bytes: int, height: int) -> Iterator[bytes]:
        missing = row_bytes * height
        while missing:
            strip = self._expect(Frame.RGB)
            missing -= len(strip)
            if not strip or missing < 0 or len(strip) % row_bytes:
                raise DecoderDied(f"decoder {self.pid} sent a strip of {len(strip)} bytes")
            yield strip

    def _expect(self, kind: Frame) -> bytes:
        """Return the payload of the next frame, which must be of this kind."""
        found, length = FRAME_HEAD.unpack(self._read(FRAME_HEAD.size))
        if length > MAX_PAYLOAD_BYTES:
            raise DecoderDied(f"decoder {self.pid} sent a frame of {length} bytes")
        payload = self._read(length)
        if found == Frame.REFUSED:
            raise InvalidImage(_printable(payload[:MAX_MESSAGE_BYTES]))
        if found == Frame.OUT_OF_MEMORY:
            raise OutOfMemory
        if found != kind:
            raise DecoderDied(f"decoder {self.pid} sent a frame of kind {found}")
        return payload

    def _read(self, length: int) -> bytes:
        try:
            data = self._stream.read(length)
        except OSError as exc:
            raise DecoderDied(self._exit_reason()) from exc
        if len(data) != length:
            raise DecoderDied(self._exit_reason())
        return data

    def _exit_reason(self) -> str:
        self._process.kill()
        code = self._process.wait()
        if code < 0:
            return f"decoder {self.pid} was killed by {signal.Signals(-code).name}"
        return f"decoder {self.pid} exited with code {code}"


def _printable(message: bytes) -> str:
    text = message.decode(errors="replace")
    return "".join(sign if sign.isprintable() else "?" for sign in text)
