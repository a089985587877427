"""Limits of input images that need no decoder."""

from pathlib import Path

import pytest

from server.errors import PayloadTooLarge
from server.limits import MAX_IMAGE_BYTES
from server.media.images import FORMATS, check_bytes, media_type
from tests.conftest import encoded, gradient


def test_bytes_at_the_limit_are_allowed() -> None:
    check_bytes(1000, 1000, "images/0")


def test_bytes_beyond_the_limit_are_refused_with_both_numbers() -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        check_bytes(22 * 2**20, MAX_IMAGE_BYTES, "images/1")

    assert caught.value.field == "images/1"
    assert str(caught.value) == ("images/1 has 22.0 MiB; at most 20 MiB are allowed for one image.")


@pytest.mark.parametrize("image_format", [*FORMATS, "MPO"])
def test_media_type_is_found_by_the_first_bytes(image_format: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.bin"
    path.write_bytes(encoded(gradient(), image_format)[:64])

    expected = "JPEG" if image_format == "MPO" else image_format
    assert media_type(path) == f"image/{expected.lower()}"


@pytest.mark.parametrize("data", [b"", b"<svg>", b"<html>", b"RIFF....WAVE", b"....ftypisom"])
def test_media_type_is_none_for_other_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "upload.bin"
    path.write_bytes(data)

    assert media_type(path) is None
