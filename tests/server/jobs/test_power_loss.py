"""The order of what reaches the disk: a file, its name, and only then the row that names it."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from server.media.uploads import UploadStore
from server.store.database import Database
from tests.server.jobs.conftest import Scene

# The statements after which a row names a file.
ROWS = ("INSERT INTO jobs", "UPDATE jobs SET status = 'succeeded'", "UPDATE uploads SET stored = 1")


@pytest.fixture
def reached_disk(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Syncs, renames and rows in their order; all of them happen."""
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
        if statement.startswith(ROWS):
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


async def test_upload_is_on_disk_before_its_row(
    tmp_path: Path, database: Database, reached_disk: list[str]
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"image"

    uploads = UploadStore(
        tmp_path / "uploads", database, keep_s=60, max_bytes_per_owner=100, clock=lambda: 0.0
    )
    await uploads.open()
    ticket = await uploads.create("cat.png", 5, None, "alice")
    upload = await uploads.write(ticket, chunks())

    assert reached_disk[0].startswith(f"sync uploads/{upload.name}.")
    assert reached_disk[1:] == [f"rename to uploads/{upload.name}", "sync uploads", "row"]
