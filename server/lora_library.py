"""LoRA references to files on this machine: what lies under `weights/loras`, and what URLs name.

A fetched file lies in the data folder under the hash of its URL, and is fetched once, however many
jobs ask for it at the same time.
"""

import asyncio
import hashlib
import os
from pathlib import Path

from pipelines.catalog import Catalog, LoraEntry
from pipelines.errors import LoraInvalid
from pipelines.safetensors_header import read_header
from server.fetch import Fetcher


class LoraLibrary:
    """Finds LoRAs, and fetches those that are named by URL."""

    def __init__(
        self, catalog: Catalog, folder: Path, fetcher: Fetcher, *, max_bytes: int, timeout_s: float
    ) -> None:
        self._catalog = catalog
        self._folder = folder
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._locks: dict[str, asyncio.Lock] = {}

    async def check(self, reference: str) -> bool:
        """Whether the LoRA lies on this machine; False when it is to be fetched first.

        Raises InvalidParameter, LoraNotFound, LoraInvalid for a reference that cannot be used.
        """
        entry = await asyncio.to_thread(self._catalog.resolve_lora, reference)
        if isinstance(entry, LoraEntry):
            await asyncio.to_thread(read_header, entry.path)
            return True
        return self._fetched_path(entry.url).is_file()

    async def path(self, reference: str) -> Path:
        """The file for a reference that was fetched or is local. Raises LoraNotFound."""
        entry = await asyncio.to_thread(self._catalog.resolve_lora, reference)
        return entry.path if isinstance(entry, LoraEntry) else self._fetched_path(entry.url)

    async def fetch(self, reference: str, index: int) -> None:
        """Bring the LoRA onto this machine if it is not here yet.

        Raises FetchFailed, PayloadTooLarge, LoraInvalid for what is no safetensors file.
        """
        entry = await asyncio.to_thread(self._catalog.resolve_lora, reference)
        if isinstance(entry, LoraEntry):
            return
        path = self._fetched_path(entry.url)
        lock = self._locks.setdefault(path.name, asyncio.Lock())
        async with lock:
            if not path.is_file():
                await self._download(entry.url, path, f"loras/{index}/path")

    async def _download(self, url: str, path: Path, field: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        try:
            with unfinished.open("wb") as file:
                async with self._fetcher.stream(
                    url, max_bytes=self._max_bytes, timeout_s=self._timeout_s, field=field
                ) as chunks:
                    async for chunk in chunks:
                        await asyncio.to_thread(file.write, chunk)
            try:
                await asyncio.to_thread(read_header, unfinished)
            except LoraInvalid as exc:
                reason = str(exc).removeprefix(unfinished.name).lstrip()
                raise LoraInvalid(f"{field}: what {url} gave {reason}") from exc
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _fetched_path(self, url: str) -> Path:
        return self._folder / f"{hashlib.sha256(url.encode()).hexdigest()}.safetensors"
