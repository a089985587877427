"""LoRAs named by URL or hub ID: each is downloaded once, resumed, validated and evicted."""

import asyncio
import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, LoraInvalid
from pipelines.api.params import LoraRef
from server.errors import FetchFailed, PayloadTooLarge, StorageFull
from server.loras.store import LoraStore
from server.net.download import Download
from server.net.fetch import Fetcher
from tests.far_side import Answer, far_side
from tests.live_server import until
from tests.server.loras.conftest import (
    LOOPBACK,
    Host,
    HostHandler,
    content,
    is_here,
    lora_bytes,
    make_library,
)


async def test_url_is_downloaded_validated_and_found_again(tmp_path: Path, host: Host) -> None:
    host.files["/my%20style.safetensors?download=1"] = lora_bytes(tmp_path)
    reference = f"{host.url}/my%20style.safetensors?download=1"
    library = make_library(tmp_path)

    assert not await is_here(library, reference)
    await library.fetch(reference, "loras/0/path", None)

    assert await is_here(library, reference)
    assert await content(library, reference) == lora_bytes(tmp_path)
    # another server on the same folder, after a restart, finds it too
    assert await is_here(make_library(tmp_path, offline=True), reference)


async def test_concurrent_fetches_download_a_url_once(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = lora_bytes(tmp_path)
    host.access.clear()
    library = make_library(tmp_path)
    fetches = [
        asyncio.create_task(library.fetch(f"{host.url}/a.safetensors", "f", None))
        for _ in range(10)
    ]
    await asyncio.to_thread(until, lambda: host.requests)
    host.access.set()
    await asyncio.gather(*fetches)
    assert len(host.requests) == 1


async def test_slow_host_keeps_two_places_of_an_owner_and_none_of_another(tmp_path: Path) -> None:
    with far_side() as far:
        names = [f"/slow{number}.safetensors" for number in range(4)]
        far.answers = dict.fromkeys(names, Answer(silent=True))
        far.answers["/quick.safetensors"] = Answer(lora_bytes(tmp_path))
        library = make_library(tmp_path)
        slow = [asyncio.create_task(library.fetch(far.url(name), "f", "alice")) for name in names]
        await asyncio.to_thread(until, lambda: len(far.requests) == 2)

        await library.fetch(far.url("/quick.safetensors"), "f", "bob")

        asked = [path for path, _ in far.requests]
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
    # which two of the slow ones come first is the threads' affair
    assert set(asked[:2]) < set(names)
    assert asked[2:] == ["/quick.safetensors"]


async def test_same_content_under_two_urls_is_stored_once(tmp_path: Path, host: Host) -> None:
    data = lora_bytes(tmp_path)
    host.files |= {"/a.safetensors": data, "/b.safetensors": data}
    library = make_library(tmp_path)
    for name in ("a", "b"):
        await library.fetch(f"{host.url}/{name}.safetensors", "f", None)
    [file] = (tmp_path / "store" / "files").iterdir()
    assert file.name == f"{hashlib.sha256(data).hexdigest()}.safetensors"


async def test_broken_download_is_resumed(tmp_path: Path, host: Host) -> None:
    data = lora_bytes(tmp_path, rank=64)
    host.files["/a.safetensors"] = data
    host.break_after = [1000, 2000]
    library = make_library(tmp_path)

    await library.fetch(f"{host.url}/a.safetensors", "f", None)

    assert await content(library, f"{host.url}/a.safetensors") == data
    ranges = [request.get("Range") for request in host.requests]
    assert ranges[0] is None
    assert ranges[-1] == "bytes=3000-"


async def test_full_disk_is_reported_and_the_next_request_resumes(
    tmp_path: Path, host: Host
) -> None:
    """The part is a device that takes no byte, as a disk without room does."""
    url = f"{host.url}/a.safetensors"
    host.files["/a.safetensors"] = lora_bytes(tmp_path)
    library = make_library(tmp_path)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.symlink_to("/dev/full")

    with pytest.raises(StorageFull) as failed:
        await library.fetch(url, "loras/0/path", None)
    part.unlink()
    await library.fetch(url, "loras/0/path", None)

    assert "The download cannot be stored: No space left on device" in str(failed.value)
    assert await content(library, url) == host.files["/a.safetensors"]


async def test_partial_download_of_a_changed_file_starts_over(tmp_path: Path, host: Host) -> None:
    url = f"{host.url}/a.safetensors"
    old, new = lora_bytes(tmp_path, seed=1), lora_bytes(tmp_path, seed=2)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.write_bytes(old[:500])
    part.with_name(part.name + ".etag").write_text(f'"{hashlib.sha256(old).hexdigest()}"')
    host.files["/a.safetensors"] = new

    await make_library(tmp_path).fetch(url, "f", None)

    assert await content(make_library(tmp_path), url) == new


async def test_complete_partial_file_of_a_killed_server_is_fetched_again(
    tmp_path: Path, host: Host
) -> None:
    url = f"{host.url}/a.safetensors"
    data = lora_bytes(tmp_path)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.write_bytes(data)
    part.with_name(part.name + ".etag").write_text(f'"{hashlib.sha256(data).hexdigest()}"')
    host.files["/a.safetensors"] = data

    await make_library(tmp_path).fetch(url, "f", None)
    assert await content(make_library(tmp_path), url) == data


class FakeFetcher(Fetcher):
    """Records downloads and gives each the same file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(LOOPBACK)
        self.data = data
        self.downloads: list[Download] = []

    async def download(self, wanted: Download, *, timeout_s: float, field: str) -> None:
        self.downloads.append(wanted)
        wanted.partial.write_bytes(self.data)


@pytest.mark.parametrize(
    ("address", "is_sent"),
    [
        ("https://models.example", True),
        ("https://models.example:443", True),
        ("HTTPS://Models.Example", True),
        ("http://models.example", False),
        ("http://models.example:443", False),
        ("https://models.example:8443", False),
        ("https://cdn.models.example", False),
        ("https://models.example.evil", False),
        ("https://models.example@evil.example", False),
        ("https://models.example.", False),
    ],
)
async def test_token_goes_only_over_https_to_its_host_on_port_443(
    tmp_path: Path, address: str, is_sent: bool
) -> None:
    fetcher = FakeFetcher(lora_bytes(tmp_path))
    library = make_library(tmp_path, tokens={"models.example": "secret"}, fetcher=fetcher)

    await library.fetch(f"{address}/a.safetensors", "f", None)
    await fetcher.close()

    expected = {"Authorization": "Bearer secret"} if is_sent else {}
    assert [dict(download.headers) for download in fetcher.downloads] == [expected]


async def test_token_is_dropped_at_a_redirect_to_another_host_or_port(
    tmp_path: Path, host: Host
) -> None:
    data = lora_bytes(tmp_path)
    second = http.server.ThreadingHTTPServer(("0.0.0.0", 0), HostHandler)
    second.files = {"/signed": data}  # type: ignore[attr-defined]
    second.requests, second.redirects, second.break_after = [], {}, []  # type: ignore[attr-defined]
    second.access = host.access  # type: ignore[attr-defined]
    threading.Thread(target=second.serve_forever, daemon=True).start()
    other = f"http://127.0.0.2:{second.server_port}"
    host.redirects["/api/download/models/7"] = f"{other}/signed"
    third = f"http://127.0.0.1:{second.server_port}"
    host.redirects["/other-port"] = f"{third}/signed"
    fetcher = Fetcher(LOOPBACK)
    headers = {"Authorization": "Bearer secret"}

    for path in ("/api/download/models/7", "/other-port"):
        wanted = Download(host.url + path, tmp_path / "part", len(data), headers)
        await fetcher.download(wanted, timeout_s=20, field="f")
    await fetcher.close()
    second.shutdown()
    second.server_close()

    assert [request["Authorization"] for request in host.requests] == ["Bearer secret"] * 2
    received = second.requests  # type: ignore[attr-defined]
    assert [request["path"] for request in received] == ["/signed"] * 2
    assert all("Authorization" not in request for request in received)


async def test_invalid_lora_is_refused_and_not_kept(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = b"version https://git-lfs.github.com/spec/v1"
    library = make_library(tmp_path)
    with pytest.raises(LoraInvalid, match=r"loras/0/path: what http://.* like a Git LFS pointer"):
        await library.fetch(f"{host.url}/a.safetensors", "loras/0/path", None)
    assert not list((tmp_path / "store" / "files").iterdir())
    assert not await is_here(library, f"{host.url}/a.safetensors")


async def test_lora_over_the_size_limit_is_refused(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = lora_bytes(tmp_path, rank=64)
    with pytest.raises(PayloadTooLarge, match="more than the allowed"):
        await make_library(tmp_path, max_bytes=2000).fetch(f"{host.url}/a.safetensors", "f", None)
    assert list((tmp_path / "store" / "parts").iterdir()) == []


async def test_malformed_url_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    with pytest.raises(InvalidParameter, match=r"must be a valid URL, got 'http://\[::1'"):
        await library.find(LoraRef("http://[::1"), "f")
    with pytest.raises(InvalidParameter, match=r"must be a valid URL, got 'http://\[::1'"):
        await library.fetch("http://[::1", "f", None)


async def test_missing_url_is_reported(tmp_path: Path, host: Host) -> None:
    with pytest.raises(FetchFailed, match=r"f: http://.*/nothing answered 404"):
        await make_library(tmp_path).fetch(f"{host.url}/nothing", "f", None)


@pytest.mark.parametrize(
    "reference", ["https://example.org/a.safetensors", "owner/repo", "owner/repo/a.safetensors"]
)
async def test_offline_server_refuses_a_lora_that_it_would_have_to_fetch(
    tmp_path: Path, reference: str
) -> None:
    with pytest.raises(FetchFailed, match="runs offline and fetches nothing"):
        await is_here(make_library(tmp_path, offline=True), reference)


async def test_full_store_evicts_the_oldest_files_that_no_job_needs(
    tmp_path: Path, host: Host
) -> None:
    urls = []
    for seed in range(3):
        host.files[f"/{seed}.safetensors"] = lora_bytes(tmp_path, seed=seed)
        urls.append(f"{host.url}/{seed}.safetensors")
    size = len(lora_bytes(tmp_path))
    bound = round(2.5 * size)

    library = make_library(tmp_path, store_bytes=bound, in_use=frozenset({urls[0]}))
    for url in urls:
        await library.fetch(url, "f", None)

    assert [await is_here(library, url) for url in urls] == [True, False, True]
