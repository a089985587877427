"""Finished images: their files, what they say of themselves, and who may name them."""

import errno
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from server import durable_files
from server.errors import StorageFull
from server.job import Output, OutputFormat
from server.media.outputs import OutputStore, encode
from tests.conftest import gradient

FACTS = {"model": "Qwen-Image-Edit-2511", "steps": 40, "prompt": "mach es größer"}
IMAGE = gradient(96, 64)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def store(folder: Path) -> Iterator[OutputStore]:
    store = OutputStore(folder)
    yield store
    store.close()


async def write(
    store: OutputStore, image_format: OutputFormat = OutputFormat.PNG, seed: int = 7
) -> Output:
    return await store.write(IMAGE.tobytes(), IMAGE.size, image_format, seed=seed, facts=FACTS)


def reopened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def facts_in(data: bytes) -> Any:
    image = reopened(data)
    text = image.text["qwen_edit"] if image.format == "PNG" else image.getexif()[0x010E]
    return json.loads(text)


@pytest.mark.parametrize("image_format", OutputFormat)
async def test_output_is_a_file_of_the_requested_format(
    store: OutputStore, folder: Path, image_format: OutputFormat
) -> None:
    output = await write(store, image_format)

    data = (folder / output.name).read_bytes()
    image = reopened(data)
    assert (image.format, image.size) == (image_format.upper(), (96, 64))
    assert output == Output(output.name, f"image/{image_format}", len(data), 96, 64, 7)


async def test_png_keeps_every_pixel(store: OutputStore) -> None:
    data = await store.read(await write(store))

    assert np.array_equal(reopened(data), IMAGE)


@pytest.mark.parametrize("image_format", [OutputFormat.JPEG, OutputFormat.WEBP])
async def test_lossy_output_is_close_to_the_image(
    store: OutputStore, image_format: OutputFormat
) -> None:
    data = await store.read(await write(store, image_format))

    difference = np.asarray(reopened(data), dtype=int) - np.asarray(IMAGE, dtype=int)
    assert np.abs(difference).mean() < 2


def test_jpeg_keeps_the_colours_at_full_resolution() -> None:
    image = reopened(encode(IMAGE, OutputFormat.JPEG, {}))

    # sampling factors 1×1 for each of the three components
    assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("image_format", OutputFormat)
async def test_output_has_its_settings_in_the_metadata(
    store: OutputStore, image_format: OutputFormat
) -> None:
    data = await store.read(await write(store, image_format, seed=11))

    assert facts_in(data) == {**FACTS, "seed": 11}


async def test_name_cannot_be_guessed_and_has_the_formats_suffix(store: OutputStore) -> None:
    names = {(await write(store, OutputFormat.WEBP)).name for _ in range(3)}

    assert len(names) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}\.webp", name) for name in names)


async def test_write_leaves_no_partial_file(store: OutputStore, folder: Path) -> None:
    output = await write(store)

    assert names(folder) == {output.name}


async def test_path_returns_the_file_of_a_name(store: OutputStore, folder: Path) -> None:
    output = await write(store)

    assert store.path(output.name) == folder / output.name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../jobs.sqlite3", "..%2fjobs.sqlite3", "/etc/passwd", "secret.png",
        f"{'0' * 32}.png", f"{'0' * 32}.png\n", f"{'0' * 32}.png.part",
        f"../outputs/{'0' * 32}.png",
    ],
)  # fmt: skip
async def test_path_returns_none_for_any_other_name(
    store: OutputStore, folder: Path, name: str
) -> None:
    await write(store)
    (folder / "secret.png").write_bytes(b"secret")
    (folder.parent / "jobs.sqlite3").write_bytes(b"secret")
    (folder / f"{'0' * 32}.png.part").write_bytes(b"unfinished")

    assert store.path(name) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000/outputs/{}",
        "https://behind.a.proxy/base/outputs/{}",
        "http://host/outputs/{}?download=1#top",
    ],
)
async def test_path_of_url_ignores_the_host(store: OutputStore, url: str) -> None:
    output = await write(store)

    assert store.path_of_url(url.format(output.name)) == store.path(output.name)


@pytest.mark.parametrize(
    "url",
    [
        "http://host/other/{}",
        "http://host/{}",
        "http://host/outputs/{}/more",
        "http://host/outputs/..%2f{}",
        "http://host/?x=/outputs/{}",
        "http://host/outputs/00000000000000000000000000000000.png",
        "http://host",
    ],
)
async def test_path_of_url_returns_none_for_other_urls(store: OutputStore, url: str) -> None:
    output = await write(store)

    assert store.path_of_url(url.format(output.name)) is None


def test_path_of_url_returns_none_for_an_invalid_url(store: OutputStore) -> None:
    assert store.path_of_url("http://[::1/outputs/x.png") is None


async def test_delete_removes_files_and_ignores_missing_ones(
    store: OutputStore, folder: Path
) -> None:
    first, second, third = [await write(store) for _ in range(3)]
    (folder / first.name).unlink()

    await store.delete((first, second))

    assert names(folder) == {third.name}


async def test_sweep_removes_old_files(store: OutputStore, folder: Path) -> None:
    young, old = [await write(store) for _ in range(2)]
    for output, age in ((young, 1000), (old, 100)):
        os.utime(folder / output.name, (age, age))

    store.sweep(older_than=500)

    assert names(folder) == {young.name}


async def test_full_disk_leaves_nothing_of_an_output(
    store: OutputStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(durable_files, "sync", refuse)

    with pytest.raises(StorageFull, match=r"^The output cannot be stored: No space left on device"):
        await write(store)

    assert list(folder.iterdir()) == []


async def test_orphans_are_removed_from_the_time_on_that_a_job_was_cut_off(
    store: OutputStore, folder: Path
) -> None:
    kept, orphan, old = [await write(store, seed=seed) for seed in range(3)]
    (folder / "half.png.part").touch()
    for output, time in ((kept, 20), (orphan, 20), (old, 5)):
        os.utime(folder / output.name, (time, time))

    store.remove_orphans({kept.name}, 10.0)

    assert {path.name for path in folder.iterdir()} == {kept.name, old.name}


async def test_no_output_is_an_orphan_where_no_job_was_cut_off(
    store: OutputStore, folder: Path
) -> None:
    await write(store)

    store.remove_orphans((), None)

    assert len(list(folder.iterdir())) == 1
