"""The store of uploads, with a time of its own: what is taken, what is kept, and for how long."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import InvalidRequest, NotFound, PayloadTooLarge, StorageFull
from server.media.uploads import TICKET_S, UploadStore
from server.store.database import Database

KEEP_S = 24 * 3600.0
MAX_BYTES = 40 * 2**20
DATA = b"0123456789"


class FakeClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
async def store(tmp_path: Path, folder: Path, clock: FakeClock) -> AsyncIterator[UploadStore]:
    database = Database(tmp_path / "jobs.sqlite3")
    store = UploadStore(folder, database, keep_s=KEEP_S, max_bytes_per_owner=MAX_BYTES, clock=clock)
    await store.open()
    yield store
    database.close()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def stored(store: UploadStore, data: bytes = DATA) -> str:
    upload = await store.create("cat.png", len(data), None, "alice")
    return (await store.write(upload, chunks(data))).name


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize(
    ("filename", "content_type", "extension", "expected_type"),
    [
        ("cat.png", None, "png", "image/png"),
        ("CAT.JPG", "image/jpeg", "jpg", "image/jpeg"),
        ("cat", "image/webp", "webp", "image/webp"),
        ("cat", "image/x-new", "png", "image/x-new"),
        ("cat", None, "png", "application/octet-stream"),
        ("../../etc/passwd", None, "png", "application/octet-stream"),
        ("film.mp4", "video/mp4", "bin", "video/mp4"),
        ("page.html", None, "bin", "application/octet-stream"),
    ],
)
async def test_name_is_unguessable_and_ends_like_the_file(
    store: UploadStore, filename: str, content_type: str | None, extension: str, expected_type: str
) -> None:
    upload = await store.create(filename, 10, content_type, "alice")
    stem, _, found = upload.name.partition(".")
    assert (len(stem), found) == (32, extension)
    assert upload.content_type == expected_type
    assert len({(await store.create(filename, 10, None, "alice")).name for _ in range(3)}) == 3


async def test_file_is_there_once_all_of_it_has_come(store: UploadStore, folder: Path) -> None:
    upload = await store.create("cat.png", len(DATA), None, "alice")
    assert store.path(upload.name) is None
    await store.write(upload, chunks(DATA[:3], DATA[3:]))
    path = store.path(upload.name)
    assert path is not None
    assert path.read_bytes() == DATA
    assert names(folder) == [upload.name]


@pytest.mark.parametrize("parts", [(), (DATA[:-1],), (DATA, b"x"), (DATA + b"x",)])
async def test_file_of_another_size_leaves_nothing(
    store: UploadStore, folder: Path, parts: tuple[bytes, ...]
) -> None:
    upload = await store.create("cat.png", len(DATA), None, "alice")
    with pytest.raises(InvalidRequest, match="for a file of 10 bytes"):
        await store.write(upload, chunks(*parts))
    assert names(folder) == []


async def test_client_that_breaks_off_leaves_nothing(store: UploadStore, folder: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield DATA[:3]
        raise ConnectionError

    upload = await store.create("cat.png", len(DATA), None, "alice")
    with pytest.raises(ConnectionError):
        await store.write(upload, broken())
    assert names(folder) == []


async def test_file_over_the_limit_gets_no_ticket(store: UploadStore) -> None:
    await store.create("cat.png", 20 * 2**20, None, "alice")
    with pytest.raises(PayloadTooLarge, match="at most 20 MiB"):
        await store.create("cat.png", 20 * 2**20 + 1, None, "alice")


async def test_ticket_is_good_for_an_hour(store: UploadStore, clock: FakeClock) -> None:
    upload = await store.create("cat.png", 10, None, "alice")
    clock.now += TICKET_S - 1
    assert await store.ticket(upload.token) == upload
    clock.now += 1
    with pytest.raises(NotFound, match="request another one"):
        await store.ticket(upload.token)
    with pytest.raises(NotFound):
        await store.write(upload, chunks(DATA))


async def test_file_is_kept_a_day_and_then_goes_from_disk(
    store: UploadStore, folder: Path, clock: FakeClock
) -> None:
    first = await stored(store)
    clock.now += 60
    second = await stored(store)

    clock.now = 1000.0 + KEEP_S - 1
    assert await store.expire() == 0
    assert sorted(names(folder)) == sorted([first, second])

    clock.now += 1
    assert await store.expire() == 1
    assert names(folder) == [second]
    assert store.path(first) is None


async def test_file_is_kept_as_long_as_whoever_writes_it_needs_it(
    store: UploadStore, clock: FakeClock
) -> None:
    tickets = [await store.create("cat.png", len(DATA), None, "alice") for _ in range(2)]
    for ticket, keep_s in zip(tickets, (KEEP_S / 2, KEEP_S * 2), strict=True):
        await store.write(ticket, chunks(DATA), keep_s=keep_s)

    clock.now += KEEP_S
    assert await store.expire() == 1
    clock.now += KEEP_S
    assert await store.expire() == 1


async def test_ticket_that_nobody_used_is_forgotten(store: UploadStore, clock: FakeClock) -> None:
    await store.create("cat.png", 10, None, "alice")
    clock.now += TICKET_S
    assert await store.expire() == 1
    assert await store.expire() == 0


async def test_what_a_killed_server_left_half_written_goes(
    store: UploadStore, folder: Path
) -> None:
    name = await stored(store)
    (folder / f"{name}.0a1b2c3d.part").write_bytes(b"half")
    await store.open()
    assert names(folder) == [name]


@pytest.mark.parametrize("name", ["../jobs.sqlite3", "a.png", "0" * 32, "", f"{'0' * 32}.png.part"])
async def test_other_names_name_no_file(store: UploadStore, name: str) -> None:
    assert store.path(name) is None


async def test_own_url_names_its_file_under_any_host(store: UploadStore) -> None:
    name = await stored(store)
    for url in (
        f"http://127.0.0.1:8000/uploads/{name}",
        f"https://edit.example.org/base/uploads/{name}?x=1",
    ):
        assert store.path_of_url(url) == store.path(name)
    assert store.path_of_url(f"http://127.0.0.1:8000/other/{name}") is None
    assert store.path_of_url("http://[") is None


async def test_owner_has_room_for_its_uploads_only(store: UploadStore, clock: FakeClock) -> None:
    half = MAX_BYTES // 2
    for _ in range(2):
        await store.create("cat.png", half, None, "alice")

    with pytest.raises(StorageFull, match="QWEN_EDIT_MAX_UPLOAD_GB_PER_KEY"):
        await store.create("cat.png", 1, None, "alice")
    await store.create("cat.png", half, None, "bob")

    # tickets that were never used take no room
    clock.now += TICKET_S
    await store.create("cat.png", half, None, "alice")
