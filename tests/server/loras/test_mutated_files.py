"""Hundreds of mutated LoRA files: each is refused as LoraInvalid, or read and reported."""

import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.api.errors import LoraInvalid
from pipelines.engine.lora import read_lora
from pipelines.files.lora_format.report import inspect_lora
from server.contracts.native.loras import lora_view
from server.web.problem import problem_of
from tests.lora_files import random_pairs, write_lora
from tests.server.loras.conftest import LINEARS

Draw = Callable[[st.SearchStrategy[Any]], Any]
Header = dict[str, Any]

ODD_VALUES = (
    None, True, -1, 0, 1, 4, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("nan"), float("inf"),
    "", "F32", "F8_E4M3", "I64", "F4", "\ud800", "\0", "a" * 300, [], {}, [0, 0], [0, 2**63],
    [4, 64], [2**40, 2**40], [1] * 40, [[[]]], {"a": {}}, [None, None],
)  # fmt: skip
ODD_KEYS = (
    "", "__metadata__", "\ud800", "\n", "a" * 300, "." * 200, "transformer.", "lora_unet_",
    "proj_out", "proj_out.alpha", "transformer.proj_out.lora_A.weight", "transformer.img_in.alpha",
    "proj_out.dora_scale", "proj_out.lokr_w1", "img_in.hada_w1_a", "text_encoder.a.lora_A.weight",
    "single_transformer_blocks.0.proj_out.lora_A.weight",
    "attn.to_q." + "lora_A" * 40, ".lora_A" * 36, "up_blocks_" * 25,
)  # fmt: skip
METADATA_KEYS = (
    "lora_adapter_metadata", "ss_tag_frequency", "modelspec.trigger_phrase", "ss_output_name",
    "modelspec.architecture", "format", "trained_words", "modelspec.thumbnail",
)  # fmt: skip
ODD_TEXTS = (
    "", "null", "[]", "{", '["\\ud800"]', "NaN", "\ud800", "\0", "[" * 100_000, '{"a":' * 100_000,
    '{"r": 4, "lora_alpha": 4}', '{"r": 1e999}', '{"r": 1' + "0" * 400 + "}",
    '{"r": ' + "9" * 5000 + "}", '{"r": {}}', '{"lora_alpha": "1_0"}', '{"lora_alpha": "inf"}',
    '{"rank_pattern": []}', '{"rank_pattern": {"(": 4}}', '{"rank_pattern": {"(?i)img": 4}}',
    '{"rank_pattern": {"a)(b": 4}}', '{"alpha_pattern": {"(.|.)*!": 4}}',
    '{"alpha_pattern": {"(){4000000000}": 4}}', '{"alpha_pattern": {"\\\\ud800": 4}}',
    '{"use_dora": true}', '{"use_rslora": 1}', '{"a": {"b": 1e999}}', '{"a": {"b": NaN}}',
    '{"a": {"b": ' + "9" * 5000 + "}}", '{"a": [{}]}', '{"a": {"b": {}}}', '{"a": {"b": true}}',
)  # fmt: skip


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "good.safetensors"
    pairs = random_pairs(LINEARS, ["proj_out", "img_in"], rank=2, alpha=2.0)
    return write_lora(path, pairs).read_bytes()


def mutate_header(draw: Draw, header: Header) -> None:
    """Change one key, one entry, one field of an entry, or the metadata."""
    key = draw(st.sampled_from(sorted(header)))
    entry = header[key]
    kind = draw(st.sampled_from(("key", "entry", "copy", "metadata", "drop", "field", "offset")))
    if kind == "drop":
        del header[key]
    elif kind == "key":
        header[draw(st.sampled_from(ODD_KEYS))] = header.pop(key)
    elif kind == "copy":
        header[draw(st.sampled_from(ODD_KEYS))] = entry
    elif kind == "metadata":
        name = draw(st.sampled_from(METADATA_KEYS))
        header["__metadata__"] = {name: draw(st.sampled_from((*ODD_TEXTS, *ODD_VALUES)))}
    elif kind == "entry" or not isinstance(entry, dict) or "shape" not in entry:
        header[key] = draw(st.sampled_from(ODD_VALUES))
    elif kind == "field":
        name = draw(st.sampled_from(("dtype", "shape", "data_offsets", "more")))
        header[key] = {**entry, name: draw(st.sampled_from(ODD_VALUES))}
    else:
        shift = draw(st.integers(-9, 9))
        header[key] = {**entry, "data_offsets": [shift, *entry["data_offsets"][1:]]}


def mutate_bytes(draw: Draw, data: bytes) -> bytes:
    """Cut the file, or put bytes into it, replace some or repeat some."""
    start = draw(st.integers(0, len(data)))
    end = min(len(data), start + draw(st.integers(0, 40)))
    kind = draw(st.sampled_from(("cut", "insert", "replace", "repeat", "length")))
    if kind == "cut":
        return data[:start]
    if kind == "length":
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1))) + data[8:]
    if kind == "repeat":
        return data[:end] + data[start:]
    new: bytes = draw(st.binary(max_size=12))
    return data[:start] + new + data[start if kind == "insert" else end :]


def mutated(draw: Draw, good: bytes) -> bytes:
    [length] = struct.unpack("<Q", good[:8])
    header: Header = json.loads(good[8 : 8 + length])
    for _ in range(draw(st.integers(0, 2))):
        if header:
            mutate_header(draw, header)
    raw = json.dumps(header).encode()
    data = struct.pack("<Q", len(raw)) + raw + good[8 + length :]
    for _ in range(draw(st.integers(0, 2))):
        data = mutate_bytes(draw, data)
    return data


def assert_refused_or_read(path: Path) -> bool:
    """Read the file in every way that the server and its worker do; return whether it is read."""
    try:
        report = inspect_lora(path, LINEARS, "upload.safetensors")
        answer = lora_view(report, "http://host").model_dump_json()
        assert str(path.parent) not in answer
        read_lora(path, LINEARS)
    except LoraInvalid as exc:
        problem = problem_of(exc)
        assert problem.status == 400
        assert str(path.parent) not in problem.message
        problem.message.encode()
        return False
    return True


@settings(derandomize=True, database=None, max_examples=400)
@given(data=st.data())
def test_mutated_file_is_refused_as_an_invalid_lora_or_read(
    good_file: bytes, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated.safetensors"
        path.write_bytes(mutated(data.draw, good_file))
        assert_refused_or_read(path)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: text[:20])
@pytest.mark.parametrize("key", METADATA_KEYS[:3])
def test_file_with_odd_metadata_is_refused_or_read(
    good_file: bytes, tmp_path: Path, key: str, text: str
) -> None:
    [length] = struct.unpack("<Q", good_file[:8])
    header = json.loads(good_file[8 : 8 + length])
    raw = json.dumps({**header, "__metadata__": {key: text}}).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + good_file[8 + length :])

    assert_refused_or_read(path)


def test_unchanged_file_is_read(good_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(good_file)

    assert assert_refused_or_read(path)
