"""Counting the scans of a JPEG, as libjpeg would find them."""

import time

import pytest

from server.errors import InvalidImage
from server.media.jpeg_scans import MAX_SCANS, count_scans
from tests.conftest import encoded, gradient
from tests.server.media.bombs import SCANS_IN_19_MIB, segment_bomb, short_scan_bomb


@pytest.mark.parametrize(
    ("subsampling", "coefficients"), [("4:4:4", 3), ("4:2:2", 2), ("4:2:0", 1.5)]
)
def test_progressive_jpeg_keeps_its_coefficients(subsampling: str, coefficients: float) -> None:
    data = encoded(gradient(640, 480), "JPEG", progressive=True, subsampling=subsampling)

    scans = count_scans(data)

    assert 2 < scans.count <= 12
    assert scans.buffer_bytes == 640 * 480 * coefficients * 2


def test_baseline_jpeg_keeps_nothing() -> None:
    scans = count_scans(encoded(gradient(640, 480), "JPEG"))

    assert (scans.count, scans.buffer_bytes) == (1, 0)


def test_scans_of_a_thumbnail_are_not_counted() -> None:
    thumbnail = encoded(gradient(), "JPEG", progressive=True)
    segment = b"\xff\xe5" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    data = encoded(gradient(), "JPEG")

    assert count_scans(data[:2] + segment + data[2:]).count == 1


def test_scans_behind_a_marker_without_length_are_counted() -> None:
    data = short_scan_bomb(0)
    hidden = b"\xff\x02\xff\xff"  # libjpeg resumes right after such a marker

    assert count_scans(data[:-2] + hidden + data[data.rindex(b"\xff\xda") :]).count == (
        count_scans(data).count + 1
    )


@pytest.mark.parametrize("data", [b"\xff\xd8", b"\xff\xd8\xff\xc2", b"\xff\xd8\xff\xda\xff"])
def test_truncated_jpeg_ends_the_count(data: bytes) -> None:
    assert count_scans(data).count <= 1


def test_scan_bomb_is_refused_at_once() -> None:
    data = short_scan_bomb(SCANS_IN_19_MIB)
    start = time.process_time()

    with pytest.raises(InvalidImage, match=f"more than {MAX_SCANS} scans"):
        count_scans(data)

    assert time.process_time() - start < 0.1


def test_segment_bomb_is_refused_at_once() -> None:
    data = segment_bomb(1_000_000)
    start = time.process_time()

    with pytest.raises(InvalidImage, match="more than 4096 segments"):
        count_scans(data)

    assert time.process_time() - start < 0.1
