"""Reports on the LoRAs under weights/loras, and their thumbnails, for people who choose one."""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable
from pathlib import Path

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.api.families import Linears
from pipelines.files.catalog import Catalog, LoraEntry
from pipelines.files.lora_format.report import LoraReport, inspect_lora
from pipelines.files.lora_format.thumbnail import Thumbnail, embedded_thumbnail, read_preview
from pipelines.files.lora_sidecars import sidecar_paths
from pipelines.files.safetensors_header import read_header
from server.errors import NotFound

# Of the file and of each file beside it.
_Version = tuple[tuple[int, int, int, int] | None, ...]


class LoraReports:
    """Reports on LoRA files, kept while the file, the files beside it and the model stay."""

    def __init__(self, catalog: Catalog, linears: Callable[[], Linears]) -> None:
        """`linears` returns those of the loaded model, or of the one being loaded."""
        self._catalog = catalog
        self._linears = linears
        self._model: Linears = {}
        self._known: dict[str, tuple[_Version, LoraReport | str]] = {}
        # a report takes tenths of a second: two lists at a time share their reports
        self._lock = threading.Lock()

    def find(self, name: str) -> LoraEntry:
        """Return the LoRA under weights/loras that `name` means. Raises NotFound."""
        try:
            entry = self._catalog.resolve_lora(name)
        except LoraNotFound as exc:
            raise NotFound(str(exc)) from exc
        if not isinstance(entry, LoraEntry):
            raise NotFound(f"There is no LoRA {name!r} under weights/loras.")
        return entry

    def full(self, entry: LoraEntry) -> LoraReport:
        """Read the report anew, with the file's metadata. Raises LoraInvalid."""
        return inspect_lora(entry.path, self._linears(), entry.name)

    def brief(self, entry: LoraEntry) -> LoraReport:
        """Return the report without the file's metadata, which may have megabytes.

        Raises LoraInvalid when the file is no safetensors file.
        """
        with self._lock:
            found = self._kept(entry)
        if isinstance(found, str):
            raise LoraInvalid(found)
        return found

    def all(self) -> list[tuple[LoraEntry, LoraReport | str]]:
        """Return every LoRA by name with its report, or with what is wrong with its file."""
        found: list[tuple[LoraEntry, LoraReport | str]] = []
        for entry in self._catalog.loras():
            try:
                found.append((entry, self.brief(entry)))
            except LoraInvalid as exc:
                found.append((entry, str(exc)))
            except FileNotFoundError:
                pass  # deleted since it was listed
        names = {entry.name for entry, _ in found}
        with self._lock:
            self._known = {name: self._known[name] for name in self._known.keys() & names}
        return found

    def thumbnail(self, name: str) -> Thumbnail:
        """Return the preview image of a LoRA. Raises NotFound."""
        entry = self.find(name)
        found = None
        with contextlib.suppress(FileNotFoundError, LoraInvalid):
            found = read_preview(entry.path) or embedded_thumbnail(
                read_header(entry.path, entry.name).metadata
            )
        if found is None:
            raise NotFound(f"The LoRA {name!r} has no thumbnail.")
        return found

    def _kept(self, entry: LoraEntry) -> LoraReport | str:
        linears = self._linears()
        if linears != self._model:
            self._model, self._known = linears, {}
        version = _version(entry.path)
        known, found = self._known.get(entry.name, (None, ""))
        if known != version:
            try:
                report = inspect_lora(entry.path, linears, entry.name)
                found = dataclasses.replace(report, metadata={})
            except LoraInvalid as exc:
                found = str(exc)
            self._known[entry.name] = version, found
        return found


def _version(path: Path) -> _Version:
    return _stat(path), *map(_stat, sidecar_paths(path))


def _stat(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
