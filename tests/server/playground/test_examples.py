"""The page's examples."""

import PIL.Image
import PIL.ImageChops

from demo_model import page_examples
from server.playground.examples import EXAMPLES, FOLDER


def test_shipped_images_equal_what_the_script_draws() -> None:
    drawn = page_examples.images()

    assert {path.name for path in FOLDER.iterdir()} == set(drawn)
    for name, image in drawn.items():
        with PIL.Image.open(FOLDER / name) as shipped:
            assert shipped.mode == image.mode, name
            assert shipped.size == image.size, name
            # other processors may round an edge pixel differently
            extrema = PIL.ImageChops.difference(shipped, image).getextrema()
            assert max(high for _, high in extrema) <= 1, name


def test_examples_use_all_shipped_images_and_no_other() -> None:
    used = {path for example in EXAMPLES for path in example.paths}

    assert used == set(FOLDER.iterdir())


def test_each_drawing_shows_a_thing_on_its_background() -> None:
    for name, image in page_examples.images().items():
        (shape,) = page_examples.SCENES[name].shapes
        center = (round(shape.x * image.width), round(shape.y * image.height))
        assert image.getpixel(center) != image.getpixel((0, 0)), name


def test_names_and_prompts_are_all_different() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    assert len({example.prompt for example in EXAMPLES}) == len(EXAMPLES)
