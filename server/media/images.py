"""Validates input images and converts them to RGB.

Applies the EXIF orientation, converts ICC profiles to sRGB, flattens alpha on white, converts CMYK
and 16 bits per channel, and takes the first frame of an animation.
"""

import io
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageCms, ImageOps

from server.errors import InvalidImage, PayloadTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
MIN_SIDE = 16
MAX_ASPECT = 16
MAX_PIXELS = 64_000_000

# Pillow's own limit is higher than MAX_PIXELS, which is checked before anything is decoded.
PIL.Image.MAX_IMAGE_PIXELS = None
# Without it Pillow knows only its five most common formats until it meets another one.
PIL.Image.init()


def to_rgb_png(data: bytes, field: str) -> bytes:
    """Return the image in `data` as an RGB PNG without metadata.

    Raises InvalidImage, naming `field`, the image's size and the limits.
    """
    image = to_rgb(_open(data, field), field)
    file = io.BytesIO()
    # level 1: the file lives for one job, and the default level takes four times as long
    image.save(file, "PNG", compress_level=1, icc_profile=None)
    return file.getvalue()


def media_type(path: Path) -> str | None:
    """Return the media type of a file's content (`image/png`), or None if it is no image."""
    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            return image.get_format_mimetype()
    except (OSError, ValueError, SyntaxError):
        return None


def check_bytes(size: int, max_bytes: int, field: str) -> None:
    """Raise PayloadTooLarge if an image exceeds the limit."""
    if size > max_bytes:
        raise PayloadTooLarge(
            f"{field} has {size / 2**20:.1f} MiB; at most {max_bytes / 2**20:.3g} MiB are "
            f"allowed for one image.",
            field=field,
        )


def _open(data: bytes, field: str) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, ValueError, SyntaxError) as exc:
        raise InvalidImage(
            f"{field} is not an image that can be read ({len(data)} bytes). Send JPEG, PNG, WebP, "
            f"BMP, TIFF, GIF or AVIF.",
            field=field,
        ) from exc
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InvalidImage(
            f"{field} has {width}×{height} pixels; at most {MAX_PIXELS // 10**6} million are "
            f"allowed.",
            field=field,
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"{field} has {width}×{height} pixels; a side must have at least {MIN_SIDE}, and one "
            f"side may be at most {MAX_ASPECT} times the other.",
            field=field,
        )
    return image


def to_rgb(image: PIL.Image.Image, field: str) -> PIL.Image.Image:
    """Return the image in RGB, upright, with transparency flattened on white.

    Raises InvalidImage, naming `field`, if the image is damaged.
    """
    try:
        image.load()
        profile = image.info.get("icc_profile")
        upright = ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, IndexError) as exc:
        raise InvalidImage(f"{field} is damaged: {exc}.", field=field) from exc
    plain = _to_eight_bits(upright)
    if plain.mode == "P":
        plain = plain.convert("RGBA" if "transparency" in plain.info else "RGB")
    alpha = None
    if plain.has_transparency_data:
        rgba = plain.convert("RGBA")
        alpha = rgba.getchannel("A")
        plain = rgba.convert("RGB")
    rgb = _to_srgb(plain, profile)
    if alpha is None:
        return rgb
    white = PIL.Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


def _to_eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scale gray images of 16 or 32 bits to 8; Pillow itself would clip them to white."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    # 32-bit modes hold 16-bit values in the allowed formats; floats range from 0 to 1
    full = 1.0 if image.mode == "F" and values.max(initial=0) <= 1 else 65535.0
    return PIL.Image.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))


def _to_srgb(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image:
    """Convert the colors to sRGB; ignore a profile that is damaged or of another color space."""
    if profile and image.mode in ("RGB", "L", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")
