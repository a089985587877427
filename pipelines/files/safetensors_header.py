"""The header of a safetensors file: names, dtypes, shapes, byte ranges. No torch, no tensor data.

Format: an 8-byte little-endian length, that many bytes of JSON, then the tensors; see
https://huggingface.co/docs/safetensors. The library's own reader needs torch or numpy.
"""

import json
import math
import shutil
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.api.errors import LoraInvalid

# No tensor name of a published file has half as many, and patterns are searched for in each.
MAX_KEY_CHARS = 256
# Convolutions in video models have 5.
MAX_DIMENSIONS = 8
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """The largest header that is read; `has_empty_tensors` also accepts shapes with a 0."""

    header_bytes: int
    tensors: int
    has_empty_tensors: bool = False


# A LoRA comes from anyone. On all 846 layers of Qwen-Image it has 2,538 tensors, alphas included.
LORA_LIMITS = HeaderLimits(header_bytes=4 * 2**20, tensors=100_000)
# A model comes from the operator, and safetensors writes empty tensors.
MODEL_LIMITS = HeaderLimits(64 * 2**20, tensors=1_000_000, has_empty_tensors=True)


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


def read_header(path: Path, name: str | None = None, limits: HeaderLimits = LORA_LIMITS) -> Header:
    """The header of the safetensors file at `path`, which messages call `name`.

    Raises LoraInvalid when the file is empty, truncated, damaged, of another format or beyond the
    limits, and when its tensors have a name twice, overlap, or leave bytes between or behind them.
    """
    name = name or path.name
    size = path.stat().st_size
    if size == 0:
        raise LoraInvalid(f"{name} is empty.")
    with path.open("rb") as file:
        raw = _read_raw_header(file, size, name, limits)
    header = _parse_header(raw, name, limits)
    expected = header.data_start + header.data_bytes
    if size < expected:
        raise LoraInvalid(f"{name} is truncated: {size} of {expected} bytes are there.")
    if not header.tensors:
        raise LoraInvalid(f"{name} holds no tensors.")
    _check_layout(header, name)
    if size > expected:
        raise LoraInvalid(f"{name} is damaged: {size - expected} bytes follow its last tensor.")
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


class _DuplicateKey(Exception):
    """A JSON object names a key twice."""


def _read_raw_header(file: BinaryIO, size: int, name: str, limits: HeaderLimits) -> bytes:
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else limits.header_bytes + 1
    raw = file.read(min(length, limits.header_bytes + 1))
    if length > limits.header_bytes:
        if raw.startswith(b"{") and length <= size:
            raise LoraInvalid(
                f"{name} has a header of {length} bytes; at most {limits.header_bytes} are read."
            )
        raise LoraInvalid(f"{name} is not a safetensors file{_guess_format(start)}.")
    if len(raw) < length:
        raise LoraInvalid(
            f"{name} is truncated or not a safetensors file: {len(raw)} of {length} bytes of its "
            f"header are there."
        )
    # An entry has three brackets. Counted first: a million of them take a gigabyte once parsed.
    if raw.count(b"{") + raw.count(b"[") > 3 * (limits.tensors + 1):
        raise LoraInvalid(f"{name} names more than {limits.tensors} tensors.")
    return raw


def _parse_header(raw: bytes, name: str, limits: HeaderLimits) -> Header:
    try:
        entries: dict[str, Any] = json.loads(raw.decode(), object_pairs_hook=_unique)
        metadata = entries.pop("__metadata__", {})
        tensors = {_key(key): _tensor_info(entry) for key, entry in entries.items()}
        texts = {str(key): str(value) for key, value in metadata.items()}
        # no text holds half a surrogate pair, and no answer could repeat it
        "".join((*texts, *texts.values())).encode()
    except _DuplicateKey as exc:
        raise LoraInvalid(f"{name} names {exc} twice.") from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise LoraInvalid(f"{name} is not a safetensors file: its header is damaged.") from exc
    if len(tensors) > limits.tensors:
        raise LoraInvalid(f"{name} names more than {limits.tensors} tensors.")
    if not limits.has_empty_tensors:
        for key, info in tensors.items():
            if 0 in info.shape:
                shape = "×".join(map(str, info.shape))
                raise LoraInvalid(f"{name} has an empty tensor: {key} is {shape}.")
    return Header(tensors, texts, 8 + len(raw))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = Counter(key for key, _ in pairs)
        raise _DuplicateKey(repr(keys.most_common(1)[0][0][:MAX_KEY_CHARS]))
    return unique


def _key(key: str) -> str:
    if len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise ValueError("a tensor's name is overlong or not printable")
    return key


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    start, end = entry["data_offsets"]
    if type(entry["shape"]) is not list or len(entry["shape"]) > MAX_DIMENSIONS:
        raise ValueError("a shape is a short list")
    shape = tuple(entry["shape"])
    if not all(type(number) is int for number in (start, end, *shape)):
        raise ValueError("sizes are whole numbers")
    if min((start, *shape)) < 0 or end - start != math.prod(shape) * DTYPE_BYTES[entry["dtype"]]:
        raise ValueError("the byte range does not match the shape")
    return TensorInfo(entry["dtype"], shape, start, end)


def _check_layout(header: Header, name: str) -> None:
    """Raise LoraInvalid unless the tensors follow each other without a gap, as the format asks."""
    end, previous = 0, ""
    for key, info in sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start > end:
            raise LoraInvalid(
                f"{name} is damaged: no tensor has the {info.start - end} bytes before {key}."
            )
        if info.start < end:
            raise LoraInvalid(f"{name} is damaged: {previous} and {key} overlap.")
        end, previous = info.end, key


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
