"""Headers that are refused by name, those of models, and the cost of a hostile one."""

import json
import struct
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.files import safetensors_header
from pipelines.files.safetensors_header import (
    LORA_LIMITS,
    MODEL_LIMITS,
    HeaderLimits,
    read_header,
)
from tests.lora_files import write_raw


def entry(start: int, end: int, *shape: int) -> dict[str, object]:
    """An entry of bytes."""
    return {"dtype": "U8", "shape": list(shape) or [end - start], "data_offsets": [start, end]}


def raw_entry(key: str, start: int, end: int) -> str:
    return f"{json.dumps(key)}:{json.dumps(entry(start, end))}"


DUPLICATE = "{" + raw_entry("a", 0, 4) + "," + raw_entry("a", 4, 8) + "}"
ESCAPED_DUPLICATE = "{" + raw_entry("a", 0, 4) + "," + raw_entry("a", 4, 8).replace(
    '"a"', r'"\u0061"'
) + "}"  # fmt: skip


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"a": entry(0, 4), "b": entry(6, 8)}, "is damaged: no tensor has the 2 bytes before b."),
        ({"a": entry(4, 8)}, "is damaged: no tensor has the 4 bytes before a."),
        ({"a": entry(0, 4)}, "is damaged: 4 bytes follow its last tensor."),
        ({"a": entry(0, 6), "b": entry(4, 8)}, "is damaged: a and b overlap."),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "is damaged: a and b overlap."),
        ({"a": entry(0, 8), "b": entry(2, 4)}, "is damaged: a and b overlap."),
        ({"a": entry(0, 8), "b": entry(8, 8, 0, 4)}, "has an empty tensor: b is 0×4."),
        (DUPLICATE.encode(), "names 'a' twice."),
        (ESCAPED_DUPLICATE.encode(), "names 'a' twice."),
        (b'{"__metadata__":{"r":"1","r":"2"}}', "names 'r' twice."),
    ],
)
def test_lora_with_a_faulty_layout_is_refused_by_name(
    tmp_path: Path, header: object, message: str
) -> None:
    path = write_raw(tmp_path / "a.safetensors", header, bytes(8))

    with pytest.raises(LoraInvalid) as caught:
        read_header(path)

    assert str(caught.value) == f"a.safetensors {message}"


@pytest.mark.parametrize(
    "header",
    [
        {"a" * 257: entry(0, 8)},
        {"line\nbreak": entry(0, 8)},
        {"half \ud800": entry(0, 8)},
        {"__metadata__": {"half": "\ud800"}, "a": entry(0, 8)},
        {"a": entry(0, 8, *[1] * 8, 8)},
        {"a": {**entry(0, 8), "shape": {}}},
        json.dumps({"a": entry(0, 8)}).encode("utf-16"),
        b"[" * 200_000,
    ],
    ids=["long key", "line", "key", "metadata", "dimensions", "shape", "UTF-16", "nested"],
)
def test_header_that_no_writer_produces_is_refused(tmp_path: Path, header: object) -> None:
    path = write_raw(tmp_path / "a.safetensors", header, bytes(8))

    with pytest.raises(LoraInvalid, match=r"^a\.safetensors is not a .* its header is damaged\.$"):
        read_header(path)


def test_model_may_have_empty_tensors_and_a_larger_header(tmp_path: Path) -> None:
    metadata = {"notes": "x" * LORA_LIMITS.header_bytes}
    header = {"__metadata__": metadata, "a": entry(0, 8), "b": entry(8, 8, 0), "c": entry(0, 0, 0)}
    path = write_raw(tmp_path / "a.safetensors", header, bytes(8))

    assert read_header(path, limits=MODEL_LIMITS).shapes == {"a": (8,), "b": (0,), "c": (0,)}
    with pytest.raises(LoraInvalid, match="has a header of 4194515 bytes; at most 4194304 are"):
        read_header(path)


def test_shard_of_40_gb_is_read_by_its_header_alone(tmp_path: Path) -> None:
    size = 40 * 10**9
    path = write_raw(
        tmp_path / "a.safetensors", {"a": entry(0, size // 2), "b": entry(size // 2, size)}
    )
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)

    assert read_header(path, limits=MODEL_LIMITS).data_bytes == size


def test_tensors_are_counted_before_they_are_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = ",".join(f'"{index}":{{"a":[],"b":[]}}' for index in range(100_001))
    path = write_raw(tmp_path / "a.safetensors", f"{{{entries}}}".encode())
    monkeypatch.setattr(safetensors_header.json, "loads", None)

    with pytest.raises(LoraInvalid, match=r"^a\.safetensors names more than 100000 tensors\.$"):
        read_header(path)


@pytest.mark.parametrize(("limit", "is_read"), [(3, True), (2, False)])
def test_limit_of_tensors_is_exact(tmp_path: Path, limit: int, is_read: bool) -> None:
    header = {
        "__metadata__": {"a": "b"},
        **{f"{index}": entry(index, index + 1) for index in range(3)},
    }
    path = write_raw(tmp_path / "a.safetensors", header, bytes(3))
    limits = HeaderLimits(header_bytes=1000, tensors=limit)

    if is_read:
        assert len(read_header(path, limits=limits).tensors) == 3
    else:
        with pytest.raises(LoraInvalid, match="names more than 2 tensors"):
            read_header(path, limits=limits)


def test_oversized_header_is_not_read(tmp_path: Path) -> None:
    """The file claims a header of 62 MB that is there: a sparse file costs nothing."""
    path = tmp_path / "a.safetensors"
    length = 62 * 10**6
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b'{"a":')
        file.truncate(8 + length)

    with pytest.raises(LoraInvalid, match=r"has a header of 62000000 bytes; at most 4194304 are"):
        read_header(path)
