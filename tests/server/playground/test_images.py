"""The images in the page's slots."""

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import FetchFailed, InvalidImage, PayloadTooLarge
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground.examples import EXAMPLES
from server.playground.form import SlotImage
from server.playground.images import CACHE_AGE_S, ImageShelf
from server.store.database import Database
from tests.conftest import encoded, gradient


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[ImageShelf]:
    database = Database(tmp_path / "jobs.sqlite3")
    uploads = UploadStore(tmp_path / "uploads", database, keep_s=60, clock=lambda: 0.0)
    await uploads.open()
    fetcher = Fetcher((), offline=True)
    outputs = OutputStore(tmp_path / "outputs")
    cache = tmp_path / "cache"
    yield ImageShelf(uploads, outputs, fetcher, cache, fetch_timeout_s=1, keep_s=0)
    await fetcher.close()
    outputs.close()
    database.close()


def dropped(folder: Path, name: str, data: bytes) -> SlotImage:
    """As the page's uploads lie: in a folder that is named by the content."""
    path = folder / "cache" / hashlib.sha256(data).hexdigest() / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    return SlotImage(str(path), name)


async def test_image_is_stored_once_however_often_it_is_used(
    shelf: ImageShelf, tmp_path: Path
) -> None:
    data = encoded(gradient())

    kept = await shelf.keep(dropped(tmp_path, "cat.png", data), "images/0")
    again = await shelf.keep(dropped(tmp_path, "other.png", data), "images/1")

    stored = shelf.path(f"http://anybody{kept.route}")
    assert kept.route == again.route
    # each by the name that its own sender gave it
    assert (kept.source, again.source) == ("cat.png", "other.png")
    assert stored is not None
    assert stored.read_bytes() == data


async def test_image_is_read_again_only_when_its_file_has_changed(
    shelf: ImageShelf, tmp_path: Path
) -> None:
    image = dropped(tmp_path, "cat.png", encoded(gradient()))
    path = Path(image.path)
    first = await shelf.keep(image, "images/0")
    size, written = path.stat().st_size, path.stat().st_mtime_ns

    # who read it now would say that it is no image
    path.write_bytes(bytes(size))
    os.utime(path, ns=(written, written))
    assert await shelf.keep(image, "images/0") == first

    os.utime(path, ns=(written, written + 1))
    with pytest.raises(InvalidImage, match="not an image"):
        await shelf.keep(image, "images/0")


async def test_image_whose_upload_expired_is_stored_again(
    shelf: ImageShelf, tmp_path: Path
) -> None:
    image = dropped(tmp_path, "cat.png", encoded(gradient()))
    first = await shelf.keep(image, "images/0")
    expired = shelf.path(first.route)
    assert expired is not None
    expired.unlink()

    second = await shelf.keep(image, "images/0")

    assert second.route != first.route
    assert shelf.path(second.route) is not None


async def test_image_that_nobody_has_a_file_of_is_named_by_its_url(
    shelf: ImageShelf, tmp_path: Path
) -> None:
    for name in ("image.png", EXAMPLES[0].files[0]):
        kept = await shelf.keep(dropped(tmp_path, name, encoded(gradient())), "images/0")

        assert kept.source is None


async def test_output_is_used_where_it_lies(shelf: ImageShelf, tmp_path: Path) -> None:
    name, data = "a" * 32 + ".png", encoded(gradient())
    (tmp_path / "outputs" / name).write_bytes(data)

    kept = await shelf.keep(dropped(tmp_path, name, data), "images/0")
    changed = await shelf.keep(dropped(tmp_path, name, encoded(gradient(shift=9))), "images/0")

    assert (kept.route, kept.source) == (f"/outputs/{name}", None)
    # somebody downloaded it, painted on it and dropped it under the same name
    assert changed.route.startswith("/uploads/")


async def test_own_url_is_read_from_disk_offline_too(shelf: ImageShelf, tmp_path: Path) -> None:
    kept = await shelf.keep(dropped(tmp_path, "cat.png", encoded(gradient())), "images/0")

    fetched = await shelf.fetch(f" http://anybody{kept.route} ")

    assert Path(fetched.path).read_bytes() == encoded(gradient())
    assert shelf.route(f"http://anybody{kept.route}") == kept.route
    assert shelf.route("http://anybody/uploads/none.png") is None
    assert (await shelf.keep(fetched, "images/0")).source == f"http://anybody{kept.route}"
    assert (await shelf.keep(dropped(tmp_path, "cat.png", encoded(gradient())), "")).source == (
        "cat.png"
    )


async def test_fetched_image_goes_after_a_day(shelf: ImageShelf, tmp_path: Path) -> None:
    kept = await shelf.keep(dropped(tmp_path, "cat.png", encoded(gradient())), "images/0")
    url = f"http://anybody{kept.route}"
    old, new = Path((await shelf.fetch(url)).path), Path((await shelf.fetch(url)).path)
    a_day_ago = time.time() - CACHE_AGE_S - 1
    os.utime(old, (a_day_ago, a_day_ago))

    await shelf.fetch(url)

    assert (old.exists(), new.exists()) == (False, True)


async def test_refusals_name_their_field(shelf: ImageShelf, tmp_path: Path) -> None:
    broken = dropped(tmp_path, "broken.png", b"nothing")
    large = dropped(tmp_path, "large.png", b"\0" * (20 * 2**20 + 1))
    gone = SlotImage(str(tmp_path / "cache" / "gone.png"), "gone.png")

    for image, error in ((broken, InvalidImage), (large, PayloadTooLarge)):
        with pytest.raises(error) as refused:
            await shelf.keep(image, "images/2")
        assert refused.value.field == "images/2"
    (tmp_path / "not-uploaded.png").write_bytes(encoded(gradient()))
    foreign = [
        SlotImage(str(tmp_path / "not-uploaded.png"), "a.png"),
        SlotImage(str(tmp_path / "cache" / ".." / "not-uploaded.png"), "a.png"),
        SlotImage("\0", "a.png"),
    ]
    for image in (gone, *foreign):
        with pytest.raises(InvalidImage, match="no longer here"):
            await shelf.keep(image, "images/0")
    with pytest.raises(InvalidImage, match="http"):
        await shelf.fetch("cat.png")
    with pytest.raises(FetchFailed, match="offline"):
        await shelf.fetch("https://example.com/cat.png")
