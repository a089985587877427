"""The header of a safetensors file: names, dtypes, shapes, byte ranges. No torch, no tensor data.

Format: an 8-byte little-endian length, that many bytes of JSON, then the tensors; see
https://huggingface.co/docs/safetensors. The library's own reader needs torch or numpy.
"""

import json
import math
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.api.errors import LoraInvalid

MAX_HEADER_BYTES = 64 * 1024 * 1024
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor: safetensors' name of its dtype, its shape, and its byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file. Byte ranges count from the file offset `data_start`."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor."""
        return {name: info.shape for name, info in self.tensors.items()}

    @property
    def data_bytes(self) -> int:
        """The size of all tensors, in bytes."""
        return max((info.end for info in self.tensors.values()), default=0)


def read_header(path: Path, name: str | None = None) -> Header:
    """The header of the safetensors file at `path`, which messages call `name`.

    Raises LoraInvalid when the file is empty, truncated, damaged, or of another format.
    """
    name = name or path.name
    size = path.stat().st_size
    if size == 0:
        raise LoraInvalid(f"{name} is empty.")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
        if length > MAX_HEADER_BYTES:
            raise LoraInvalid(f"{name} is not a safetensors file{_guess_format(start)}.")
        raw = file.read(length)
    if len(raw) < length:
        raise LoraInvalid(
            f"{name} is truncated or not a safetensors file: {len(raw)} of {length} bytes of its "
            f"header are there."
        )
    header = _parse_header(raw, name)
    expected = header.data_start + header.data_bytes
    if size < expected:
        raise LoraInvalid(f"{name} is truncated: {size} of {expected} bytes are there.")
    if not header.tensors:
        raise LoraInvalid(f"{name} holds no tensors.")
    return header


def add_metadata(path: Path, key: str, text: str) -> None:
    """Write `text` under `key` into the file's metadata, without changing the tensors.

    The new file is written beside the old one and renamed. Raises LoraInvalid for another format.
    """
    header = read_header(path)
    unfinished = path.with_name(path.name + ".unfinished")
    with path.open("rb") as old, unfinished.open("wb") as new:
        old.seek(8)
        entries = json.loads(old.read(header.data_start - 8))
        entries["__metadata__"] = {**header.metadata, key: text}
        raw = json.dumps(entries).encode()
        # the format aligns the tensors to 8 bytes
        raw += b" " * (-len(raw) % 8)
        new.write(struct.pack("<Q", len(raw)) + raw)
        shutil.copyfileobj(old, new)
    unfinished.replace(path)


def _parse_header(raw: bytes, name: str) -> Header:
    try:
        entries: dict[str, Any] = json.loads(raw)
        metadata = entries.pop("__metadata__", {})
        tensors = {key: _tensor_info(entry) for key, entry in entries.items()}
        texts = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise LoraInvalid(f"{name} is not a safetensors file: its header is damaged.") from exc
    return Header(tensors, texts, 8 + len(raw))


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(type(number) is int for number in (start, end, *shape)):
        raise ValueError("sizes are whole numbers")
    if min((start, *shape)) < 0 or end - start != math.prod(shape) * DTYPE_BYTES[entry["dtype"]]:
        raise ValueError("the byte range does not match the shape")
    return TensorInfo(entry["dtype"], shape, start, end)


def _guess_format(start: bytes) -> str:
    """A remark on a file of another format, from its first bytes, or nothing."""
    pickles = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
    if start.startswith((b"PK\x03\x04", *pickles)):
        return " (it looks like a pickle, which can run code and is never loaded)"
    if start.lstrip().startswith(b"<"):
        return " (it looks like a web page)"
    if start.startswith(b"version "):
        return " (it looks like a Git LFS pointer: the file itself was not downloaded)"
    if start.startswith(b"GGUF"):
        return " (it looks like a GGUF file)"
    return ""
