"""Edits on a running server, from submit to image; Ctrl-C cancels them all."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from server.cli.client import Client, EditOptions
from server.cli.console import err
from server.cli.errors import ClientError
from server.job import JobStatus


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that succeeded, and its encoded image."""

    job: dict[str, Any]
    image: bytes


def run_edits(
    client: Client, edits: Sequence[EditOptions], keep: Callable[[int, Finished], None]
) -> list[Finished]:
    """Queue all edits, wait for them in order, and return their results.

    `keep` receives each result with its index as soon as it is there, so that it is saved whatever
    happens to the others. When one cannot be queued, fails or cannot be kept, the others are
    canceled. Raises ClientError, what `keep` raises, and typer.Exit after Ctrl-C.
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
        err.print(f"canceled {_cancel(client, waiting)} of {len(edits)}")
        raise typer.Exit(130) from None
    except BaseException:
        _cancel(client, waiting)
        raise
    return finished


def _follow(client: Client, job_id: str, progress: Progress, bar: TaskID) -> dict[str, Any]:
    """Show the job's progress until it is final. Raises ClientError unless it succeeded."""
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
    """Delay Ctrl-C to the end of the block.

    Otherwise a job whose id has not arrived could not be canceled, and an image would be truncated.
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
    """Cancel the jobs that have not ended, and return how many."""
    canceled = 0
    for job_id in job_ids:
        try:
            status = JobStatus(client.cancel(job_id)["status"])
        except ClientError:  # the server is gone, or has deleted the job
            continue
        # a running job is canceled at its next step
        canceled += status is JobStatus.CANCELED or not status.is_final
    return canceled
