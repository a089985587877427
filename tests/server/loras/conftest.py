"""A host on loopback, and a LoRA library that downloads from it."""

import hashlib
import http.server
import ipaddress
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.params import LoraRef
from pipelines.files.catalog import Catalog
from server.loras.library import LoraLibrary
from server.loras.store import LoraStore
from server.net.fetch import Fetcher
from tests.lora_files import random_pairs, write_lora

LINEARS = QWEN_IMAGE_EDIT_PLUS.linears(
    {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32}
)
LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


class Host(http.server.ThreadingHTTPServer):
    """Serves `files` by path, with ranges; records requests; can break a response off."""

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
    fetcher: Fetcher | None = None,
) -> LoraLibrary:
    (tmp_path / "weights" / "loras").mkdir(parents=True, exist_ok=True)

    async def references() -> frozenset[str]:
        return in_use

    return LoraLibrary(
        catalog or Catalog(tmp_path / "weights"),
        LoraStore(tmp_path / "store", max_bytes=store_bytes),
        fetcher or Fetcher(LOOPBACK, offline=offline),
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


async def is_here(library: LoraLibrary, reference: str) -> bool:
    """Return whether the LoRA is on disk and hashed, so that a job can run at once."""
    return await library.find(LoraRef(reference), "loras/0/path") is not None


async def content(library: LoraLibrary, reference: str) -> bytes:
    """Return the bytes of the file that a reference resolves to."""
    return Path((await library.resolve(LoraRef(reference))).path).read_bytes()
