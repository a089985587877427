"""The order of what reaches the disk: a file, its name, and only then the row that names it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.store.database import Database
from tests.server.jobs.conftest import Scene


@pytest.fixture
def reached_disk(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been synced, renamed and written to the database, in order; all of it happens."""
    events: list[str] = []

    def shown(path: str | os.PathLike[str]) -> str:
        return Path(path).relative_to(tmp_path).as_posix()

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        real(descriptor)
        events.append(f"sync {shown(os.readlink(f'/proc/self/fd/{descriptor}'))}")

    def replace(old: Path, new: Path, real: Callable[[Path, Path], None] = os.replace) -> None:
        real(old, new)
        events.append(f"rename to {shown(new)}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)

    def note_row(statement: str) -> None:
        if statement.startswith(("INSERT INTO jobs", "UPDATE jobs SET status = 'succeeded'")):
            events.append("row")

    database._write_connection.set_trace_callback(note_row)
    return events


async def test_image_of_a_submit_is_on_disk_before_its_row(
    scene: Scene, reached_disk: list[str]
) -> None:
    job = await scene.submit()

    assert reached_disk == [
        f"sync inputs/{job.id}/0.png",
        f"sync inputs/{job.id}",
        "sync inputs",
        "row",
    ]


async def test_output_is_on_disk_before_the_end_of_its_job(
    scene: Scene, reached_disk: list[str]
) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        reached_disk.clear()
        run.image()
        run.done()
        ended = await scene.ended(job)

    [output] = ended.outputs
    assert reached_disk == [
        f"sync outputs/{output.name}.part",
        f"rename to outputs/{output.name}",
        "sync outputs",
        "row",
    ]
