"""Image sizes in pixels, always (width, height)."""

import math
import re
from dataclasses import dataclass

from pipelines.api.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """The smallest and largest side of an output, in pixels, both allowed."""

    min_side: int = 256
    max_side: int = 1536

    def __contains__(self, size: tuple[int, int]) -> bool:
        return all(self.min_side <= side <= self.max_side for side in size)

    def __str__(self) -> str:
        return f"{self.min_side}–{self.max_side}"


@dataclass(frozen=True, slots=True)
class SizeRules:
    """The size arithmetic of a model family.

    A token covers a square of `pixels_per_token` a side, so the model can make multiples of that.
    A size derived from an area is rounded to multiples of `area_multiple`.
    """

    pixels_per_token: int
    area_multiple: int

    def grid(self, width: int, height: int) -> tuple[int, int, int]:
        """The tokens of one image as (frames, rows, columns); the sides are whole tokens."""
        return 1, height // self.pixels_per_token, width // self.pixels_per_token

    def token_size(self, width: int, height: int) -> tuple[int, int]:
        """The smallest size of whole tokens that holds width×height."""
        return self._whole_tokens(width), self._whole_tokens(height)

    def area_size(self, area: int, width: int, height: int) -> tuple[int, int]:
        """The size of about `area` pixels with the aspect of width:height."""
        ratio = width / height
        exact_width = math.sqrt(area * ratio)
        exact_height = exact_width / ratio
        return self._rounded(exact_width), self._rounded(exact_height)

    def auto_size(self, area: int, width: int, height: int, bounds: SizeBounds) -> tuple[int, int]:
        """The output size for an image of width×height when the client names none.

        About `area` pixels at the image's aspect, scaled to fit `bounds`. An aspect beyond what
        the bounds allow (6:1 for 256–1536) is clamped.
        """
        widest = bounds.max_side / bounds.min_side
        ratio = min(max(width / height, 1 / widest), widest)
        exact_width = math.sqrt(area * ratio)
        exact_height = exact_width / ratio
        shrink = min(1.0, bounds.max_side / max(exact_width, exact_height))
        grow = max(1.0, bounds.min_side / min(exact_width, exact_height))
        factor = shrink if shrink < 1 else grow
        if factor == 1:
            sides = exact_width, exact_height
        else:
            # a side in the middle of two multiples would be rounded by the noise of its float
            sides = round(exact_width * factor, 6), round(exact_height * factor, 6)
        return self._rounded_within(sides[0], bounds), self._rounded_within(sides[1], bounds)

    def _whole_tokens(self, side: int) -> int:
        return math.ceil(side / self.pixels_per_token) * self.pixels_per_token

    def _rounded(self, side: float) -> int:
        return round(side / self.area_multiple) * self.area_multiple

    def _rounded_within(self, side: float, bounds: SizeBounds) -> int:
        lowest = math.ceil(bounds.min_side / self.area_multiple) * self.area_multiple
        highest = bounds.max_side // self.area_multiple * self.area_multiple
        return min(max(self._rounded(side), lowest), highest)


def parse_size(text: str, bounds: SizeBounds, field: str = "size") -> tuple[int, int]:
    """The size that `W*H` or `WxH` names. Raises InvalidParameter outside the bounds."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[*xX×]\s*(\d{1,6})\s*", text)
    if match is None:
        raise InvalidParameter(
            field, f"must be width*height in pixels, each {bounds} (1024*768, say), got {text!r}"
        )
    size = int(match[1]), int(match[2])
    if size not in bounds:
        raise InvalidParameter(field, f"must have sides of {bounds} pixels, got {text!r}")
    return size
