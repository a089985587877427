"""Edits of drawn scenes that a newcomer can try with one click.

`demo_model/page_examples.py` draws the images, which ship with the package as PNG files.
"""

import base64
import html
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "examples"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and how many drawn images it edits."""

    name: str
    prompt: str
    image_count: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        """The names of its images."""
        return tuple(f"{self.name}-{number}.png" for number in range(1, self.image_count + 1))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its images on disk."""
        return tuple(FOLDER / name for name in self.files)


EXAMPLES = (
    Example("recolor", "Make the circle green"),
    Example("background", "Make the background white"),
    Example("remove", "Remove the triangle"),
    Example("add", "Add a red square on the right"),
    Example("move", "Move the circle to the left"),
    Example("transfer", "Give the circle the color of the square in image 2", image_count=2),
)


def example_html(example: Example) -> str:
    """Render an example for the list."""
    images = "".join(map(_inline_image, example.paths))
    return f"{images}<span>{html.escape(example.prompt)}</span>"


def _inline_image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="">'
