"""A few edits of drawn scenes, so that a newcomer has something to click at once."""

from dataclasses import dataclass
from pathlib import Path

from demo_model.scenes import Backdrop, Scene, Thing, draw

SIDE = 256


@dataclass(frozen=True, slots=True)
class Example:
    """An edit, and the scenes that it is asked of."""

    name: str
    prompt: str
    scenes: tuple[Scene, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the scenes' images."""
        return tuple(f"{self.name}-{number}.png" for number in range(1, len(self.scenes) + 1))


def _scene(shape: str, color: str, backdrop: Backdrop, x: float = 0.5) -> Scene:
    return Scene(backdrop, (Thing(shape, color, x, 0.5, 0.2),))


_GRADIENT = Backdrop("yellow", "gradient", seed=1)
_RED_CIRCLE = _scene("circle", "red", Backdrop("yellow"))
_PURPLE_SQUARE = _scene("square", "purple", _GRADIENT)
EXAMPLES = (
    Example("recolor", "Make the circle green", (_RED_CIRCLE,)),
    Example("background", "Make the background white", (_PURPLE_SQUARE,)),
    Example(
        "remove",
        "Remove the triangle",
        (_scene("triangle", "green", Backdrop("orange", "stripes", seed=2)),),
    ),
    Example(
        "add",
        "Add a red square on the right",
        (_scene("circle", "green", Backdrop("white"), x=0.27),),
    ),
    Example(
        "move",
        "Move the circle to the left",
        (_scene("circle", "purple", Backdrop("white"), x=0.7),),
    ),
    Example(
        "transfer",
        "Give the circle the color of the square in image 2",
        (_RED_CIRCLE, _PURPLE_SQUARE),
    ),
)


def write_all(folder: Path) -> dict[str, Path]:
    """The scenes as files in `folder`, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for example in EXAMPLES:
        for name, scene in zip(example.files, example.scenes, strict=True):
            paths[name] = folder / name
            draw(scene, SIDE, SIDE).save(paths[name])
    return paths
