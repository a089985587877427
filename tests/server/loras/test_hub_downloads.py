"""LoRAs on their way from a hub: bounded in size and time, canceled, and gone on with."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipelines.api.errors import LoraInvalid
from pipelines.files.catalog import HubLora
from server.errors import FetchFailed, PayloadTooLarge
from server.loras.hub_downloads import HubDownloads
from tests.fake_hub import FakeHub, fake_hub
from tests.live_server import until
from tests.lora_files import write_raw
from tests.server.loras.test_library import make_library

MIB = 2**20
# The hub's library writes so much at a time.
CHUNK_BYTES = 10 * MIB
LARGE = HubLora("owner/large", "large.safetensors")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A safetensors file of three chunks, each of other bytes."""
    size = 25 * MIB
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    data = bytes(number % 251 for number in range(size // MIB)) * MIB
    return write_raw(tmp_path_factory.mktemp("large") / "x", header, data).read_bytes()


@pytest.fixture
def hub(large: bytes, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Iterator[FakeHub]:
    """The hub that the library asks in this process, and a cache with nothing in it."""
    with fake_hub({"owner/large": {"large.safetensors": large}}) as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def downloads(*, max_bytes: int = 2**30, timeout_s: float = 30) -> HubDownloads:
    return HubDownloads(max_bytes=max_bytes, timeout_s=timeout_s)


async def held_download(hub: FakeHub, downloads: HubDownloads, folder: Path) -> asyncio.Task[Path]:
    """A download of which one chunk is on disk, and the second is on its way."""
    hub.hold_at = CHUNK_BYTES + MIB
    task = asyncio.create_task(downloads.fetch(LARGE, folder, "f"))
    await asyncio.to_thread(until, lambda: sizes(folder) == [CHUNK_BYTES])
    return task


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.part")]


def writes(folder: Path) -> bool:
    """Whether a thread still writes into the folder."""
    return any(thread.name == f"hub-{folder.name}" for thread in threading.enumerate())


async def test_next_fetch_waits_for_the_thread_of_a_canceled_one_and_goes_on(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    both = downloads()
    canceled = await held_download(hub, both, tmp_path)
    canceled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await canceled
    asked = len(hub.requests)

    following = asyncio.create_task(both.fetch(LARGE, tmp_path, "f"))
    await asyncio.wait([following], timeout=0.2)
    asked_meanwhile = len(hub.requests) - asked
    hub.hold_at = None
    hub.released.set()
    path = await following

    assert asked_meanwhile == 0
    assert hub.ranges == [f"bytes={CHUNK_BYTES}-"]
    assert path.read_bytes() == large


async def test_canceled_download_writes_no_more_than_what_was_under_way(
    hub: FakeHub, tmp_path: Path
) -> None:
    canceled = await held_download(hub, downloads(), tmp_path)
    canceled.cancel()
    await asyncio.wait([canceled])

    hub.released.set()
    await asyncio.to_thread(until, lambda: not writes(tmp_path))

    assert sizes(tmp_path) == [CHUNK_BYTES]


async def test_download_that_takes_too_long_is_ended_with_a_sentence(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.hold_at = MIB
    with pytest.raises(FetchFailed) as caught:
        async with asyncio.timeout(60):
            await downloads(timeout_s=0.5).fetch(LARGE, tmp_path, "loras/0/path")

    hub.released.set()
    await asyncio.to_thread(until, lambda: not writes(tmp_path))
    sentence = "loras/0/path: owner/large/large.safetensors took longer than 0.5 seconds."
    assert str(caught.value) == sentence
    assert caught.value.field == "loras/0/path"


@pytest.mark.parametrize("reference", ["owner/large", "owner/large/large.safetensors"])
async def test_file_over_the_size_limit_is_refused_before_its_first_byte(
    hub: FakeHub, tmp_path: Path, reference: str
) -> None:
    library = make_library(tmp_path, max_bytes=MIB)

    with pytest.raises(PayloadTooLarge) as caught:
        await library.fetch(reference, "loras/0/path")

    sentence = "loras/0/path: owner/large/large.safetensors has more than the allowed 1 MiB."
    assert str(caught.value) == sentence
    assert not any("/resolve/" in request for request in hub.requests)
    assert not any(path.is_file() for path in (tmp_path / "store").rglob("*"))


async def test_configuration_that_is_too_large_for_one_is_refused(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    files = {"adapter_model.safetensors": large, "adapter_config.json": bytes(MIB + 1)}
    hub.repositories = {"owner/peft": files}

    with pytest.raises(LoraInvalid, match=r"adapter_config\.json has 1048577 bytes"):
        await downloads().fetch(HubLora("owner/peft"), tmp_path, "f")
    assert not any("/resolve/" in request for request in hub.requests)
