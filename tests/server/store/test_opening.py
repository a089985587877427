"""The start on a damaged database, a newer one, and a folder that cannot be written."""

import errno
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from server import durable_files
from server.store import jobs
from server.store.database import connect, transaction
from server.store.opening import StorageUnusable, wait_for_storage
from tests.make_job import make_job


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10_000])


def zero_the_middle(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + bytes(8192) + data[middle + 8192 :])


def fill_with_garbage(path: Path) -> None:
    path.write_bytes(b"no database " * 2000)


def make_newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with some jobs."""
    path = tmp_path / "jobs.sqlite3"
    connection = connect(path)
    with transaction(connection):
        jobs.create_table(connection)
        for _ in range(100):
            jobs.insert(connection, make_job())
    connection.close()
    return path


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (truncate, "is damaged: "),
        (zero_the_middle, "is damaged: "),
        (fill_with_garbage, "is damaged: file is not a database"),
        (make_newer, "was written by a newer version of qwen-edit-server"),
    ],
)
def test_unusable_database_is_named_and_left_as_it_is(
    path: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(path)
    before = path.read_bytes()

    with pytest.raises(StorageUnusable) as caught:
        wait_for_storage(path.parent, sleep=never)

    assert str(caught.value).startswith(f"The database {path} {what}")
    assert f"move jobs.sqlite3, jobs.sqlite3-wal and jobs.sqlite3-shm out of {path.parent}" in str(
        caught.value
    )
    assert path.read_bytes() == before


def test_sound_database_and_an_empty_folder_pass(path: Path, tmp_path: Path) -> None:
    wait_for_storage(path.parent, sleep=never)
    (tmp_path / "new").mkdir()
    wait_for_storage(tmp_path / "new", sleep=never)

    assert list((tmp_path / "new").iterdir()) == []


def test_start_waits_for_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(durable_files, "sync", partial(refuse, errno.ENOSPC))
        waited: list[float] = []

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                full.undo()

        wait_for_storage(path.parent, sleep=sleep)

    assert waited == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written_ends_the_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(durable_files, "sync", partial(refuse, code))

    with pytest.raises(StorageUnusable, match=f"^The data folder {path.parent} cannot be written"):
        wait_for_storage(path.parent, sleep=never)


def never(seconds: float) -> None:
    """Fail instead of waiting for what does not end by itself."""
    pytest.fail(f"the start waits {seconds} s")


def refuse(code: int, path: Path) -> None:
    raise OSError(code, "refused", str(path))
