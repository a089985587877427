"""Images and LoRA files with flipped, cut, repeated and foreign bytes."""

import functools
import json
import random
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import encoded, gradient
from tests.lora_files import random_pairs, write_lora
from tests.server.loras.conftest import LINEARS
from tests.server.loras.test_mutated_files import METADATA_KEYS, ODD_KEYS, ODD_TEXTS, ODD_VALUES
from tests.server.media.bombs import exif_bomb, profile_bomb, segment_bomb, short_scan_bomb

# Larger strides leave most of a small file as it is.
MAX_CHANGES = 8


@functools.cache
def good_images() -> tuple[bytes, ...]:
    """A file of each format, and of the variants whose decoders differ most."""
    image = gradient(40, 30)
    rgba, palette = image.convert("RGBA"), image.convert("P")
    return (
        encoded(image),
        encoded(rgba),
        encoded(palette, transparency=b"\x80"),
        encoded(image.convert("I;16")),
        encoded(image.convert("L"), "PNG", dpi=(72, 72)),
        encoded(image, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        encoded(image, "JPEG", progressive=True),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "WEBP"),
        encoded(rgba, "WEBP", lossless=True),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "TIFF", compression="tiff_adobe_deflate"),
        encoded(image.convert("F"), "TIFF"),
        encoded(palette, "GIF", save_all=True, append_images=[palette, palette]),
        encoded(image, "BMP"),
        encoded(image, "AVIF", speed=10),
    )


@functools.cache
def bombs() -> tuple[bytes, ...]:
    """Files that say to be much larger than they are."""
    return exif_bomb(), profile_bomb(), segment_bomb(5000), short_scan_bomb(65)


@functools.cache
def good_lora() -> bytes:
    """A LoRA that fits the tiny model."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = random_pairs(LINEARS, ["proj_out", "img_in"], rank=2, alpha=2.0)
        return write_lora(Path(folder) / "good.safetensors", pairs).read_bytes()


def bad_image(rng: random.Random) -> bytes:
    """A damaged image; now and then a bomb, none, or one that is whole."""
    if rng.random() < 0.01:
        return rng.choice(bombs())
    data = rng.choice(good_images())
    for _ in range(rng.randrange(4)):
        data = rng.choice(_CHANGES)(rng, data, good_images())
    return data


def bad_lora(rng: random.Random) -> bytes:
    """A LoRA file with changes in its header, its bytes, or both."""
    [length] = struct.unpack("<Q", good_lora()[:8])
    header: dict[str, Any] = json.loads(good_lora()[8 : 8 + length])
    for _ in range(rng.randrange(3)):
        if header:
            _change_header(rng, header)
    raw = json.dumps(header).encode()
    data = struct.pack("<Q", len(raw)) + raw + good_lora()[8 + length :]
    if rng.random() < 0.1:
        data = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**63, 2**64 - 1))) + data[8:]
    for _ in range(rng.randrange(2)):
        data = rng.choice(_CHANGES)(rng, data, (good_lora(), *good_images()[:3]))
    return data


def _change_header(rng: random.Random, header: dict[str, Any]) -> None:
    key = rng.choice(sorted(header))
    entry = header[key]
    kind = rng.choice(("key", "copy", "drop", "metadata", "entry", "field", "field", "offset"))
    if kind == "drop":
        del header[key]
    elif kind == "key":
        header[rng.choice(ODD_KEYS)] = header.pop(key)
    elif kind == "copy":
        header[rng.choice(ODD_KEYS)] = entry
    elif kind == "metadata":
        text = rng.choice((*ODD_TEXTS, *ODD_VALUES))
        header["__metadata__"] = {rng.choice((*METADATA_KEYS, *ODD_KEYS)): text}
    elif kind == "entry" or not isinstance(entry, dict) or "shape" not in entry:
        header[key] = rng.choice(ODD_VALUES)
    elif kind == "field":
        name = rng.choice(("dtype", "shape", "data_offsets", "more"))
        header[key] = {**entry, name: rng.choice(ODD_VALUES)}
    elif isinstance(entry.get("data_offsets"), list):
        header[key] = {**entry, "data_offsets": [rng.randint(-9, 9), *entry["data_offsets"][1:]]}


Change = Callable[[random.Random, bytes, tuple[bytes, ...]], bytes]


def _flip(rng: random.Random, data: bytes, _: tuple[bytes, ...]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, MAX_CHANGES) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_in_the_head(rng: random.Random, data: bytes, others: tuple[bytes, ...]) -> bytes:
    """Formats, sizes and tables are in the first bytes."""
    return _flip(rng, data[:64], others) + data[64:]


def _overwrite(rng: random.Random, data: bytes, _: tuple[bytes, ...]) -> bytes:
    place = rng.randrange(len(data) + 1)
    new = rng.choice((b"\0", b"\xff", rng.randbytes(1))) * rng.choice((1, 2, 4, 8, 40))
    return data[:place] + new + data[place + len(new) :]


def _cut(rng: random.Random, data: bytes, _: tuple[bytes, ...]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes, _: tuple[bytes, ...]) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[place + rng.randint(1, 40) :]


def _repeat(rng: random.Random, data: bytes, _: tuple[bytes, ...]) -> bytes:
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    return data[:end] + data[start:end] * rng.choice((1, 1, 30)) + data[end:]


def _splice(rng: random.Random, data: bytes, others: tuple[bytes, ...]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES: tuple[Change, ...] = (
    _flip, _flip_in_the_head, _flip_in_the_head, _overwrite, _cut, _remove, _repeat, _splice,
)  # fmt: skip
