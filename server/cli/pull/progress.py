"""How far a download is: a bar on a terminal, plain lines elsewhere."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from server.cli.console import shown_size

# Without a terminal, a line each time so much more of the whole has come.
LINE_SHARE = 0.1


class Stopped(Exception):
    """Another file failed; this one is left where it is."""


class ByteProgress:
    """Counts bytes of a download with several threads. Use it in a `with` block.

    `total` is None where nobody says how much will come.
    """

    def __init__(self, title: str, total: int | None, console: Console) -> None:
        self._title = title
        self._total = total
        self._console = console
        self._bar: Progress | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            text = TextColumn("{task.description}", markup=False)
            columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
            self._bar = Progress(text, *columns, console=self._console, transient=True)
            self._bar.add_task(self._title, total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, count: int) -> None:
        """So many bytes more have come. Raises Stopped after `stop`."""
        if self._stopped.is_set():
            raise Stopped
        with self._lock:
            self._done += count
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self._done)
            elif self._total and self._done >= self._next_line * self._total:
                self._next_line = self._done / self._total + LINE_SHARE
                shown = f"{shown_size(self._done)} of {shown_size(self._total)}"
                self._console.print(escape(f"{self._title}: {shown}"), highlight=False)

    def stop(self) -> None:
        """Have the other threads end."""
        self._stopped.set()
