"""Files of cameras, phones and programs become plain RGB images, or are refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from server.errors import InvalidImage
from server.media import rgb
from server.media.images import MAX_PIXELS_BY_FORMAT
from server.media.rgb import RgbImage, load, open_image, to_rgb
from tests.conftest import encoded, gradient

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
# How an upright image is stored in the file, by EXIF orientation.
STORED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}


def opened(data: bytes) -> PIL.Image.Image:
    """The image as the model would get it."""
    image = load(open_image(data))
    whole = image.rows(0, image.size[1])
    assert (whole.mode, whole.size) == ("RGB", image.size)
    return whole


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidImage) as caught:
        load(open_image(data))
    return str(caught.value)


def pixel(data: bytes, x: int = 16, y: int = 16) -> Any:
    return opened(data).getpixel((x, y))


def near(found: Any, expected: tuple[int, int, int], tolerance: int = 4) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


def plain(mode: str, color: Any) -> PIL.Image.Image:
    return PIL.Image.new(mode, (32, 32), color)


def quadrants() -> PIL.Image.Image:
    """An upright image, wider than high, whose four corners differ."""
    image = PIL.Image.new("RGB", (64, 32), RED)
    image.paste(GREEN, (32, 0, 64, 16))
    image.paste(BLUE, (0, 16, 32, 32))
    image.paste(WHITE, (32, 16, 64, 32))
    return image


def exif(orientation: int) -> PIL.Image.Exif:
    found = PIL.Image.Exif()
    found[ORIENTATION] = orientation
    return found


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with the colors of red and green exchanged: what it calls red is our green."""
    swap = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    profile = bytearray(srgb_profile())
    (count,) = struct.unpack(">I", profile[128:132])
    for entry in range(132, 132 + 12 * count, 12):
        tag = bytes(profile[entry : entry + 4])
        profile[entry : entry + 4] = swap.get(tag, tag)
    return bytes(profile)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_image_is_read_in_every_listed_format(image_format: str) -> None:
    image = opened(encoded(plain("RGB", RED), image_format))

    assert image.size == (32, 32)
    assert near(image.getpixel((16, 16)), RED)


def test_first_image_of_an_mpo_file_is_read() -> None:
    data = encoded(plain("RGB", RED), "MPO", save_all=True, append_images=[plain("RGB", BLUE)])

    assert near(pixel(data), RED)


def test_rgb_pixels_are_kept_as_they_are() -> None:
    image = gradient()

    assert np.array_equal(opened(encoded(image)), image)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation: int) -> None:
    stored = quadrants().transpose(STORED[orientation])

    image = opened(encoded(stored, exif=exif(orientation)))

    assert np.array_equal(image, quadrants())


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP", "TIFF"])
def test_orientation_is_applied_once_in_every_format(image_format: str) -> None:
    stored = quadrants().transpose(STORED[6])

    image = opened(encoded(stored, image_format, exif=exif(6)))

    assert image.size == (64, 32)
    assert near(image.getpixel((8, 4)), RED, 12)
    assert near(image.getpixel((56, 28)), WHITE, 12)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colors_are_converted_to_srgb(image_format: str) -> None:
    data = encoded(plain("RGB", RED), image_format, icc_profile=swapped_profile())

    assert near(pixel(data), GREEN, 6)


def test_srgb_profile_keeps_the_colors() -> None:
    image = gradient()

    found = np.asarray(opened(encoded(image, icc_profile=srgb_profile())), dtype=int)

    assert np.abs(found - np.asarray(image, dtype=int)).max() <= 1


def test_profile_is_applied_to_a_palette() -> None:
    data = encoded(plain("RGB", RED).quantize(2), icc_profile=swapped_profile())

    assert near(pixel(data), GREEN, 6)


def test_profile_is_applied_under_alpha() -> None:
    data = encoded(plain("RGBA", (*RED, 255)), icc_profile=swapped_profile())

    assert near(pixel(data), GREEN, 6)


@pytest.mark.parametrize("profile", [b"no profile", srgb_profile()[:200]])
def test_damaged_profile_is_ignored(profile: bytes) -> None:
    assert pixel(encoded(plain("RGB", RED), icc_profile=profile)) == RED


def test_profile_of_other_channels_is_ignored() -> None:
    # an RGB profile on a gray image, which some programs write
    data = encoded(plain("L", 100), icc_profile=srgb_profile())

    assert pixel(data) == (100, 100, 100)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_flattened_on_white(image_format: str) -> None:
    data = encoded(plain("RGBA", (255, 0, 0, 128)), image_format)

    assert near(pixel(data), (255, 127, 127))


def test_fully_transparent_pixels_are_white() -> None:
    assert pixel(encoded(plain("RGBA", (10, 20, 30, 0)))) == WHITE


def test_gray_with_alpha_is_flattened_on_white() -> None:
    assert pixel(encoded(plain("LA", (0, 128)))) == (127, 127, 127)


def test_transparent_color_of_a_palette_is_white() -> None:
    image = PIL.Image.new("P", (32, 32), 1)
    image.putpalette([*RED, *BLUE])
    image.paste(0, (0, 0, 16, 32))

    found = opened(encoded(image, transparency=0))

    assert (found.getpixel((4, 4)), found.getpixel((28, 4))) == (WHITE, BLUE)


def test_palette_with_an_alpha_for_each_color_is_flattened() -> None:
    image = PIL.Image.new("P", (32, 32), 1)
    image.putpalette([*RED, 0, 0, 0])

    assert pixel(encoded(image, transparency=b"\xff\x80")) == (127, 127, 127)


def test_transparent_color_of_an_rgb_image_is_white() -> None:
    assert pixel(encoded(plain("RGB", (1, 2, 3)), transparency=(1, 2, 3))) == WHITE


def test_cmyk_jpeg_is_converted() -> None:
    assert near(pixel(encoded(plain("CMYK", (0, 255, 255, 0)), "JPEG")), RED)


def test_cmyk_tiff_is_converted() -> None:
    assert near(pixel(encoded(plain("CMYK", (255, 0, 255, 0)), "TIFF")), GREEN)


def test_lab_tiff_is_converted() -> None:
    found = pixel(encoded(plain("LAB", (255, 128, 128)), "TIFF"))

    assert near(found, WHITE)


# Pillow 12 does not read its own uncompressed YCbCr files; Pillow 13 does.
@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_ycbcr_tiff_is_converted(compression: str) -> None:
    image = plain("RGB", RED).convert("YCbCr")

    assert near(pixel(encoded(image, "TIFF", compression=compression)), RED)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (32768, 128), (65535, 255), (300, 1)])
def test_gray_of_16_bits_is_scaled_and_not_clipped(
    image_format: str, value: int, expected: int
) -> None:
    image = PIL.Image.fromarray(np.full((32, 32), value, dtype=np.uint16))
    assert image.mode == "I;16"

    assert pixel(encoded(image, image_format)) == (expected, expected, expected)


def test_big_endian_tiff_of_16_bits_is_scaled() -> None:
    image = PIL.Image.frombytes("I;16B", (32, 32), b"\x80\x00" * 1024)

    assert pixel(encoded(image, "TIFF")) == (128, 128, 128)


def test_orientation_of_a_gray_image_of_16_bits_is_applied() -> None:
    values = np.zeros((32, 64), dtype=np.uint16)
    values[:, :32] = 65535
    stored = PIL.Image.fromarray(np.rot90(values).copy())

    found = opened(encoded(stored, exif=exif(6)))

    assert (found.getpixel((4, 16)), found.getpixel((60, 16))) == (WHITE, (0, 0, 0))


def test_tiff_of_floats_is_scaled() -> None:
    image = PIL.Image.fromarray(np.full((32, 32), 0.5, dtype=np.float32))

    assert pixel(encoded(image, "TIFF")) == (128, 128, 128)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "BMP"])
def test_image_of_one_bit_is_black_and_white(image_format: str) -> None:
    image = plain("1", 0)
    image.paste(1, (0, 0, 16, 32))

    found = opened(encoded(image, image_format))

    assert (found.getpixel((4, 4)), found.getpixel((28, 4))) == (WHITE, (0, 0, 0))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_animation_gives_its_first_frame(image_format: str) -> None:
    data = encoded(
        plain("RGB", RED), image_format, save_all=True, append_images=[plain("RGB", BLUE)]
    )

    assert near(pixel(data), RED)


@pytest.mark.parametrize("data", [b"", b"GIF", b"<html>no image</html>", bytes(1000)])
def test_unreadable_data_is_refused_with_the_allowed_formats(data: bytes) -> None:
    assert refusal(data) == (
        f"is not an image that can be read ({len(data)} bytes). Send JPEG, PNG, WebP, "
        "BMP, TIFF, GIF or AVIF."
    )


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "PDF"])
def test_image_of_a_format_that_is_not_listed_is_refused(image_format: str) -> None:
    data = encoded(plain("RGB", RED), image_format)

    assert "is not an image that can be read" in refusal(data)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_truncated_image_is_refused(image_format: str) -> None:
    data = encoded(gradient(400, 300), image_format)

    sentence = refusal(data[: len(data) // 2])

    assert sentence.startswith(("is damaged", "is not an image"))


def test_damaged_pixels_are_refused() -> None:
    data = bytearray(encoded(gradient(200, 200)))
    data[len(data) // 2] ^= 0xFF

    assert refusal(bytes(data)).startswith("is damaged")


@pytest.mark.parametrize("size", [(8, 8), (15, 100), (100, 15), (4000, 100), (16, 257)])
def test_unusable_size_is_refused(size: tuple[int, int]) -> None:
    width, height = size

    assert refusal(encoded(PIL.Image.new("RGB", size))) == (
        f"has {width}×{height} pixels; a side must have at least 16, and one side may be "
        "at most 16 times the other."
    )


@pytest.mark.parametrize("size", [(16, 16), (256, 16), (16, 256)])
def test_size_at_the_limit_is_allowed(size: tuple[int, int]) -> None:
    assert opened(encoded(PIL.Image.new("RGB", size))).size == size


def test_too_many_pixels_are_refused_by_the_header_alone() -> None:
    assert refusal(png_header(8001, 8000)) == (
        "has 8001×8000 pixels; at most 64 million are allowed."
    )


def test_pixels_at_the_limit_are_allowed() -> None:
    # this file holds no such image: what stops it now is its content
    assert refusal(png_header(8000, 8000)).startswith("is damaged")


MODES = ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "LAB", "I", "I;16", "F"]


@pytest.mark.parametrize("orientation", [1, *STORED])
@pytest.mark.parametrize("mode", MODES)
def test_strips_are_the_rows_of_the_whole(
    mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rgb, "STRIP_PIXELS", 400)
    values = np.random.default_rng(0).integers(0, 65536, (37, 53), dtype=np.uint16)
    image = PIL.Image.fromarray(values)
    image = image if mode == "I;16" else image.convert("I").convert("RGB").convert(mode)
    if mode == "F":
        image = PIL.Image.fromarray((values / 65535).astype(np.float32))
    stored = image.transpose(STORED[orientation]) if orientation in STORED else image
    back = RgbImage(stored, orientation, swapped_profile())

    strips = [np.asarray(strip) for strip in back.strips()]

    assert len(strips) > 1
    assert np.array_equal(np.concatenate(strips), to_rgb_of(image))


def to_rgb_of(upright: PIL.Image.Image) -> np.ndarray[Any, Any]:
    image = RgbImage(upright, 1, swapped_profile())
    return np.asarray(image.rows(0, image.size[1]))


@pytest.mark.parametrize("options", [{"lossless": True}, {}, {"exif": exif(1)}])
def test_webp_over_its_limit_is_refused_by_its_header(options: dict[str, Any]) -> None:
    data = bytearray(encoded(plain("RGB", RED), "WEBP", **options))
    match data[12:16]:
        case b"VP8X":
            data[24:30] = (3999).to_bytes(3, "little") * 2
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little") & 0xF0000000 | 3999 << 14 | 3999
            data[21:25] = bits.to_bytes(4, "little")
        case _:
            data[26:30] = (4000).to_bytes(2, "little") * 2

    assert refusal(bytes(data)) == (
        "has 4000×4000 pixels; at most 14 million are allowed in WEBP. Send it as JPEG or PNG."
    )


def test_avif_over_its_limit_is_refused() -> None:
    assert MAX_PIXELS_BY_FORMAT["AVIF"] < 3600 * 3600
    data = encoded(PIL.Image.new("L", (3600, 3600)), "AVIF", speed=10)

    assert "at most 12.5 million are allowed in AVIF" in refusal(data)


def test_whole_image_is_named_when_it_is_damaged() -> None:
    data = encoded(gradient(200, 200))
    image = PIL.Image.open(io.BytesIO(data[: len(data) // 2]))

    with pytest.raises(InvalidImage, match=r"^cat\.png is damaged"):
        to_rgb(image, "cat.png")
