"""Edits in the queue of a running server, followed to their end; Ctrl-C cancels them all."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from server.cli.client import Client, ClientError, EditOptions
from server.cli.console import err
from server.job import JobStatus


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that succeeded, and its image as a file."""

    job: dict[str, Any]
    image: bytes


def run_edits(
    client: Client, edits: Sequence[EditOptions], keep: Callable[[int, Finished], None]
) -> list[Finished]:
    """Queue all edits, wait for them in their order, and give what they made.

    `keep` gets each one with its place as soon as it is made, so that it outlives what happens to
    the others. When one cannot be queued, fails or cannot be kept, the others are canceled. Raises
    ClientError, what `keep` raises, and typer.Exit after Ctrl-C.
    """
    waiting: list[str] = []
    finished: list[Finished] = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    try:
        with Progress(*columns, Elapsed(), console=err, transient=True) as progress:
            cells = progress.add_task("edits", total=len(edits), visible=len(edits) > 1)
            bar = progress.add_task("queued", total=None)
            for edit in edits:
                with _interrupt_later():
                    waiting.append(client.submit(edit)["id"])
            for index, job_id in enumerate(list(waiting)):
                job = _follow(client, job_id, progress, bar)
                waiting.remove(job_id)
                finished.append(Finished(job, client.download(job["outputs"][0]["url"])))
                with _interrupt_later():
                    keep(index, finished[-1])
                progress.advance(cells)
    except KeyboardInterrupt:
        canceled = _cancel(client, waiting)
        err.print("canceled" if len(edits) == 1 else f"canceled {canceled} of {len(edits)}")
        raise typer.Exit(130) from None
    except BaseException:
        _cancel(client, waiting)
        raise
    return finished


def _follow(client: Client, job_id: str, progress: Progress, bar: TaskID) -> dict[str, Any]:
    """Show the job's steps until it is final. Raises ClientError unless it succeeded."""
    job: dict[str, Any] = {}
    for job in client.follow(job_id):
        words = job["stage"] or job["status"]
        if job["position"]:
            words = f"{job['position']} ahead"
        progress.update(bar, description=words, completed=job["step"] or 0, total=job["steps"])
    if job.get("status") != "succeeded":
        error = job.get("error")
        raise ClientError(error["message"] if error else f"the edit was {job.get('status')}")
    return job


@contextlib.contextmanager
def _interrupt_later() -> Iterator[None]:
    """Ctrl-C counts at the end of the block.

    A job whose id has not come could not be canceled, and an image would be cut off in its file.
    """
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt


def _cancel(client: Client, job_ids: Sequence[str]) -> int:
    """Cancel those that have not ended, and give how many.

    They are looked at first: what cancels a job erases one that has ended, and with it why it
    failed.
    """
    canceled = 0
    for job_id in job_ids:
        try:
            if not JobStatus(client.job(job_id)["status"]).is_final:
                client.delete(job_id)
                canceled += 1
        except ClientError:  # the server is gone, or deleted it itself
            continue
    return canceled
