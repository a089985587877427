"""LoRAs on their way from the Hugging Face hub, bounded in size and time.

The hub's library blocks and takes no timeout for the whole of a download, so each runs in a thread
that is told to end and not waited for.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import Future
from pathlib import Path

from pipelines.files.catalog import HubLora
from server.errors import FetchFailed
from server.loras import hub_lora as hub
from server.net.daemon_thread import run_in_daemon_thread


class HubDownloads:
    """Downloads from the hub, one at a time into each folder."""

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._running: dict[Path, Future[Path]] = {}

    async def fetch(self, lora: HubLora, folder: Path, field: str) -> Path:
        """Bring the LoRA into `folder`, going on where an earlier try ended.

        Canceled, it leaves what came. Raises FetchFailed, also when it takes longer than
        `timeout_s`, PayloadTooLarge and LoraInvalid.
        """
        stopped = threading.Event()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._end_of_earlier(folder)
                return await asyncio.wrap_future(self._start(lora, folder, field, stopped))
        except TimeoutError as exc:
            raise FetchFailed(
                f"{field}: {hub.shown(lora)} took longer than {self._timeout_s:g} seconds.",
                field=field,
            ) from exc
        finally:
            stopped.set()

    async def _end_of_earlier(self, folder: Path) -> None:
        """Wait for a thread that was told to end: two would append to the same part."""
        while (earlier := self._running.get(folder)) is not None:
            with contextlib.suppress(Exception):  # whoever asked for it was told
                await asyncio.wrap_future(earlier)

    def _start(
        self, lora: HubLora, folder: Path, field: str, stopped: threading.Event
    ) -> Future[Path]:
        def go_on(_: int) -> None:
            if stopped.is_set():
                raise _Stopped

        def work() -> Path:
            return hub.download(lora, folder, field, max_bytes=self._max_bytes, on_bytes=go_on)

        # the end of the process may cut it off: a part is good at any moment
        future = run_in_daemon_thread(work, f"hub-{folder.name}")
        self._running[folder] = future
        future.add_done_callback(lambda _: self._running.pop(folder))
        return future


class _Stopped(Exception):
    """Nobody waits for this download any more, nor hears of this."""
