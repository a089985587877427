"""The contact sheets of `qwen-edit edit`, and how their images are opened."""

import io
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import pytest

from server.cli.contact_sheet import (
    BACKGROUND,
    INK,
    MARGIN,
    Caption,
    Cell,
    draw_comparison,
    draw_sheet,
    input_cells,
    open_image,
)
from tests.conftest import encoded, gradient

CAPTION = Caption("Make it blue", (("model", "tiny"), ("seed", "4")))


def plain(color: str, size: tuple[int, int] = (256, 256)) -> PIL.Image.Image:
    return PIL.Image.new("RGB", size, color)


def places(sheet: PIL.Image.Image, color: str) -> tuple[int, int, int, int] | None:
    """Return the box around everything of this color."""
    flat = PIL.Image.new("RGB", sheet.size, color)
    same = PIL.ImageChops.difference(sheet, flat).convert("L").point(lambda v: 255 * (v < 3))
    return same.getbbox()


def test_comparison_shows_inputs_left_of_the_output() -> None:
    sheet = draw_comparison([plain("#ff0000"), plain("#00ff00")], plain("#0000ff"), CAPTION)

    boxes = [places(sheet, color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    [red, green, blue] = [box for box in boxes if box is not None]
    assert red[2] < green[0] < green[2] < blue[0]
    assert red[1] == green[1] == blue[1]
    assert sheet.getpixel((0, 0)) == PIL.Image.new("RGB", (1, 1), BACKGROUND).getpixel((0, 0))


def test_sheet_grows_with_its_caption_and_keeps_its_margins() -> None:
    short = draw_comparison([plain("red")], plain("blue"), CAPTION)
    words = Caption("word " * 150, tuple((f"name {n}", "value " * 40) for n in range(6)))
    long = draw_comparison([plain("red")], plain("blue"), words)

    margin = long.crop((long.width - MARGIN + 1, 0, long.width, long.height))
    assert long.height > short.height
    assert len(margin.getcolors() or ()) == 1


def test_caption_without_spaces_breaks_into_lines() -> None:
    short = draw_comparison([plain("red")], plain("blue"), CAPTION)
    long = draw_comparison([plain("red")], plain("blue"), Caption("球を青くする" * 40, ()))

    margin = long.crop((long.width - MARGIN + 1, 0, long.width, long.height))
    assert long.height > short.height
    assert len(margin.getcolors() or ()) == 1


def test_long_label_is_cut_to_the_width_of_its_image() -> None:
    cells = [Cell(plain("#110000"), ("word " * 40,)), Cell(plain("#220000"), ("",))]
    sheet = draw_sheet([cells], Caption("", ()))

    [first, second] = [places(sheet, color) for color in ("#110000", "#220000")]
    assert first is not None
    assert second is not None
    label = places(sheet.crop((0, 0, sheet.width, first[1] - 2)), INK)
    assert label is not None
    assert label[2] < second[0]


def test_grid_has_a_place_for_each_cell() -> None:
    colors = [["#110000", "#220000"], ["#330000", "#440000"], ["#550000", "#660000"]]
    cells = [
        [Cell(plain(color), (f"style {r}", f"seed {n}")) for n, color in enumerate(row)]
        for r, row in enumerate(colors)
    ]
    sheet = draw_sheet([input_cells([plain("#00ff00")], "Input"), *cells], CAPTION)

    boxes = [[places(sheet, color) for color in row] for row in colors]
    tops = [[box[1] for box in row if box] for row in boxes]
    lefts = [[box[0] for box in row if box] for row in boxes]
    assert [len(set(row)) for row in tops] == [1, 1, 1]
    assert tops[0] < tops[1] < tops[2]
    assert lefts[0] == lefts[1] == lefts[2]
    assert lefts[0][0] < lefts[0][1]
    assert places(sheet, "#00ff00") is not None


@pytest.mark.parametrize("image_format", ["webp", "jpeg", "png"])
@pytest.mark.parametrize(("count", "columns"), [(64, 64), (64, 1), (64, 2), (52, 1), (64, 6)])
def test_largest_grid_fits_into_every_format(count: int, columns: int, image_format: str) -> None:
    facts = tuple((f"fact {n}", "value " * 40) for n in range(9))
    one = plain("red", (512, 512))
    row = () if columns == 6 else ("cfg 1",)
    cells = [Cell(one, (*row, f"seed {n}")) for n in range(count)]
    rows = [cells[start : start + columns] for start in range(0, count, columns)]
    inputs = input_cells([plain("red", (384, 216))] * 3, "Input")
    sheet = draw_sheet([inputs, *rows], Caption("word " * 300, facts))

    file = io.BytesIO()
    sheet.save(file, image_format)
    assert file.tell()
    assert max(sheet.size) <= 16383


def test_inputs_are_numbered_where_there_are_several() -> None:
    one, two = plain("red"), plain("blue")

    assert input_cells([one], "Before") == [Cell(one, ("Before",))]
    assert input_cells([one, two], "Before") == [Cell(one, ("Before 1",)), Cell(two, ("Before 2",))]


@pytest.mark.parametrize("size", [(384, 216), (400, 200), (200, 300)])
def test_three_wide_inputs_leave_room_for_every_image(size: tuple[int, int]) -> None:
    colors = ["#ff0000", "#00ff00", "#0000ff"]
    cells = [Cell(plain("#110000"), ("seed 1",)), Cell(plain("#220000"), ("seed 2",))]
    inputs = input_cells([plain(color, size) for color in colors], "Input")
    sheet = draw_sheet([inputs, cells], CAPTION)

    boxes = [box for color in colors if (box := places(sheet, color))]
    assert len({box[2] - box[0] for box in boxes}) == 1, "each is whole"
    assert max(box[2] for box in boxes) <= sheet.width - MARGIN
    caption = places(sheet.crop((0, 0, sheet.width, boxes[0][1] - 60)), INK)
    assert caption is not None
    assert caption[2] - caption[0] > 150, "the prompt is on one line"


def test_open_image_puts_transparency_on_white() -> None:
    file = io.BytesIO(encoded(PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert open_image(file).getpixel((0, 0)) == (255, 255, 255)


def test_open_image_scales_16_bit_gray() -> None:
    grey = PIL.Image.new("I;16", (8, 8), 20000)
    assert open_image(io.BytesIO(encoded(grey))).getpixel((0, 0)) == (78, 78, 78)


def test_open_image_applies_the_exif_orientation(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(gradient(96, 64), "JPEG", exif=exif))
    assert open_image(path).size == (64, 96)
