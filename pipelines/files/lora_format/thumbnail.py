"""The preview image of a LoRA: a file beside it, else the data URI in its metadata.

Both come from anyone. Images are bounded, known by their first bytes and never decoded here.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.files.lora_sidecars import PREVIEWS

# https://github.com/Stability-AI/ModelSpec
METADATA_KEY = "modelspec.thumbnail"
MAX_THUMBNAIL_BYTES = 4 * 2**20
_DATA_URI = re.compile(r"data:[^,]{0,100};base64,", re.IGNORECASE)
# The longest signature.
_START_BYTES = 12


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image and its media type, `image/png`, `image/jpeg` or `image/webp`."""

    media_type: str
    data: bytes


def has_preview(path: Path) -> bool:
    """Return whether an image lies beside the LoRA at `path`."""
    return _preview(path) is not None


def read_preview(path: Path) -> Thumbnail | None:
    """Return the image beside the LoRA at `path`."""
    preview = _preview(path)
    if preview is None:
        return None
    with preview.open("rb") as file:
        return _thumbnail(file.read(MAX_THUMBNAIL_BYTES + 1))


def embedded_thumbnail(metadata: Mapping[str, str]) -> Thumbnail | None:
    """Return the image in a LoRA's metadata."""
    uri = metadata.get(METADATA_KEY, "")
    match = _DATA_URI.match(uri)
    if match is None:
        return None
    try:
        return _thumbnail(base64.b64decode(uri[match.end() :]))
    except (binascii.Error, ValueError):
        return None


def without_images(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata without the images in it, which may have megabytes."""
    return {
        key: value
        for key, value in metadata.items()
        if key != METADATA_KEY and not value[:11].lower().startswith("data:image/")
    }


def _preview(path: Path) -> Path | None:
    for suffix in PREVIEWS:
        preview = path.with_suffix(suffix)
        try:
            # a pipe would never end
            if not preview.is_file() or preview.stat().st_size > MAX_THUMBNAIL_BYTES:
                continue
            with preview.open("rb") as file:
                start = file.read(_START_BYTES)
        except OSError:
            continue
        if _media_type(start):
            return preview
    return None


def _thumbnail(data: bytes) -> Thumbnail | None:
    media_type = _media_type(data[:_START_BYTES])
    if media_type is None or len(data) > MAX_THUMBNAIL_BYTES:
        return None
    return Thumbnail(media_type, data)


def _media_type(start: bytes) -> str | None:
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if start.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None
