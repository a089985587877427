"""The drawn examples."""

from pathlib import Path

import PIL.Image

from server.playground.examples import EXAMPLES, SIDE, write_all


def test_each_example_is_drawn_once_with_a_thing_on_its_background(tmp_path: Path) -> None:
    paths = write_all(tmp_path / "new")

    assert set(paths) == {name for example in EXAMPLES for name in example.files}
    for example in EXAMPLES:
        for name, scene in zip(example.files, example.scenes, strict=True):
            image = PIL.Image.open(paths[name])
            (thing,) = scene.things
            assert image.size == (SIDE, SIDE)
            assert image.getpixel((round(thing.x * SIDE), SIDE // 2)) != image.getpixel((0, 0))


def test_names_and_prompts_are_all_different() -> None:
    assert len({example.name for example in EXAMPLES}) == len(EXAMPLES)
    assert len({example.prompt for example in EXAMPLES}) == len(EXAMPLES)
