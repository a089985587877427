"""Position, size and legibility of the watermark."""

import numpy as np
import PIL.Image
import pytest

from server.media.watermark import draw_watermark


def marked(color: str, size: tuple[int, int] = (1024, 768)) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the watermark, and the grey values of the marked image."""
    plain = PIL.Image.new("RGB", size, color)
    image = plain.copy()
    draw_watermark(image, "Qwen-Image")
    before, after = (np.asarray(image.convert("L"), int) for image in (plain, image))
    return before != after, after


@pytest.mark.parametrize("size", [(256, 256), (1024, 768), (1536, 1536), (512, 2048)])
def test_watermark_is_in_the_lower_right_corner_at_two_percent_of_the_height(
    size: tuple[int, int],
) -> None:
    where, _ = marked("gray", size)
    rows, columns = np.nonzero(where)
    width, height = size
    assert rows.min() > 0.9 * height - 10
    assert columns.max() < width
    assert columns.min() > 0.3 * width
    letters = rows.max() - rows.min()
    assert 0.012 * height <= letters <= max(0.035 * height, 16)


@pytest.mark.parametrize("color", ["white", "black", "gray", "red", "yellow", "navy"])
def test_watermark_is_legible_on_light_and_dark(color: str) -> None:
    where, grey = marked(color)
    values = grey[where]
    background = int(np.asarray(PIL.Image.new("RGB", (1, 1), color).convert("L"))[0, 0])
    assert np.abs(values - background).max() >= 120
