"""Small files that a decoder without limits spends gigabytes or hours on."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
import PIL.Image

from tests.conftest import encoded

# The scan of a progressive JPEG that refines nothing, as often as fits into 19 MiB.
SCANS_IN_19_MIB = 203_484
SIDE = 8000


def plain(mode: str, side: int = SIDE) -> PIL.Image.Image:
    """A black image."""
    return PIL.Image.new(mode, (side, side))


def scan_bomb(scans: int, side: int = SIDE) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded(plain("RGB", side), "JPEG", progressive=True, subsampling="4:2:0")
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * scans + data[-2:]


def short_scan_bomb(scans: int) -> bytes:
    """A progressive JPEG of 8000×8000 that claims many scans of a few bytes."""
    start = encoded(plain("L", 16), "JPEG", progressive=True)
    frame = start.index(b"\xff\xc2")
    size = struct.pack(">HH", SIDE, SIDE)
    start = start[: frame + 5] + size + start[frame + 9 :]
    last = start[start.rindex(b"\xff\xda") : -2]
    return start[:-2] + last * scans + start[-2:]


def segment_bomb(segments: int) -> bytes:
    """A JPEG with empty segments, each of which Pillow keeps."""
    data = encoded(plain("L", 64), "JPEG")
    return data[:2] + b"\xff\xe5\0\2" * segments + data[2:]


def progressive_444() -> bytes:
    """A JPEG whose coefficients take more than its pixels."""
    return encoded(plain("RGB"), "JPEG", progressive=True, subsampling="4:4:4")


def single_strip_tiff(side: int = SIDE) -> bytes:
    """A TIFF that libtiff decompresses at once, 8 bytes per pixel, beside its 4 in Pillow."""
    pixels = zlib.compress(bytes(side * side * 8), 9)
    tags = {
        256: (4, side), 257: (4, side), 258: (3, None), 259: (3, 8), 262: (3, 2), 273: (4, 8),
        277: (3, 4), 278: (4, side), 279: (4, len(pixels)), 338: (3, 2),
    }  # fmt: skip
    directory = 8 + len(pixels) + len(pixels) % 2
    extra = directory + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, (kind, value) in tags.items():
        if value is None:
            entries += struct.pack("<HHII", tag, 3, 4, extra)
        elif kind == 3:
            entries += struct.pack("<HHIHH", tag, 3, 1, value, 0)
        else:
            entries += struct.pack("<HHII", tag, 4, 1, value)
    head = b"II*\0" + struct.pack("<I", directory) + pixels + bytes(len(pixels) % 2)
    body = struct.pack("<H", len(tags)) + entries + bytes(4) + struct.pack("<HHHH", *(16,) * 4)
    return head + body


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def profile_bomb() -> bytes:
    """A PNG whose color profile decompresses to 512 MB."""
    squeeze = zlib.compressobj(9)
    zeros = bytes(2**20)
    profile = b"icc\0\0" + b"".join(squeeze.compress(zeros) for _ in range(512)) + squeeze.flush()
    data = encoded(plain("RGB", 64))
    return data[:33] + png_chunk(b"iCCP", profile) + data[33:]


def exif_bomb() -> bytes:
    """A JPEG whose EXIF directory names itself as its successor and claims 4 G values."""
    entry = struct.pack("<HHII", 0x0112, 3, 2**32 - 1, 8)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 5000) + entry * 5000
    return encoded(plain("RGB", 64), "JPEG", exif=exif[:65000] + struct.pack("<I", 8))


def frames_bomb() -> bytes:
    """A GIF of 3000 frames of a megapixel."""
    images = [plain("P", 1024), *(PIL.Image.new("P", (1, 1), n % 2) for n in range(2))]
    data = encoded(images[0], "GIF", save_all=True, append_images=images[1:])
    frame = data[data.index(b"\x2c", 800) : -1]
    return data[:-1] + frame * 3000 + data[-1:]


def sixteen_bits(side: int = SIDE) -> bytes:
    """A gray PNG of 16 bits."""
    row = np.arange(side, dtype=np.uint16)[None]
    return encoded(PIL.Image.fromarray(row.repeat(side, 0)), compress_level=1)


def floats(side: int = SIDE) -> bytes:
    """A TIFF of floats."""
    values = np.zeros((side, side), np.float32)
    values[:, ::2] = 0.5
    return encoded(PIL.Image.fromarray(values), "TIFF", compression="tiff_lzw")


def webp(side: int) -> bytes:
    """A WebP with alpha of a few KB."""
    return encoded(plain("RGBA", side), "WEBP", lossless=True, method=0, quality=0)


# Name, file, the start of the refusal or None; of 64 megapixels or refused before.
LARGE: list[tuple[str, Callable[[], bytes], str | None]] = [
    ("JPEG 203,484 scans", lambda: short_scan_bomb(SCANS_IN_19_MIB), "has more than 64 scans"),
    ("JPEG 50 scans", lambda: scan_bomb(40), None),
    ("JPEG 1,000,000 segments", lambda: segment_bomb(1_000_000), "has more than 4096 segments"),
    (
        "JPEG progressive 4:4:4",
        progressive_444,
        "has 8000×8000 pixels; at most 46 million are allowed in a progressive JPEG",
    ),
    ("JPEG CMYK", lambda: encoded(plain("CMYK"), "JPEG"), None),
    ("JPEG EXIF", exif_bomb, None),
    (
        "WebP RGBA",
        lambda: webp(SIDE),
        "has 8000×8000 pixels; at most 14 million are allowed in WEBP",
    ),
    ("PNG palette", lambda: encoded(plain("P"), compress_level=1, transparency=b"\x80"), None),
    ("PNG 16 bits", sixteen_bits, None),
    ("PNG RGBA", lambda: encoded(plain("RGBA"), compress_level=1), None),
    ("PNG profile", profile_bomb, "is not an image that can be read"),
    ("TIFF floats", floats, None),
    ("TIFF of one 16-bit strip", single_strip_tiff, "takes more memory to decode"),
    ("GIF", lambda: encoded(plain("P"), "GIF"), None),
    ("GIF 3000 frames", frames_bomb, None),
]
# Of up to 16 megapixels.
MEDIUM: list[tuple[str, Callable[[], bytes], str | None]] = [
    ("JPEG progressive 4:4:4", lambda: encoded(
        plain("RGB", 4000), "JPEG", progressive=True, subsampling="4:4:4"), None),
    ("WebP RGBA", lambda: webp(3740), None),
    ("AVIF RGBA", lambda: encoded(
        plain("RGBA", 3535), "AVIF", subsampling="4:4:4", speed=10), None),
    ("PNG palette", lambda: encoded(
        plain("P", 4000), compress_level=1, transparency=b"\x80"), None),
    ("PNG 16 bits", lambda: sixteen_bits(4000), None),
    ("PNG RGBA", lambda: encoded(plain("RGBA", 4000), compress_level=1), None),
    ("TIFF floats", lambda: floats(4000), None),
]  # fmt: skip
