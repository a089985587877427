"""LoRAs from anywhere, each fetched once: over real hosts on loopback."""

import asyncio
import hashlib
import http.server
import ipaddress
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, LoraInvalid, LoraNotFound
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.catalog import Catalog
from pipelines.files.installation import SHIPPED_WEIGHTS
from server.errors import FetchFailed, InvalidRequest, PayloadTooLarge
from server.loras.library import LoraLibrary
from server.loras.store import LoraStore
from server.net.fetch import Fetcher
from tests.live_server import until
from tests.lora_files import random_pairs, write_lora

LINEARS = QWEN_IMAGE_EDIT_PLUS.linears(
    {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32}
)
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


class Host(http.server.ThreadingHTTPServer):
    """Serves `files` by path, with ranges; records requests; may break off after some bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HostHandler)
        self.files: dict[str, bytes] = {}
        self.requests: list[Mapping[str, str]] = []
        self.break_after: list[int] = []
        self.redirects: dict[str, str] = {}
        self.access = threading.Event()
        self.access.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HostHandler(http.server.BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.requests.append({"path": self.path, **self.headers})
        self.server.access.wait(20)
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.end_headers()
            return
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        if self.headers.get("If-Range") == etag:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + self.server.break_after.pop(0) if self.server.break_after else len(data)
        self.wfile.write(data[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield host
    host.shutdown()
    host.server_close()


def make_library(
    tmp_path: Path,
    *,
    offline: bool = False,
    max_bytes: int = 2**30,
    store_bytes: int = 2**30,
    tokens: Mapping[str, str] | None = None,
    in_use: frozenset[str] = frozenset(),
    catalog: Catalog | None = None,
) -> LoraLibrary:
    (tmp_path / "weights" / "loras").mkdir(parents=True, exist_ok=True)

    async def references() -> frozenset[str]:
        return in_use

    return LoraLibrary(
        catalog or Catalog(tmp_path / "weights"),
        LoraStore(tmp_path / "store", max_bytes=store_bytes),
        Fetcher(LOOPBACK, offline=offline),
        max_bytes=max_bytes,
        timeout_s=20,
        tokens=tokens or {},
        linears=lambda: LINEARS,
        in_use=references,
    )


def lora_bytes(tmp_path: Path, seed: int = 0, rank: int = 4) -> bytes:
    path = tmp_path / f"made-{seed}.safetensors"
    pairs = random_pairs(LINEARS, ["proj_out", "img_in"], seed=seed, rank=rank)
    return write_lora(path, pairs).read_bytes()


async def test_url_is_fetched_checked_and_found_again(tmp_path: Path, host: Host) -> None:
    host.files["/my%20style.safetensors?download=1"] = lora_bytes(tmp_path)
    reference = f"{host.url}/my%20style.safetensors?download=1"
    library = make_library(tmp_path)

    assert await library.check(reference, "loras/0/path") is False
    await library.fetch(reference, "loras/0/path")

    assert await library.check(reference, "loras/0/path") is True
    assert (await library.path(reference)).read_bytes() == lora_bytes(tmp_path)
    # another server on the same folder, after a restart, finds it too
    assert await make_library(tmp_path, offline=True).check(reference, "loras/0/path") is True


async def test_ten_jobs_at_once_fetch_a_url_once(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = lora_bytes(tmp_path)
    host.access.clear()
    library = make_library(tmp_path)
    fetches = [
        asyncio.create_task(library.fetch(f"{host.url}/a.safetensors", "f")) for _ in range(10)
    ]
    await asyncio.to_thread(until, lambda: host.requests)
    host.access.set()
    await asyncio.gather(*fetches)
    assert len(host.requests) == 1


async def test_same_content_under_two_urls_lies_on_disk_once(tmp_path: Path, host: Host) -> None:
    data = lora_bytes(tmp_path)
    host.files |= {"/a.safetensors": data, "/b.safetensors": data}
    library = make_library(tmp_path)
    for name in ("a", "b"):
        await library.fetch(f"{host.url}/{name}.safetensors", "f")
    [file] = (tmp_path / "store" / "files").iterdir()
    assert file.name == f"{hashlib.sha256(data).hexdigest()}.safetensors"


async def test_broken_download_goes_on_where_it_ended(tmp_path: Path, host: Host) -> None:
    data = lora_bytes(tmp_path, rank=64)
    host.files["/a.safetensors"] = data
    host.break_after = [1000, 2000]
    library = make_library(tmp_path)

    await library.fetch(f"{host.url}/a.safetensors", "f")

    assert (await library.path(f"{host.url}/a.safetensors")).read_bytes() == data
    ranges = [request.get("Range") for request in host.requests]
    assert ranges[0] is None
    assert ranges[-1] == "bytes=3000-"


async def test_full_disk_is_said_and_the_next_request_goes_on(tmp_path: Path, host: Host) -> None:
    """The part is a device that takes no byte, as a disk without room does."""
    url = f"{host.url}/a.safetensors"
    host.files["/a.safetensors"] = lora_bytes(tmp_path)
    library = make_library(tmp_path)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.symlink_to("/dev/full")

    with pytest.raises(FetchFailed) as failed:
        await library.fetch(url, "loras/0/path")
    part.unlink()
    await library.fetch(url, "loras/0/path")

    assert failed.value.field == "loras/0/path"
    assert f"{url} cannot be stored: No space left on device" in str(failed.value)
    assert (await library.path(url)).read_bytes() == host.files["/a.safetensors"]


async def test_download_of_a_killed_server_goes_on_and_a_changed_file_begins_anew(
    tmp_path: Path, host: Host
) -> None:
    url = f"{host.url}/a.safetensors"
    old, new = lora_bytes(tmp_path, seed=1), lora_bytes(tmp_path, seed=2)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.write_bytes(old[:500])
    part.with_name(part.name + ".etag").write_text(f'"{hashlib.sha256(old).hexdigest()}"')
    host.files["/a.safetensors"] = new

    await make_library(tmp_path).fetch(url, "f")

    assert (await make_library(tmp_path).path(url)).read_bytes() == new


async def test_download_that_was_complete_when_the_server_was_killed_is_fetched_again(
    tmp_path: Path, host: Host
) -> None:
    url = f"{host.url}/a.safetensors"
    data = lora_bytes(tmp_path)
    part = LoraStore(tmp_path / "store", max_bytes=2**30).part(url)
    part.write_bytes(data)
    part.with_name(part.name + ".etag").write_text(f'"{hashlib.sha256(data).hexdigest()}"')
    host.files["/a.safetensors"] = data

    await make_library(tmp_path).fetch(url, "f")
    assert (await make_library(tmp_path).path(url)).read_bytes() == data


async def test_token_goes_to_its_host_and_not_along_a_redirect(tmp_path: Path, host: Host) -> None:
    data = lora_bytes(tmp_path)
    second = http.server.ThreadingHTTPServer(("127.0.0.2", 0), HostHandler)
    second.files = {"/signed": data}  # type: ignore[attr-defined]
    second.requests, second.redirects, second.break_after = [], {}, []  # type: ignore[attr-defined]
    second.access = host.access  # type: ignore[attr-defined]
    threading.Thread(target=second.serve_forever, daemon=True).start()
    other = f"http://127.0.0.2:{second.server_port}"
    host.redirects["/api/download/models/7"] = f"{other}/signed"
    library = make_library(tmp_path, tokens={"127.0.0.1": "secret"})

    await library.fetch(f"{host.url}/api/download/models/7", "f")
    second.shutdown()
    second.server_close()

    assert host.requests[0]["Authorization"] == "Bearer secret"
    assert "Authorization" not in second.requests[0]  # type: ignore[attr-defined]


async def test_what_is_no_lora_is_refused_and_not_kept(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = b"<!doctype html><title>Sign in</title>"
    library = make_library(tmp_path)
    with pytest.raises(LoraInvalid, match=r"loras/0/path: what http://.* looks like a web page"):
        await library.fetch(f"{host.url}/a.safetensors", "loras/0/path")
    assert not list((tmp_path / "store" / "files").iterdir())
    assert await library.check(f"{host.url}/a.safetensors", "f") is False


async def test_lora_over_the_size_limit_is_refused(tmp_path: Path, host: Host) -> None:
    host.files["/a.safetensors"] = lora_bytes(tmp_path, rank=64)
    with pytest.raises(PayloadTooLarge, match="more than the allowed"):
        await make_library(tmp_path, max_bytes=2000).fetch(f"{host.url}/a.safetensors", "f")
    assert list((tmp_path / "store" / "parts").iterdir()) == []


async def test_missing_url_is_said(tmp_path: Path, host: Host) -> None:
    with pytest.raises(FetchFailed, match=r"f: http://.*/nothing answered 404"):
        await make_library(tmp_path).fetch(f"{host.url}/nothing", "f")


async def test_malformed_url_fails_as_a_fetch(tmp_path: Path) -> None:
    with pytest.raises(FetchFailed, match=r"f: http://\[::1 cannot be fetched: "):
        await make_library(tmp_path).fetch("http://[::1", "f")


@pytest.mark.parametrize(
    "reference", ["https://example.org/a.safetensors", "owner/repo", "owner/repo/a.safetensors"]
)
async def test_offline_server_refuses_what_it_would_have_to_fetch(
    tmp_path: Path, reference: str
) -> None:
    with pytest.raises(FetchFailed, match="runs offline and fetches nothing"):
        await make_library(tmp_path, offline=True).check(reference, "loras/0/path")


async def test_oldest_files_go_when_the_store_is_full_and_needed_ones_stay(
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
        await library.fetch(url, "f")

    assert [await library.check(url, "f") for url in urls] == [True, False, True]


async def test_local_file_is_checked_against_the_model(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    folder = tmp_path / "weights" / "loras"
    (folder / "good.safetensors").write_bytes(lora_bytes(tmp_path))
    wrong = {"proj_out": (8, 8)}
    write_lora(folder / "wrong.safetensors", random_pairs(wrong, ["proj_out"]))

    assert await library.check("good", "f") is True
    with pytest.raises(LoraInvalid, match=r"wrong\.safetensors does not fit this model"):
        await library.check("wrong", "f")
    with pytest.raises(LoraNotFound, match=r"Found: good\.safetensors"):
        await library.check("nothing", "f")
    with pytest.raises(InvalidParameter):
        await library.check("../good", "f")


async def chunks(data: bytes) -> "asyncio.AsyncIterator[bytes]":  # type: ignore[name-defined]
    yield data


async def test_upload_is_proved_before_it_takes_its_place(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    folder = tmp_path / "weights" / "loras"
    data = lora_bytes(tmp_path)

    await library.add_upload("styles/new.safetensors", chunks(data), replace=False)
    assert (folder / "styles" / "new.safetensors").read_bytes() == data

    with pytest.raises(InvalidRequest, match="there is a LoRA"):
        await library.add_upload("styles/new.safetensors", chunks(data), replace=False)
    with pytest.raises(LoraInvalid, match=r"bad\.safetensors"):
        await library.add_upload("bad.safetensors", chunks(b"PK\x03\x04" * 20), replace=False)
    with pytest.raises(PayloadTooLarge):
        await make_library(tmp_path, max_bytes=10).add_upload(
            "large.safetensors", chunks(data), replace=False
        )
    for name in ("../up.safetensors", "/etc/up.safetensors", "up.ckpt", ".safetensors", ""):
        with pytest.raises(InvalidParameter):
            await library.add_upload(name, chunks(data), replace=False)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["new.safetensors"]

    await library.delete("styles/new")
    assert not list(folder.rglob("*.safetensors"))


async def test_lora_that_the_package_ships_is_not_removed(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "weights")
    catalog = catalog.with_loras_of(catalog.resolve_model("demo"))
    library = make_library(tmp_path, catalog=catalog)

    with pytest.raises(InvalidRequest, match=r"demo-sepia\.safetensors belongs to the demo model"):
        await library.delete("demo-sepia")
    assert (SHIPPED_WEIGHTS / "loras" / "demo-sepia.safetensors").exists()
