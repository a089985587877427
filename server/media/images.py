"""Limits of input images, and checks that need no decoder."""

from pathlib import Path

from server.errors import PayloadTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
MIN_SIDE = 16
MAX_ASPECT = 16
MAX_PIXELS = 64_000_000
PROGRESSIVE_444 = "JPEG progressive 4:4:4"
# Formats whose libraries need several times the memory of the decoded image.
MAX_PIXELS_BY_FORMAT = {"WEBP": 14_000_000, "AVIF": 12_500_000, PROGRESSIVE_444: 46_000_000}

_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
)
_AVIF_BRANDS = (b"avif", b"avis")


def media_type(path: Path) -> str | None:
    """Return the media type that a file's first bytes name (`image/png`), or None."""
    with path.open("rb") as file:
        start = file.read(16)
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp" and start[8:12] in _AVIF_BRANDS:
        return "image/avif"
    return next((name for signature, name in _SIGNATURES if start.startswith(signature)), None)


def check_bytes(size: int, max_bytes: int, field: str) -> None:
    """Raise PayloadTooLarge if an image exceeds the limit."""
    if size > max_bytes:
        raise PayloadTooLarge(
            f"{field} has {size / 2**20:.1f} MiB; at most {max_bytes / 2**20:.3g} MiB are "
            f"allowed for one image.",
            field=field,
        )
