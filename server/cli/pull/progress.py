"""Progress of downloads: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
from collections.abc import Callable, Iterator

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

from server.cli.console import err, shown_size

# Without a terminal, one line for each such share of the whole.
LINE_SHARE = 0.1


@contextlib.contextmanager
def byte_progress(
    title: str, total: int | None, console: Console = err
) -> Iterator[Callable[[str, int], None]]:
    """Show progress during the block, which calls the result with a file and its bytes so far."""
    text = TextColumn("{task.description}", markup=False)
    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    sizes: dict[str, int] = {}
    next_line = 0.0

    def update(name: str, size: int) -> None:
        nonlocal next_line
        sizes[name] = size
        done = sum(sizes.values())
        bar.update(task, completed=done)
        if bar.disable and total and done >= next_line * total:
            # the last line comes once, however often the end is reported
            next_line = min(done / total + LINE_SHARE, 1) if done < total else math.inf
            line = f"{title}: {shown_size(done)} of {shown_size(total)}"
            console.print(escape(line), highlight=False, soft_wrap=True)

    with Progress(
        text, *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=total)
        yield update
