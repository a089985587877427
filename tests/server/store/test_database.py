"""Stored data survives exceptions, other servers and kill -9."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from server.errors import StorageFull
from server.metrics import Metrics
from server.store.database import Database, DataFolderInUse, DataFolderLock, connect, transaction
from tests.fake_time import FakeTime
from tests.server.jobs.unwritable import LONG_TEXT, WAYS, unwritable

# Ends a wait that a broken database would make endless; nothing else waits this long.
PATIENCE_S = 10.0
HOLD_LOCK = """
import sys
from pathlib import Path
from server.store.database import DataFolderLock

lock = DataFolderLock(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""
WRITE_FOR_EVER = """
import asyncio, sys
from functools import partial
from pathlib import Path
from pipelines.api.params import EditParams
from server.job import Job, Submission
from server.store import jobs
from server.store.database import Database

async def write_for_ever():
    database = Database(Path(sys.argv[1]))
    await database.write(jobs.create_table)
    while True:
        params = EditParams(prompt="x" * 5000, seed=1)
        job = Job(Submission("native", "edits", params), (None,), 1.0)
        await database.write(partial(jobs.insert, job=job))
        print(job.id, flush=True)

asyncio.run(write_for_ever())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    database = Database(path)
    yield database
    database.close()


def python(code: str, argument: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(argument)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def create(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE words (word TEXT)")


def add(connection: sqlite3.Connection, word: str = "kept") -> None:
    connection.execute("INSERT INTO words VALUES (?)", (word,))


def words(connection: sqlite3.Connection) -> list[str]:
    return [row["word"] for row in connection.execute("SELECT word FROM words")]


def test_second_lock_names_the_process_that_holds_the_folder(tmp_path: Path) -> None:
    with python(HOLD_LOCK, tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"

        with pytest.raises(DataFolderInUse) as caught:
            DataFolderLock(tmp_path)
        first.kill()

    assert str(caught.value) == (
        f"The data folder {tmp_path} is in use by another server (process {first.pid}). Stop it, "
        "or choose another folder with --data-dir."
    )


def test_lock_is_released_when_its_process_is_killed(tmp_path: Path) -> None:
    with python(HOLD_LOCK, tmp_path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        first.kill()

    DataFolderLock(tmp_path).release()


def test_lock_can_be_taken_again_after_its_release(tmp_path: Path) -> None:
    DataFolderLock(tmp_path).release()

    DataFolderLock(tmp_path).release()


def test_lock_creates_its_folder(tmp_path: Path) -> None:
    DataFolderLock(tmp_path / "new" / "data").release()

    assert (tmp_path / "new" / "data").is_dir()


def test_locks_of_two_folders_are_independent(tmp_path: Path) -> None:
    lock = DataFolderLock(tmp_path / "one")

    DataFolderLock(tmp_path / "two").release()
    lock.release()


def test_lock_is_not_inherited_by_a_worker(tmp_path: Path) -> None:
    lock = DataFolderLock(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()

        lock.release()
        DataFolderLock(tmp_path).release()
        child.kill()


async def test_read_sees_the_last_write(database: Database) -> None:
    await database.write(create)
    await database.write(add)

    assert await database.read(words) == ["kept"]


async def test_write_is_rolled_back_when_it_raises(database: Database) -> None:
    def add_and_raise(connection: sqlite3.Connection) -> None:
        add(connection, "half")
        raise RuntimeError("in the middle")

    await database.write(create)
    with pytest.raises(RuntimeError, match="in the middle"):
        await database.write(add_and_raise)

    assert await database.read(words) == []


async def test_write_succeeds_after_one_that_raised(database: Database) -> None:
    await database.write(create)
    with pytest.raises(sqlite3.OperationalError):
        await database.write(lambda connection: connection.execute("no SQL"))

    await database.write(add)

    assert await database.read(words) == ["kept"]


async def test_write_succeeds_after_one_whose_commit_failed(database: Database) -> None:
    def create_family(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE children (parent REFERENCES parents DEFERRABLE INITIALLY DEFERRED)"
        )

    await database.write(create_family)
    await database.write(create)
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(
            lambda connection: connection.execute("INSERT INTO children VALUES (1)")
        )

    await database.write(add)

    assert await database.read(words) == ["kept"]


@pytest.mark.parametrize("way", WAYS)
async def test_write_to_an_unwritable_database_is_refused_and_changes_nothing(
    database: Database, path: Path, way: str
) -> None:
    await database.write(create)
    async with unwritable(database, path, way):
        with pytest.raises(StorageFull, match="cannot be written: "):
            await database.write(partial(add, word=LONG_TEXT))

    assert await database.read(words) == []


@pytest.mark.parametrize("way", WAYS)
async def test_persist_waits_longer_each_time_until_the_write_succeeds(
    path: Path, way: str
) -> None:
    time = FakeTime()
    database = Database(path, sleep=time.sleep)
    await database.write(create)
    async with asyncio.timeout(PATIENCE_S):
        async with unwritable(database, path, way):
            writing = asyncio.create_task(database.persist(partial(add, word=LONG_TEXT)))
            for delay_s in (0.5, 1, 2, 4, 8, 10):
                await time.pass_by(delay_s)
            await time.pass_by(0)
            failure = database.failure
        await time.pass_by(10)
        await writing

    assert failure is not None
    assert database.failure is None
    assert await database.read(words) == [LONG_TEXT]
    database.close()


class SlowWrite:
    """A write that holds its transaction open until it is released."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = threading.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self, connection: sqlite3.Connection) -> None:
        add(connection, "slow")
        self._loop.call_soon_threadsafe(self.begun.set)
        self.go_on.wait(PATIENCE_S)


async def test_queued_write_is_kept_when_its_caller_is_cancelled(
    database: Database,
) -> None:
    await database.write(create)
    slow = SlowWrite()
    ahead = asyncio.create_task(database.write(slow))
    await slow.begun.wait()
    writing = asyncio.create_task(database.write(add))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    slow.go_on.set()
    await ahead
    await database.write(lambda _: None)

    assert await database.read(words) == ["slow", "kept"]


async def test_read_does_not_wait_for_a_write(database: Database) -> None:
    await database.write(create)
    slow = SlowWrite()
    writing = asyncio.create_task(database.write(slow))
    await slow.begun.wait()

    found = await database.read(words)
    still_writing = not writing.done()
    slow.go_on.set()
    await writing

    assert found == []
    assert still_writing


async def test_writes_survive_closing(path: Path) -> None:
    first = Database(path)
    await first.write(create)
    await first.write(add)
    first.close()

    second = Database(path)
    found = await second.read(words)
    second.close()

    assert found == ["kept"]


def test_transaction_is_rolled_back_when_it_is_interrupted(path: Path) -> None:
    connection = connect(path)
    create(connection)

    def add_until_interrupted() -> None:
        with transaction(connection):
            add(connection)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_until_interrupted()

    assert words(connection) == []
    connection.close()


@pytest.mark.parametrize(("pragma", "expected"), [("journal_mode", "wal"), ("synchronous", 2)])
def test_every_commit_is_on_disk(path: Path, pragma: str, expected: object) -> None:
    connection = connect(path)

    assert connection.execute(f"PRAGMA {pragma}").fetchone()[0] == expected
    connection.close()


def test_kill_9_loses_no_committed_write(path: Path) -> None:
    with python(WRITE_FOR_EVER, path) as writer:
        assert writer.stdout is not None
        printed = [writer.stdout.readline().strip() for _ in range(50)]
        writer.kill()
        # The last line may be truncated: such an id was never reported.
        printed += [line.strip() for line in writer.stdout if line.endswith("\n")]

    connection = connect(path)
    kept = {row["id"] for row in connection.execute("SELECT id FROM jobs")}
    (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    assert integrity == "ok"
    assert set(printed) <= kept
    assert len(kept) - len(printed) <= 1


async def test_refused_writes_are_counted(path: Path) -> None:
    metrics = Metrics()
    database = Database(path, metrics=metrics)
    await database.write(create)
    async with unwritable(database, path, WAYS[0]):
        with pytest.raises(StorageFull):
            await database.write(add)
    await database.write(add)
    database.close()

    assert b"qwen_edit_storage_failures_total 1.0" in metrics.render()
