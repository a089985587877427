"""Validates input images and converts them to RGB.

Applies the EXIF orientation, converts ICC profiles to sRGB, flattens alpha on white, converts CMYK
and 16 bits per channel, and takes the first frame of an animation.

A decoded image is converted in strips: beside the image itself, only a few MB are needed.
"""

import io
from collections.abc import Iterator

import PIL.Image
from PIL import AvifImagePlugin, ImageCms, WebPImagePlugin

from server.errors import InvalidImage
from server.media.images import (
    FORMATS,
    MAX_ASPECT,
    MAX_PIXELS,
    MAX_PIXELS_BY_FORMAT,
    MIN_SIDE,
)
from server.media.jpeg_scans import count_scans

# The decoded image, and what libjpeg keeps of a progressive one.
MAX_DECODED_BYTES = 440 * 2**20
STRIP_PIXELS = 2**19

Image = PIL.Image.Image
Transpose = PIL.Image.Transpose

_ORIENTATION = 0x0112
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# Turns that exchange width and height, and those for which the top comes from the end.
_SIDEWAYS = frozenset(_TURNS[each] for each in (5, 6, 7, 8))
_FROM_THE_END = frozenset(_TURNS[each] for each in (3, 4, 7, 8))
# Pillow's words for a failed allocation of a codec.
_OUT_OF_MEMORY = ("decoder error -9", "out of memory error")
# By mode, where Pillow needs less than four bytes per pixel.
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
_SIXTEEN_TO_EIGHT = [round(value * (255 / 65535)) for value in range(65536)]

# Pillow's own limit is higher than MAX_PIXELS, which is checked before anything is decoded.
PIL.Image.MAX_IMAGE_PIXELS = None
# Without it Pillow knows only its five most common formats until it meets another one.
PIL.Image.init()


class RgbImage:
    """A decoded image as RGB, upright, with transparency flattened on white."""

    def __init__(self, decoded: Image, orientation: int, profile: bytes | None) -> None:
        self._decoded = decoded
        self._turn = _TURNS.get(orientation)
        self._profile = profile
        self._transform: ImageCms.ImageCmsTransform | None = None
        self._has_unit_range = decoded.mode == "F" and _largest(decoded) <= 1
        width, height = decoded.size
        self.size = (height, width) if self._turn in _SIDEWAYS else (width, height)

    def strips(self) -> Iterator[Image]:
        """Yield the image from top to bottom, in strips of about `STRIP_PIXELS`."""
        width, height = self.size
        rows = max(1, STRIP_PIXELS // width)
        for top in range(0, height, rows):
            yield self.rows(top, min(top + rows, height))

    def rows(self, top: int, bottom: int) -> Image:
        """Return the rows from `top` up to `bottom`."""
        plain = self._to_eight_bits(self._upright(top, bottom))
        if plain.mode == "P":
            plain = plain.convert("RGBA" if "transparency" in plain.info else "RGB")
        if not plain.has_transparency_data:
            return self._to_srgb(plain)
        rgba = plain.convert("RGBA")
        rgb = self._to_srgb(rgba.convert("RGB"))
        white = PIL.Image.new("RGB", rgb.size, "white")
        white.paste(rgb, mask=rgba.getchannel("A"))
        return white

    def _upright(self, top: int, bottom: int) -> Image:
        width, height = self.size
        if self._turn in _FROM_THE_END:
            top, bottom = height - bottom, height - top
        is_sideways = self._turn in _SIDEWAYS
        box = (top, 0, bottom, width) if is_sideways else (0, top, width, bottom)
        part = self._decoded.crop(box)
        return part if self._turn is None else part.transpose(self._turn)

    def _to_eight_bits(self, image: Image) -> Image:
        """Scale gray images of 16 or 32 bits to 8; Pillow itself would clip them to white."""
        if image.mode == "F":
            return _floats_to_eight_bits(image, 1.0 if self._has_unit_range else 65535.0)
        if image.mode.startswith("I"):
            # 32-bit modes hold 16-bit values in the allowed formats
            return image.convert("I").point(_SIXTEEN_TO_EIGHT, "L")
        return image

    def _to_srgb(self, image: Image) -> Image:
        """Convert the colors to sRGB; ignore a profile that is damaged or of another space."""
        if self._profile and image.mode in ("RGB", "L", "CMYK"):
            try:
                if self._transform is None:
                    self._transform = _transform(self._profile, image.mode)
                converted = ImageCms.applyTransform(image, self._transform)
            except (ImageCms.PyCMSError, OSError, ValueError):
                self._profile = None
                return image.convert("RGB")
            if converted is not None:
                return converted
        return image.convert("RGB")


def open_image(data: bytes) -> Image:
    """Open an image and check its size, before any pixel is decoded.

    Raises InvalidImage, without the name of the field.
    """
    is_jpeg = data.startswith(b"\xff\xd8")
    scan_bytes = count_scans(data).buffer_bytes if is_jpeg else 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        # opening it allocates its canvases
        _check_size(_webp_size(data), "WEBP")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, ValueError, SyntaxError) as exc:
        raise InvalidImage(
            f"is not an image that can be read ({len(data)} bytes). Send JPEG, PNG, WebP, "
            f"BMP, TIFF, GIF or AVIF."
        ) from exc
    _check_size(image.size, image.format or "")
    _check_memory(image, scan_bytes)
    return image


def load(image: Image) -> RgbImage:
    """Decode the image. Raises InvalidImage, without the name of the field, if it is damaged."""
    try:
        decoded = _decode(image)
        orientation = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, IndexError, EOFError) as exc:
        if str(exc).endswith(_OUT_OF_MEMORY):
            raise MemoryError from exc
        raise InvalidImage(f"is damaged: {exc}.") from exc
    return RgbImage(decoded, orientation, image.info.get("icc_profile"))


def to_rgb(image: Image, name: str) -> Image:
    """Return a whole image in RGB. Raises InvalidImage, naming it, if it is damaged."""
    try:
        rgb = load(image)
    except InvalidImage as exc:
        raise InvalidImage(f"{name} {exc}") from exc
    return rgb.rows(0, rgb.size[1])


def _webp_size(data: bytes) -> tuple[int, int]:
    """The size in a WebP's first chunk. Source: RFC 9649."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = data[26:28], data[28:30]
    return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF


def _check_size(size: tuple[int, int], image_format: str) -> None:
    width, height = size
    pixels = width * height
    if pixels > MAX_PIXELS:
        raise InvalidImage(
            f"has {width}×{height} pixels; at most {MAX_PIXELS // 10**6} million are allowed."
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise InvalidImage(
            f"has {width}×{height} pixels; a side must have at least {MIN_SIDE}, and one "
            f"side may be at most {MAX_ASPECT} times the other."
        )
    limit = MAX_PIXELS_BY_FORMAT.get(image_format, MAX_PIXELS)
    if pixels > limit:
        raise InvalidImage(
            f"has {width}×{height} pixels; at most {limit / 10**6:g} million are allowed in "
            f"{image_format}. Send it as JPEG or PNG."
        )


def _check_memory(image: Image, scan_bytes: int) -> None:
    width, height = image.size
    pixels = width * height
    needed = pixels * _BYTES_PER_PIXEL.get(image.mode, 4) + scan_bytes
    if needed > MAX_DECODED_BYTES:
        limit = pixels * MAX_DECODED_BYTES // needed
        raise InvalidImage(
            f"has {width}×{height} pixels; at most {limit // 10**6} million are allowed in a "
            f"progressive JPEG with these channels. Send it as a baseline JPEG."
        )


def _decode(image: Image) -> Image:
    """Load the pixels; drop the decoders of WebP and AVIF before their pixels are copied."""
    if isinstance(image, WebPImagePlugin.WebPImageFile):
        pixels = image._get_next()[0]
        image._decoder = None
        return PIL.Image.frombytes(image.mode, image.size, pixels, "raw", image.rawmode)
    if isinstance(image, AvifImagePlugin.AvifImageFile):
        pixels = image._decoder.get_frame(0)[0]
        image._decoder = None
        return PIL.Image.frombytes(image.mode, image.size, pixels)
    image.load()
    return image


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _largest(image: Image) -> float:
    """The largest value of a float image, at least 0; NaN if it holds one."""
    import numpy as np  # takes 0.2 s, and only floats need it

    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    boxes = [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
    return float(np.max([np.asarray(image.crop(box)).max(initial=0) for box in boxes]))


def _floats_to_eight_bits(image: Image, full: float) -> Image:
    import numpy as np

    values = np.asarray(image).astype(np.float64)
    np.clip(values, 0, full, out=values)
    values *= 255 / full
    return PIL.Image.fromarray(values.round(out=values).astype(np.uint8))
