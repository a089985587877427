"""Resolves LoRA references to local files: in `weights/loras`, the hub's cache or the store.

A LoRA is downloaded once, even if many jobs need it at the same time.
"""

import asyncio
import contextlib
import secrets
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.api.errors import InvalidParameter, LoraInvalid, LoraNotFound
from pipelines.api.families import Linears
from pipelines.api.messages import LoraFile
from pipelines.api.params import LoraRef
from pipelines.files.catalog import (
    LORA_SUFFIX,
    Catalog,
    HubLora,
    LoraEntry,
    ModelScopeLora,
    RemoteLora,
)
from pipelines.files.lora_format.alpha import multiplier_of
from pipelines.files.lora_format.file import plan_header
from pipelines.files.lora_format.origin import check_origin
from pipelines.files.lora_profiles import read_profile
from pipelines.files.lora_sidecars import sidecar_paths
from pipelines.files.safetensors_header import Header, read_header
from server import durable_files
from server.durable_files import disk_errors
from server.errors import InvalidRequest, PayloadTooLarge
from server.loras import hub_lora as hub
from server.loras.file_hashes import FileHashes
from server.loras.remote_lora import locate, refuse_page
from server.loras.store import LoraStore
from server.net.download import Download, bearer
from server.net.fair_slots import FairSlots, host_of
from server.net.fetch import Fetcher

# LoRAs are large and share the network's rate; a slow host keeps two places at most.
DOWNLOADS = 4
# Each hash reads gigabytes of the same disk.
FILES_HASHED_AT_ONCE = 2
# Stands for the hub's host, which a setting of its library may change.
HUB = "hub"


class LoraLibrary:
    """Finds and validates LoRAs, downloads those named by URL or hub ID, accepts uploads.

    `linears` returns the loaded model's linear layers, or None while none is loaded; `in_use` the
    references of unfinished jobs. `tokens` has the bearer token of each host.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: LoraStore,
        fetcher: Fetcher,
        *,
        max_bytes: int,
        timeout_s: float,
        tokens: Mapping[str, str],
        linears: Callable[[], Linears | None],
        in_use: Callable[[], Awaitable[frozenset[str]]],
        is_strict: bool = False,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._hashes = FileHashes()
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._tokens = tokens
        self._linears = linears
        self._in_use = in_use
        self._is_strict = is_strict
        self._locks: dict[str, asyncio.Lock] = {}
        self._slots = FairSlots(DOWNLOADS, per_owner=3, per_host=2)
        self._hashing = asyncio.Semaphore(FILES_HASHED_AT_ONCE)

    async def find(self, lora: LoraRef, field: str) -> LoraFile | None:
        """Validate the LoRA and return its file, or None when it must be fetched or hashed first.

        Raises InvalidParameter, LoraNotFound, LoraInvalid for an unusable reference, FetchFailed
        for one that an offline server would have to fetch.
        """
        path = await asyncio.to_thread(self._find, lora.path)
        if path is None:
            self._fetcher.check_online(lora.path, field)
            return None
        # validated first: an unusable file is never hashed
        file = await asyncio.to_thread(self._file, lora, path)
        sha256 = await asyncio.to_thread(self._cached_hash, path)
        return None if sha256 is None else replace(file, sha256=sha256)

    async def resolve(self, lora: LoraRef) -> LoraFile:
        """The file of a local or fetched LoRA, hashed if necessary. Raises LoraNotFound."""

        def find_and_hash() -> LoraFile:
            path = self._find(lora.path)
            try:
                if path is not None:
                    sha256 = self._cached_hash(path) or self._hashes.sha256(path)
                    return replace(self._file(lora, path), sha256=sha256)
            except FileNotFoundError:
                pass  # deleted since it was found
            raise LoraNotFound(f"The LoRA {lora.path!r} is no longer on this machine.")

        async with self._hashing:
            return await asyncio.to_thread(find_and_hash)

    async def are_current(self, files: Sequence[LoraFile]) -> bool:
        """Return whether the files still have the content they were resolved to."""

        def compare() -> bool:
            return all(self._cached_hash(Path(file.path)) == file.sha256 for file in files)

        return await asyncio.to_thread(compare)

    async def fetch(self, reference: str, field: str, owner: str | None) -> None:
        """Download and validate the LoRA for a job of `owner`, unless it is on this machine.

        Raises FetchFailed, PayloadTooLarge, LoraInvalid.
        """
        async with self._alone(reference):
            if await asyncio.to_thread(self._find, reference) is not None:
                return
            self._fetcher.check_online(reference, field)
            async with self._slots.slot(owner, self._host(reference)):
                part = await self._download(reference, field)
            try:
                await asyncio.to_thread(self.prove, part, f"{field}: what {reference} gave")
            except LoraInvalid:
                await asyncio.to_thread(part.unlink)
                raise
            with disk_errors("The LoRA"):
                await asyncio.to_thread(self._store.add, reference, part)
        await self._evict()

    def prove(self, path: Path, name: str) -> None:
        """Raise LoraInvalid if the file's header shows that it cannot be applied.

        Also, if the server is strict, where there would be a warning.
        """
        header = read_header(path, name)
        read_profile(path, name, header.metadata, name)
        self._warnings(header, path, name)

    def _file(self, lora: LoraRef, path: Path) -> LoraFile:
        """The file, as yet without its hash. Raises LoraInvalid."""
        name = _shown_name(lora.path)
        header = read_header(path, name)
        profile = read_profile(path, lora.path, header.metadata, name)
        warnings = self._warnings(header, path, name)
        multiplier = multiplier_of(header, path, name, lora.alpha)
        return LoraFile(name, "", str(path), lora.scale, profile, warnings, multiplier)

    def _warnings(self, header: Header, path: Path, name: str) -> tuple[str, ...]:
        linears = self._linears()
        if linears is None:
            return ()
        plan = plan_header(header, path, linears, name)
        warnings = check_origin(header.metadata, plan.layers, linears, name)
        if warnings and self._is_strict:
            raise LoraInvalid(f"{warnings[0]} QWEN_EDIT_STRICT_LORAS refuses it.")
        return warnings

    async def add_upload(self, name: str, chunks: AsyncIterator[bytes], *, replace: bool) -> Path:
        """Store an uploaded LoRA under `weights/loras/`.

        Raises InvalidParameter for a bad name, InvalidRequest for a taken one, PayloadTooLarge,
        LoraInvalid, StorageFull; then nothing is stored.
        """
        path = self._catalog.new_lora_path(name)
        with disk_errors("The LoRA"):
            await asyncio.to_thread(_reserve, path, name, replace=replace)
            part = path.with_name(f".{secrets.token_hex(8)}.part")
            try:
                await _write(part, chunks, self._max_bytes)
                await asyncio.to_thread(self.prove, part, name)
                await asyncio.to_thread(durable_files.publish, part, path)
            finally:
                part.unlink(missing_ok=True)
        return path

    async def delete(self, name: str) -> None:
        """Remove a LoRA from `weights/loras/`, and the files beside it that are about it.

        Raises LoraNotFound, and InvalidRequest for one that the package ships.
        """
        entry = await asyncio.to_thread(self._catalog.resolve_lora, name)
        if not isinstance(entry, LoraEntry):
            raise LoraNotFound(f"There is no LoRA {name!r} under weights/loras.")
        if entry.is_shipped:
            raise InvalidRequest(f"{entry.name} belongs to the demo model and cannot be removed")
        await asyncio.to_thread(_remove, entry.path)

    def _cached_hash(self, path: Path) -> str | None:
        return self._store.sha256(path) or self._hashes.cached(path)

    def _find(self, reference: str) -> Path | None:
        found = self._catalog.resolve_lora(reference)
        if isinstance(found, LoraEntry):
            return found.path
        if isinstance(found, HubLora) and (cached := hub.cached_file(found)):
            return cached
        return self._store.find(reference)

    def _host(self, reference: str) -> str:
        """Return the host that a reference is downloaded from."""
        found = self._catalog.resolve_lora(reference)
        match found:
            case RemoteLora(url) | ModelScopeLora(url):
                return host_of(url)
        return HUB

    async def _download(self, reference: str, field: str) -> Path:
        found = self._catalog.resolve_lora(reference)
        part = self._store.part(reference)
        if isinstance(found, HubLora):
            return await hub.download(
                found,
                part.with_suffix(".hub"),
                field,
                max_bytes=self._max_bytes,
                timeout_s=self._timeout_s,
            )
        if isinstance(found, ModelScopeLora):
            found = await locate(found, self._fetcher, field, self._tokens)
        if not isinstance(found, RemoteLora):
            raise LoraNotFound(f"The LoRA {reference!r} is no longer on this machine.")
        headers = bearer(self._tokens, found.url)
        wanted = Download(found.url, part, self._max_bytes, headers)
        await self._fetcher.download(wanted, timeout_s=self._timeout_s, field=field)
        await asyncio.to_thread(refuse_page, part, found.url, field)
        return part

    async def _evict(self) -> None:
        needed = set()
        for reference in await self._in_use():
            with contextlib.suppress(InvalidParameter, LoraNotFound):
                needed.add(await asyncio.to_thread(self._find, reference))
        await asyncio.to_thread(self._store.evict, needed.__contains__)

    @contextlib.asynccontextmanager
    async def _alone(self, reference: str) -> AsyncIterator[None]:
        """Hold the reference's lock, which is dropped when no task waits for it."""
        lock = self._locks.setdefault(reference, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(reference, None)


def _remove(path: Path) -> None:
    path.unlink()
    # or the next LoRA of this name would get them
    for beside in sidecar_paths(path):
        with contextlib.suppress(OSError):
            beside.unlink()


def _reserve(path: Path, name: str, *, replace: bool) -> None:
    """Make the folders of a new LoRA. Raises InvalidRequest where its path is taken."""
    if path.is_dir():
        raise InvalidRequest(f"name is that of a folder: {name}", field="name")
    if path.exists() and not replace:
        raise InvalidRequest(
            f"there is a LoRA {name} already: delete it first, or send replace=true", field="name"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise InvalidRequest(f"name has a file as a folder: {name}", field="name") from exc


async def _write(part: Path, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
    received = 0
    with part.open("wb") as file:
        async for chunk in chunks:
            received += len(chunk)
            if received > max_bytes:
                raise PayloadTooLarge(f"The LoRA has more than {max_bytes / 2**20:.0f} MiB.")
            await asyncio.to_thread(file.write, chunk)


def _shown_name(reference: str) -> str:
    """The LoRA's name in messages: the file name that the client gave."""
    name = urllib.parse.urlsplit(reference).path.rpartition("/")[2] or reference
    return name if name.endswith(LORA_SUFFIX) else name + LORA_SUFFIX
