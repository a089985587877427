"""Downloads of LoRAs from a hub: bounded in size and time, canceled and resumed."""

import asyncio
import hashlib
from collections.abc import Coroutine, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipelines.api.errors import LoraInvalid
from pipelines.files.catalog import HubLora
from server.errors import FetchFailed, PayloadTooLarge
from server.loras.hub_lora import download
from server.loras.hub_repository import HubFile
from tests.fake_hub import FakeHub, fake_hub
from tests.live_server import until
from tests.lora_files import write_raw
from tests.server.loras.conftest import make_library

MIB = 2**20
LARGE = HubLora("owner/large", "large.safetensors")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A safetensors file whose MiB all differ."""
    size = 25 * MIB
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    data = bytes(number % 251 for number in range(size // MIB)) * MIB
    return write_raw(tmp_path_factory.mktemp("large") / "x", header, data).read_bytes()


@pytest.fixture
def hub(large: bytes, monkeypatch: pytest.MonkeyPatch, hub_cache: Path) -> Iterator[FakeHub]:
    """The hub and an empty cache for the library in this process."""
    with fake_hub({"owner/large": {"large.safetensors": large}}) as running:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield running


def fetch(
    folder: Path, *, lora: HubLora = LARGE, field: str = "f", timeout_s: float = 30
) -> Coroutine[None, None, Path]:
    return download(lora, folder, field, max_bytes=2**30, timeout_s=timeout_s)


async def held_download(hub: FakeHub, folder: Path) -> asyncio.Task[Path]:
    """A download of which some MiB are on disk, and the rest is held back."""
    hub.hold_at = 10 * MIB
    task = asyncio.create_task(fetch(folder))
    await asyncio.to_thread(until, lambda: any(size >= 8 * MIB for size in sizes(folder)))
    return task


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.part")]


async def test_fetch_after_a_canceled_one_resumes(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    canceled = await held_download(hub, tmp_path)
    canceled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await canceled
    [received] = sizes(tmp_path)
    hub.hold_at = None
    hub.released.set()

    path = await fetch(tmp_path)

    assert hub.ranges == [f"bytes={received}-"]
    assert path.read_bytes() == large


async def test_canceled_download_ends_at_once_and_keeps_what_was_received(
    hub: FakeHub, tmp_path: Path
) -> None:
    """The hub sends nothing more: only a cancel that waits for no byte ends here in time."""
    canceled = await held_download(hub, tmp_path)
    canceled.cancel()

    async with asyncio.timeout(10):
        await asyncio.wait([canceled])

    assert canceled.cancelled()
    assert not hub.released.is_set()
    # all that the hub had sent, up to what its own buffers and the network hold
    [received] = sizes(tmp_path)
    hub.released.set()
    assert 8 * MIB <= received <= 10 * MIB
    assert sizes(tmp_path) == [received]


async def test_download_that_takes_too_long_fails_with_the_limit(
    hub: FakeHub, tmp_path: Path
) -> None:
    hub.hold_at = MIB
    with pytest.raises(FetchFailed) as caught:
        async with asyncio.timeout(60):
            await fetch(tmp_path, field="loras/0/path", timeout_s=0.5)

    message = "loras/0/path: owner/large/large.safetensors took longer than 0.5 seconds."
    assert str(caught.value) == message
    assert caught.value.field == "loras/0/path"


async def test_download_resumes_by_itself_when_the_connection_breaks(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    hub.break_at = [3 * MIB, 5 * MIB]

    path = await fetch(tmp_path)

    assert hub.ranges == [f"bytes={3 * MIB}-", f"bytes={8 * MIB}-"]
    assert path.read_bytes() == large


async def test_damaged_download_is_discarded(hub: FakeHub, tmp_path: Path, large: bytes) -> None:
    digest = hashlib.sha256(large).hexdigest()
    part = tmp_path / HubFile("large.safetensors", len(large), digest).partial_name
    part.write_bytes(b"other bytes")

    with pytest.raises(FetchFailed, match=r"large\.safetensors was damaged on the way"):
        await fetch(tmp_path)

    assert not part.exists()


@pytest.mark.parametrize("reference", ["owner/large", "owner/large/large.safetensors"])
async def test_file_over_the_size_limit_is_refused_before_its_first_byte(
    hub: FakeHub, tmp_path: Path, reference: str
) -> None:
    library = make_library(tmp_path, max_bytes=MIB)

    with pytest.raises(PayloadTooLarge) as caught:
        await library.fetch(reference, "loras/0/path", None)

    assert str(caught.value) == (
        "loras/0/path: owner/large/large.safetensors has 25 MiB, more than the allowed 1 MiB "
        "(QWEN_EDIT_MAX_LORA_MB)."
    )
    assert not any("/resolve/" in request for request in hub.requests)
    assert not any(path.is_file() for path in (tmp_path / "store").rglob("*"))


async def test_peft_configuration_that_is_not_text_is_refused(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    files = {"adapter_model.safetensors": large, "adapter_config.json": b"\xff"}
    hub.repositories = {"owner/peft": files}

    with pytest.raises(LoraInvalid, match=r"owner/peft/adapter_config\.json is not UTF-8 text"):
        await fetch(tmp_path, lora=HubLora("owner/peft"))


async def test_listing_that_is_none_is_reported(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories = {"owner/large": {"large.safetensors": b""}}
    hub.listing = b"<html>maintenance</html>"

    with pytest.raises(FetchFailed, match="f: owner/large cannot be fetched from http"):
        await fetch(tmp_path)


async def test_oversized_peft_configuration_is_refused(
    hub: FakeHub, tmp_path: Path, large: bytes
) -> None:
    files = {"adapter_model.safetensors": large, "adapter_config.json": bytes(MIB + 1)}
    hub.repositories = {"owner/peft": files}

    with pytest.raises(LoraInvalid, match=r"adapter_config\.json has 1048577 bytes"):
        await fetch(tmp_path, lora=HubLora("owner/peft"))
    assert not any("/resolve/" in request for request in hub.requests)
