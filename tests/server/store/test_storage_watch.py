"""The watch of the data folder: readiness by the disk, and an end when the database is gone."""

import contextlib
import errno
import shutil
import threading
from pathlib import Path

import pytest

from server import durable_files
from server.readiness import Readiness
from server.store import opening, storage_watch
from server.store.database import connect
from server.store.storage_watch import DatabaseGone, StorageWatch


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
def watch(tmp_path: Path, readiness: Readiness) -> StorageWatch:
    with contextlib.closing(connect(tmp_path / "jobs.sqlite3")) as connection:
        connection.execute("CREATE TABLE jobs (id)")
    return StorageWatch(tmp_path, readiness)


async def test_server_is_not_ready_while_the_disk_refuses_a_file(
    watch: StorageWatch, readiness: Readiness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr(durable_files, "sync", refuse)
        await watch.check()
    reason = readiness.reason
    await watch.check()

    assert reason == "A file cannot be stored: No space left on device. Try again later."
    assert readiness.reason is None
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.sqlite3"]


async def test_server_is_not_ready_while_the_disk_is_slow(
    watch: StorageWatch, readiness: Readiness, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, reasons = threading.Event(), list[str | None]()
    block = readiness.block

    def note(source: str, reason: str) -> None:
        block(source, reason)
        reasons.append(readiness.reason)
        going.set()

    monkeypatch.setattr(storage_watch, "SLOW_S", 0.01)
    monkeypatch.setattr(storage_watch, "probe", lambda folder: going.wait(60))
    monkeypatch.setattr(readiness, "block", note)

    await watch.check()

    assert reasons == ["The storage has not answered for 0.01 s."]
    assert readiness.reason is None


async def test_server_is_not_ready_while_another_program_holds_the_database(
    watch: StorageWatch, readiness: Readiness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PROBE_TIMEOUT_S", 0.01)
    with contextlib.closing(connect(tmp_path / "jobs.sqlite3")) as other:
        other.execute("BEGIN IMMEDIATE")
        await watch.check()
        reason = readiness.reason
        other.execute("ROLLBACK")
        await watch.check()

    assert reason == (
        "The server's database cannot be written: database is locked. Try again later."
    )
    assert readiness.reason is None


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_watch_ends_and_says_why_when_the_database_is_gone(
    watch: StorageWatch, readiness: Readiness, tmp_path: Path, is_replaced: bool
) -> None:
    database = tmp_path / "jobs.sqlite3"
    if is_replaced:
        shutil.copy(database, tmp_path / "copy")
        (tmp_path / "copy").rename(database)
    else:
        database.unlink()

    with pytest.raises(DatabaseGone, match="deleted or replaced"):
        await watch.check()

    assert readiness.reason is not None
    assert "deleted or replaced" in readiness.reason
