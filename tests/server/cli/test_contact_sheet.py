"""What the sheets of `qwen-edit edit` show, and how their images are read."""

import io
from pathlib import Path

import PIL.Image
import PIL.ImageChops
import pytest

from server.cli.canvas import BACKGROUND, INK, MARGIN, Caption
from server.cli.contact_sheet import Cell, draw_comparison, draw_grid, open_image
from tests.conftest import encoded, gradient

CAPTION = Caption("Make it blue", (("model", "tiny"), ("seed", "4")))


def plain(color: str, size: tuple[int, int] = (256, 256)) -> PIL.Image.Image:
    return PIL.Image.new("RGB", size, color)


def places(sheet: PIL.Image.Image, color: str) -> tuple[int, int, int, int] | None:
    """The box around everything of this colour."""
    flat = PIL.Image.new("RGB", sheet.size, color)
    same = PIL.ImageChops.difference(sheet, flat).convert("L").point(lambda v: 255 * (v < 3))
    return same.getbbox()


def test_comparison_has_inputs_left_and_the_output_right() -> None:
    sheet = draw_comparison([plain("#ff0000"), plain("#00ff00")], plain("#0000ff"), CAPTION)

    boxes = [places(sheet, color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    [red, green, blue] = [box for box in boxes if box is not None]
    assert red[2] < green[0] < green[2] < blue[0]
    assert red[1] == green[1] == blue[1]
    assert sheet.getpixel((0, 0)) == PIL.Image.new("RGB", (1, 1), BACKGROUND).getpixel((0, 0))


def test_longer_caption_makes_a_taller_sheet_and_stays_on_it() -> None:
    short = draw_comparison([plain("red")], plain("blue"), CAPTION)
    words = Caption("word " * 150, tuple((f"name {n}", "value " * 40) for n in range(6)))
    long = draw_comparison([plain("red")], plain("blue"), words)

    margin = long.crop((long.width - 40, 0, long.width, long.height))
    assert long.height > short.height
    assert margin.getcolors(2) is not None, "nothing is drawn into the margin"
    assert len(margin.getcolors(2) or ()) == 1


def test_caption_of_another_script_is_drawn() -> None:
    sheet = draw_comparison([plain("red")], plain("blue"), Caption("球を青くする" * 40, ()))
    assert sheet.height > 700


def test_grid_has_a_place_for_each_cell() -> None:
    colors = [["#110000", "#220000"], ["#330000", "#440000"], ["#550000", "#660000"]]
    cells = [
        [Cell(plain(color), f"seed {n}", f"style {r}") for n, color in enumerate(row)]
        for r, row in enumerate(colors)
    ]
    sheet = draw_grid([plain("#00ff00")], cells, CAPTION)

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
    row = "" if columns == 6 else "cfg 1"
    cells = [Cell(one, f"seed {n}", row) for n in range(count)]
    rows = [cells[start : start + columns] for start in range(0, count, columns)]
    sheet = draw_grid([plain("red", (384, 216))] * 3, rows, Caption("word " * 300, facts))

    file = io.BytesIO()
    sheet.save(file, image_format)
    assert file.tell()
    assert max(sheet.size) <= 16383


@pytest.mark.parametrize("size", [(384, 216), (400, 200), (200, 300)])
def test_grid_of_three_wide_inputs_has_room_for_them_and_for_the_caption(
    size: tuple[int, int],
) -> None:
    colors = ["#ff0000", "#00ff00", "#0000ff"]
    cells = [[Cell(plain("#110000"), "seed 1"), Cell(plain("#220000"), "seed 2")]]
    sheet = draw_grid([plain(color, size) for color in colors], cells, CAPTION)

    boxes = [box for color in colors if (box := places(sheet, color))]
    assert len({box[2] - box[0] for box in boxes}) == 1, "each is whole"
    assert max(box[2] for box in boxes) <= sheet.width - MARGIN
    # in the header, all that is written is the caption: its first line has the prompt in one piece
    first_cell = places(sheet, "#110000")
    assert first_cell is not None
    header = sheet.crop((0, 0, sheet.width, first_cell[1] - 60))
    written = places(header, INK)
    assert written is not None
    assert written[2] - written[0] > 150
    assert written[2] <= sheet.width - MARGIN


def test_image_with_alpha_lies_on_white() -> None:
    file = io.BytesIO(encoded(PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert open_image(file).getpixel((0, 0)) == (255, 255, 255)


def test_grey_of_16_bits_is_as_light_as_it_says() -> None:
    grey = PIL.Image.new("I;16", (8, 8), 20000)
    assert open_image(io.BytesIO(encoded(grey))).getpixel((0, 0)) == (78, 78, 78)


def test_image_turned_by_its_camera_is_turned_back(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(gradient(96, 64), "JPEG", exif=exif))
    assert open_image(path).size == (64, 96)
