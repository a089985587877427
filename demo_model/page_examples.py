"""Draws the images behind the page's examples: `python -m demo_model.page_examples`.

The page ships them as PNG files in `server/playground/examples/`, because the server does not
import this package and an installed server does not have it. Each file is a scene of one shape,
drawn at 256×256 by `demo_model.scenes`; a test compares the shipped files with these drawings.
"""

from pathlib import Path

import PIL.Image

from demo_model.scenes import Backdrop, Scene, Shape, draw

FOLDER = Path("server/playground/examples")
SIDE = 256
RADIUS = 0.2


def _scene(kind: str, color: str, backdrop: Backdrop, x: float = 0.5) -> Scene:
    return Scene(backdrop, (Shape(kind, color, x, 0.5, RADIUS),))


_RED_CIRCLE = _scene("circle", "red", Backdrop("yellow"))
_PURPLE_SQUARE = _scene("square", "purple", Backdrop("yellow", "gradient", seed=1))
# By file name, as `server.playground.examples` lists them.
SCENES = {
    "recolor-1.png": _RED_CIRCLE,
    "background-1.png": _PURPLE_SQUARE,
    "remove-1.png": _scene("triangle", "green", Backdrop("orange", "stripes", seed=2)),
    "add-1.png": _scene("circle", "green", Backdrop("white"), x=0.27),
    # in the middle: at any position of the line between before and after, a circle is visible
    "move-1.png": _scene("circle", "purple", Backdrop("white")),
    "transfer-1.png": _RED_CIRCLE,
    "transfer-2.png": _PURPLE_SQUARE,
}


def images() -> dict[str, PIL.Image.Image]:
    """The drawings by file name."""
    return {name: draw(scene, SIDE, SIDE) for name, scene in SCENES.items()}


def main() -> None:
    """Write the drawings to the page's folder of this checkout."""
    for name, image in images().items():
        image.save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
