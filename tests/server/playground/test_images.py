"""The store of the page's images."""

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.errors import FetchFailed, InvalidImage, PayloadTooLarge
from server.media.decoder_pool import DecoderPool
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground.examples import EXAMPLES
from server.playground.form import SlotImage
from server.playground.images import CACHE_AGE_S, ImageStore
from server.store.database import Database
from tests.conftest import encoded, gradient


@pytest.fixture
async def store(tmp_path: Path, decoders: DecoderPool) -> AsyncIterator[ImageStore]:
    database = Database(tmp_path / "jobs.sqlite3")
    uploads = UploadStore(
        tmp_path / "uploads", database, keep_s=60, max_bytes_per_owner=2**30, clock=lambda: 0.0
    )
    await uploads.open()
    fetcher = Fetcher((), offline=True)
    outputs = OutputStore(tmp_path / "outputs")
    cache = tmp_path / "cache"
    yield ImageStore(uploads, outputs, fetcher, decoders, cache, fetch_timeout_s=1, keep_s=0)
    await fetcher.close()
    outputs.close()
    database.close()


def dropped(folder: Path, name: str, data: bytes) -> SlotImage:
    """An upload as Gradio saves it, in a folder named by the content hash."""
    path = folder / "cache" / hashlib.sha256(data).hexdigest() / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    return SlotImage(str(path), name)


async def test_store_keeps_one_copy_of_the_same_content(store: ImageStore, tmp_path: Path) -> None:
    data = encoded(gradient())

    kept = await store.store(dropped(tmp_path, "cat.png", data), "images/0", "alice")
    again = await store.store(dropped(tmp_path, "other.png", data), "images/1", "alice")

    stored = store.path(f"http://any-host{kept.route}")
    assert kept.route == again.route
    # each user gets back the name of their own file
    assert (kept.source, again.source) == ("cat.png", "other.png")
    assert stored is not None
    assert stored.read_bytes() == data


async def test_store_reads_a_file_again_only_when_it_has_changed(
    store: ImageStore, tmp_path: Path
) -> None:
    image = dropped(tmp_path, "cat.png", encoded(gradient()))
    path = Path(image.path)
    first = await store.store(image, "images/0", "alice")
    size, written = path.stat().st_size, path.stat().st_mtime_ns

    # reading this would fail
    path.write_bytes(bytes(size))
    os.utime(path, ns=(written, written))
    assert await store.store(image, "images/0", "alice") == first

    os.utime(path, ns=(written, written + 1))
    with pytest.raises(InvalidImage, match="not an image"):
        await store.store(image, "images/0", "alice")


async def test_store_uploads_an_image_again_when_its_upload_has_expired(
    store: ImageStore, tmp_path: Path
) -> None:
    image = dropped(tmp_path, "cat.png", encoded(gradient()))
    first = await store.store(image, "images/0", "alice")
    expired = store.path(first.route)
    assert expired is not None
    expired.unlink()

    second = await store.store(image, "images/0", "alice")

    assert second.route != first.route
    assert store.path(second.route) is not None


async def test_store_gives_no_file_name_to_an_image_from_no_file(
    store: ImageStore, tmp_path: Path
) -> None:
    for name in ("image.png", EXAMPLES[0].files[0]):
        kept = await store.store(dropped(tmp_path, name, encoded(gradient())), "images/0", "alice")

        assert kept.source is None


async def test_store_reuses_an_output_unless_its_content_differs(
    store: ImageStore, tmp_path: Path
) -> None:
    name, data = "a" * 32 + ".png", encoded(gradient())
    (tmp_path / "outputs" / name).write_bytes(data)

    kept = await store.store(dropped(tmp_path, name, data), "images/0", "alice")
    changed = await store.store(
        dropped(tmp_path, name, encoded(gradient(shift=9))), "images/0", "alice"
    )

    assert (kept.route, kept.source) == (f"/outputs/{name}", None)
    # downloaded, changed, and dropped under the same name
    assert changed.route.startswith("/uploads/")


async def test_fetch_reads_an_own_url_from_disk_when_offline(
    store: ImageStore, tmp_path: Path
) -> None:
    kept = await store.store(dropped(tmp_path, "cat.png", encoded(gradient())), "images/0", "alice")

    fetched = await store.fetch(f" http://any-host{kept.route} ")

    assert Path(fetched.path).read_bytes() == encoded(gradient())
    assert store.route(f"http://any-host{kept.route}") == kept.route
    assert store.route("http://any-host/uploads/none.png") is None
    again = await store.store(fetched, "images/0", "alice")
    assert again.source == f"http://any-host{kept.route}"
    dropped_again = dropped(tmp_path, "cat.png", encoded(gradient()))
    assert (await store.store(dropped_again, "", "alice")).source == "cat.png"


async def test_fetch_deletes_fetched_images_after_a_day(store: ImageStore, tmp_path: Path) -> None:
    kept = await store.store(dropped(tmp_path, "cat.png", encoded(gradient())), "images/0", "alice")
    url = f"http://any-host{kept.route}"
    old, new = Path((await store.fetch(url)).path), Path((await store.fetch(url)).path)
    a_day_ago = time.time() - CACHE_AGE_S - 1
    os.utime(old, (a_day_ago, a_day_ago))

    await store.fetch(url)

    assert (old.exists(), new.exists()) == (False, True)


async def test_store_names_the_field_when_it_refuses_an_image(
    store: ImageStore, tmp_path: Path
) -> None:
    broken = dropped(tmp_path, "broken.png", b"nothing")
    large = dropped(tmp_path, "large.png", b"\0" * (20 * 2**20 + 1))
    gone = SlotImage(str(tmp_path / "cache" / "gone.png"), "gone.png")

    for image, error in ((broken, InvalidImage), (large, PayloadTooLarge)):
        with pytest.raises(error) as refused:
            await store.store(image, "images/2", "alice")
        assert refused.value.field == "images/2"
    (tmp_path / "not-uploaded.png").write_bytes(encoded(gradient()))
    foreign = [
        SlotImage(str(tmp_path / "not-uploaded.png"), "a.png"),
        SlotImage(str(tmp_path / "cache" / ".." / "not-uploaded.png"), "a.png"),
        SlotImage("\0", "a.png"),
    ]
    for image in (gone, *foreign):
        with pytest.raises(InvalidImage, match="no longer available"):
            await store.store(image, "images/0", "alice")
    with pytest.raises(InvalidImage, match="http"):
        await store.fetch("cat.png")
    with pytest.raises(FetchFailed, match="offline"):
        await store.fetch("https://example.com/cat.png")
