"""The program of a decoder: encoded images in, strips of RGB out.

It runs as `python -m server.media.decoder`, one image at a time, with the server at the other end
of its standard input, a socket. It exits when the server closes that, and dies when it exceeds the
limits that it sets itself. It gets no key, no path and no address.

A request is 4 bytes of length and the image. A response is a series of frames, each of 1 byte of
`Frame`, 4 bytes of length and the payload: SIZE, RGB and END; REFUSED or OUT_OF_MEMORY ends
it early.
"""

import contextlib
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import IO

from server.errors import InvalidImage
from server.media.decoder_frames import FRAME_HEAD, REQUEST_HEAD, SIZE, Frame
from server.media.rgb import load, open_image


def main(memory_bytes: int, timeout_s: int) -> None:
    """Serve requests until the server closes the socket."""
    _limit_resources(memory_bytes)
    with socket.socket(fileno=sys.stdin.fileno()) as connection:
        requests, answers = connection.makefile("rb"), connection.makefile("wb")
        while len(head := requests.read(REQUEST_HEAD.size)) == REQUEST_HEAD.size:
            # the server kills a decoder sooner, unless it has been killed itself
            signal.alarm(timeout_s)
            _answer(requests, answers, REQUEST_HEAD.unpack(head)[0])
            signal.alarm(0)


def _limit_resources(memory_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(requests: IO[bytes], answers: IO[bytes], length: int) -> None:
    try:
        rgb = load(open_image(requests.read(length)))
        _send(answers, Frame.SIZE, SIZE.pack(*rgb.size))
        for strip in rgb.strips():
            _send(answers, Frame.RGB, strip.tobytes())
    except InvalidImage as exc:
        _send(answers, Frame.REFUSED, str(exc).encode())
    except MemoryError:
        _send(answers, Frame.OUT_OF_MEMORY, b"")
    except ConnectionError:
        raise
    except Exception as exc:
        # a bug of Pillow's for a damaged file, not a reason to end
        _send(answers, Frame.REFUSED, f"is damaged: {exc}.".encode())
    else:
        _send(answers, Frame.END, b"")
    answers.flush()


def _send(answers: IO[bytes], frame: Frame, payload: bytes) -> None:
    answers.write(FRAME_HEAD.pack(frame, len(payload)))
    answers.write(payload)


if __name__ == "__main__":
    with contextlib.suppress(ConnectionError):
        main(int(sys.argv[1]), int(sys.argv[2]))
