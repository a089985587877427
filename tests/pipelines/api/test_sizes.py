"""Sizes that clients ask for, and sizes that a model family derives from an image."""

import pytest
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.api.errors import InvalidParameter
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.sizes import SizeBounds, SizeRules, parse_size

BOUNDS = SizeBounds()
RULES = SizeRules(pixels_per_token=16, area_multiple=32)
PUBLISHED_AREA = 1024 * 1024

sides = st.integers(16, 8000)
bounds = st.sampled_from([SizeBounds(256, 1536), SizeBounds(512, 2048)])
areas = st.sampled_from([256 * 256, 512 * 512, PUBLISHED_AREA])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024*768", (1024, 768)),
        ("1024x768", (1024, 768)),
        ("1024X768", (1024, 768)),
        ("1024×768", (1024, 768)),
        (" 1024 * 768 ", (1024, 768)),
        ("256*1536", (256, 1536)),
    ],
)
def test_parse_size_reads_width_and_height(text: str, expected: tuple[int, int]) -> None:
    assert parse_size(text, BOUNDS) == expected


@pytest.mark.parametrize("text", ["255*1024", "1024*255", "1537*1024", "1024*1537", "0*0"])
def test_parse_size_names_the_bounds_when_a_side_is_outside(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_size(text, BOUNDS)

    assert str(caught.value) == f"size must have sides of 256–1536 pixels, got {text!r}"


@pytest.mark.parametrize(
    "text",
    ["", "abc", "1024", "1024*", "*768", "1024*768*3", "-512*512", "512.5*512", "9999999*512"],
)
def test_parse_size_names_the_format_when_the_text_is_not_a_size(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^size must be width\*height in pixels") as caught:
        parse_size(text, BOUNDS)

    assert f"got {text!r}" in str(caught.value)


def test_parse_size_names_the_callers_field() -> None:
    with pytest.raises(InvalidParameter, match=r"^image_size must") as caught:
        parse_size("abc", BOUNDS, "image_size")

    assert caught.value.field == "image_size"


@pytest.mark.parametrize("size", [(256, 256), (1536, 1536), (257, 1535)])
def test_bounds_contain_both_ends(size: tuple[int, int]) -> None:
    assert size in BOUNDS


@pytest.mark.parametrize("size", [(255, 256), (256, 255), (1536, 1537), (1537, 1536)])
def test_bounds_contain_no_side_beyond_the_ends(size: tuple[int, int]) -> None:
    assert size not in BOUNDS


@given(area=st.sampled_from([384 * 384, PUBLISHED_AREA]), width=sides, height=sides)
def test_area_size_equals_that_of_diffusers(area: int, width: int, height: int) -> None:
    theirs = calculate_dimensions(area, width / height)

    assert QWEN_IMAGE_EDIT_PLUS.sizes.area_size(area, width, height) == tuple(theirs[:2])


@given(areas, sides, sides, bounds)
def test_auto_size_lies_within_the_bounds(
    area: int, width: int, height: int, allowed: SizeBounds
) -> None:
    assert RULES.auto_size(area, width, height, allowed) in allowed


@given(areas, sides, sides, bounds)
def test_auto_size_is_a_multiple_of_32(
    area: int, width: int, height: int, allowed: SizeBounds
) -> None:
    assert [side % 32 for side in RULES.auto_size(area, width, height, allowed)] == [0, 0]


@given(areas, sides, sides, bounds)
def test_auto_size_keeps_the_aspect_up_to_rounding(
    area: int, width: int, height: int, allowed: SizeBounds
) -> None:
    widest = allowed.max_side / allowed.min_side
    wanted = min(max(width / height, 1 / widest), widest)

    made_width, made_height = RULES.auto_size(area, width, height, allowed)

    # each side was rounded by at most 16
    assert (made_width - 16) / (made_height + 16) <= wanted
    assert (made_width + 16) / (made_height - 16) >= wanted


@given(width=sides, height=sides)
# 1536 × 224 / 1024 is in the middle of 320 and 352
@example(width=224, height=1024)
def test_auto_size_turns_with_the_image(width: int, height: int) -> None:
    turned = RULES.auto_size(PUBLISHED_AREA, height, width, BOUNDS)

    assert RULES.auto_size(PUBLISHED_AREA, width, height, BOUNDS) == turned[::-1]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((1000, 1000), (1024, 1024)),
        ((1600, 1200), (1184, 896)),
        ((400, 100), (1536, 384)),
        ((1000, 10), (1536, 256)),
        ((10, 1000), (256, 1536)),
    ],
)
def test_auto_size_has_about_the_area_unless_a_bound_cuts_it(
    image: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert RULES.auto_size(PUBLISHED_AREA, *image, BOUNDS) == expected


def test_auto_size_grows_a_small_area_to_the_smallest_side() -> None:
    assert RULES.auto_size(256 * 256, 200, 100, BOUNDS) == (512, 256)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 256), (256, 256)), ((257, 272), (272, 272)), ((1535, 1521), (1536, 1536))],
)
def test_token_size_is_the_next_multiple_of_16_above(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert RULES.token_size(*size) == expected


def test_grid_counts_rows_and_columns_of_whole_tokens() -> None:
    assert RULES.grid(320, 256) == (1, 16, 20)
