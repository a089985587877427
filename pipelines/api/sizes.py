"""Image sizes in pixels, always (width, height)."""

import math
import re
from dataclasses import dataclass

from pipelines.api.errors import InvalidParameter

# One latent token covers 16×16 pixels: the VAE reduces 8 times, the transformer packs 2×2.
PIXELS_PER_TOKEN = 16
# The published pipeline rounds the sizes that it chooses itself to this.
AUTO_SIZE_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class SizeBounds:
    """The smallest and largest side of an output, in pixels, both allowed."""

    min_side: int = 256
    max_side: int = 1536

    def __contains__(self, size: tuple[int, int]) -> bool:
        return all(self.min_side <= side <= self.max_side for side in size)

    def __str__(self) -> str:
        return f"{self.min_side}–{self.max_side}"


def parse_size(text: str, bounds: SizeBounds, field: str = "size") -> tuple[int, int]:
    """The size that `W*H` (or `WxH`) names. Raises InvalidParameter outside the bounds."""
    match = re.fullmatch(r"\s*(\d{1,6})\s*[*xX×]\s*(\d{1,6})\s*", text)
    if match is None:
        raise InvalidParameter(
            field, f"must be width*height in pixels, each {bounds} (1024*768, say), got {text!r}"
        )
    size = int(match[1]), int(match[2])
    if size not in bounds:
        raise InvalidParameter(field, f"must have sides of {bounds} pixels, got {text!r}")
    return size


def area_size(area: int, width: int, height: int) -> tuple[int, int]:
    """The size of about `area` pixels with the aspect of width:height, in multiples of 32.

    Source: `calculate_dimensions` of diffusers' QwenImageEditPlusPipeline, whose rounding decides
    the token grid and so must be met exactly.
    """
    ratio = width / height
    exact_width = math.sqrt(area * ratio)
    exact_height = exact_width / ratio
    return (
        round(exact_width / AUTO_SIZE_MULTIPLE) * AUTO_SIZE_MULTIPLE,
        round(exact_height / AUTO_SIZE_MULTIPLE) * AUTO_SIZE_MULTIPLE,
    )


def auto_size(area: int, width: int, height: int, bounds: SizeBounds) -> tuple[int, int]:
    """The output size for an image of width×height when the client names none.

    About `area` pixels at the image's aspect; scaled to fit `bounds` keeping the aspect, which
    itself is clamped to what the bounds allow (6:1 for 256–1536). Multiples of 32.
    """
    widest = bounds.max_side / bounds.min_side
    ratio = min(max(width / height, 1 / widest), widest)
    exact_width = math.sqrt(area * ratio)
    exact_height = exact_width / ratio
    shrink = min(1.0, bounds.max_side / max(exact_width, exact_height))
    grow = max(1.0, bounds.min_side / min(exact_width, exact_height))
    factor = shrink if shrink < 1 else grow
    return (
        _rounded_within(exact_width * factor, bounds),
        _rounded_within(exact_height * factor, bounds),
    )


def token_size(width: int, height: int) -> tuple[int, int]:
    """The next size at or above width×height that the model can make, in multiples of 16."""
    return _round_up(width), _round_up(height)


def _round_up(side: int) -> int:
    return -(-side // PIXELS_PER_TOKEN) * PIXELS_PER_TOKEN


def _rounded_within(side: float, bounds: SizeBounds) -> int:
    lowest = -(-bounds.min_side // AUTO_SIZE_MULTIPLE) * AUTO_SIZE_MULTIPLE
    highest = bounds.max_side // AUTO_SIZE_MULTIPLE * AUTO_SIZE_MULTIPLE
    return min(max(round(side / AUTO_SIZE_MULTIPLE) * AUTO_SIZE_MULTIPLE, lowest), highest)
