"""Decoder processes, seen from the event loop.

The server itself never decodes an image that a client sent: a file of a few KB can take gigabytes
or hours. A process that exceeds its memory or its time is killed and replaced.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from server.errors import InvalidImage, Unavailable
from server.media.decoder_process import (
    DECODER_COMMAND,
    DecoderDied,
    DecoderProcess,
    OutOfMemory,
    Receiver,
    Size,
)
from server.media.png_file import write_png
from server.metrics import Metrics
from server.net.daemon_thread import run_in_daemon_thread

logger = logging.getLogger(__name__)

# Decoding a large image takes a core for a second; more would starve the event loop.
DECODERS = 2
# For one image, from its first byte to the last row.
TIMEOUT_S = 9.0

_STOPPING = "The server is stopping."
_TOO_LARGE = "takes more memory to decode than one image may use. Send a smaller one, or a PNG."
_CRASHES = "is damaged: the decoder crashed on it."


class DecoderPool:
    """At most `count` processes, each started when an image first needs it."""

    def __init__(
        self,
        *,
        count: int = DECODERS,
        timeout_s: float = TIMEOUT_S,
        command: Sequence[str] = DECODER_COMMAND,
        metrics: Metrics | None = None,
    ) -> None:
        self._slots = asyncio.Semaphore(count)
        self._timeout_s = timeout_s
        self._command = command
        self._kills = (metrics or Metrics()).decode_kills
        self._idle: list[DecoderProcess] = []
        self._busy: set[DecoderProcess] = set()
        self._is_closed = False

    @property
    def pids(self) -> list[int]:
        """The process IDs of the running decoders."""
        return [decoder.pid for decoder in (*self._idle, *self._busy)]

    async def write_png(self, data: bytes, path: Path, field: str) -> None:
        """Decode an image and write it as an RGB PNG without metadata.

        Raises InvalidImage, naming `field`, and Unavailable while the server stops; then the file
        is missing or incomplete. A cancelled caller frees its decoder at once.
        """

        def write(size: Size, rows: Iterator[bytes]) -> None:
            with path.open("wb") as file:
                write_png(file, size, rows)

        await self._decode(data, field, write)

    async def check(self, data: bytes, field: str) -> None:
        """Decode an image to the end. Raises like `write_png`."""

        def discard(_: Size, rows: Iterator[bytes]) -> None:
            for _row in rows:
                pass

        await self._decode(data, field, discard)

    def close(self) -> None:
        """Kill the decoders; running and later decodes raise Unavailable."""
        self._is_closed = True
        for decoder in self._busy:
            decoder.kill()
        while self._idle:
            self._idle.pop().close()

    async def _decode(self, data: bytes, field: str, receive: Receiver) -> None:
        async with self._slots:
            if self._is_closed:
                raise Unavailable(_STOPPING)
            decoder = self._take()
            try:
                await self._run(decoder, data, receive)
            except InvalidImage as exc:
                raise InvalidImage(f"{field} {exc}", field=field) from exc
            except OutOfMemory as exc:
                self._kills.labels("memory").inc()
                raise InvalidImage(f"{field} {_TOO_LARGE}", field=field) from exc
            except TimeoutError as exc:
                self._kills.labels("time").inc()
                raise InvalidImage(
                    f"{field} takes more than {self._timeout_s:g} s to decode.", field=field
                ) from exc
            except DecoderDied as exc:
                if self._is_closed:
                    raise Unavailable(_STOPPING) from exc
                self._kills.labels("crash").inc()
                logger.warning("%s ended the decoder: %s", field, exc)
                raise InvalidImage(f"{field} {_CRASHES}", field=field) from exc

    async def _run(self, decoder: DecoderProcess, data: bytes, receive: Receiver) -> None:
        """Decode in a thread. Whatever else ends the wait kills the decoder and the thread."""
        self._busy.add(decoder)
        work = asyncio.wrap_future(
            run_in_daemon_thread(lambda: decoder.decode(data, receive), "decoder")
        )
        is_reusable = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.wait([work])
            work.result()
            is_reusable = True
        except InvalidImage:
            is_reusable = True
            raise
        finally:
            try:
                if not is_reusable:
                    decoder.kill()
                    await asyncio.wait([work])
                    work.exception()
            finally:
                self._release(decoder, is_reusable=is_reusable)

    def _release(self, decoder: DecoderProcess, *, is_reusable: bool) -> None:
        self._busy.discard(decoder)
        if is_reusable and not self._is_closed:
            self._idle.append(decoder)
        else:
            decoder.close()

    def _take(self) -> DecoderProcess:
        while self._idle:
            decoder = self._idle.pop()
            if decoder.is_alive:
                return decoder
            decoder.close()
        return DecoderProcess(self._command)
