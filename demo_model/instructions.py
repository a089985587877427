"""Instructions in plain English for each task of the demo model, in many phrasings."""

from enum import StrEnum

import numpy as np

from demo_model.scenes import Scene


class Task(StrEnum):
    """The kind of edit that an instruction asks for."""

    RECOLOR = "recolor"
    BACKGROUND = "background"
    REMOVE = "remove"
    ADD = "add"
    MOVE = "move"
    TRANSFER = "transfer"
    KEEP = "keep"


PHRASES: dict[Task, tuple[str, ...]] = {
    Task.RECOLOR: (
        "make {thing} {color}", "make {thing} {color}", "turn {thing} {color}",
        "turn {thing} into {color}", "paint {thing} {color}", "color {thing} {color}",
        "colour {thing} {color}", "recolor {thing} {color}", "recolour {thing} to {color}",
        "change {thing} to {color}", "change the color of {thing} to {color}",
        "change the colour of {thing} to {color}", "change {thing} color to {color}",
        "set the color of {thing} to {color}", "give {thing} a {color} color",
        "{thing} should be {color}", "i want {thing} to be {color}", "{thing} in {color}",
    ),
    Task.BACKGROUND: (
        "make the background {color}", "make the background {color}", "turn the background {color}",
        "paint the background {color}", "change the background to {color}",
        "change the background color to {color}", "change the color of the background to {color}",
        "change the colour of the background to {color}", "set the background to {color}",
        "color the background {color}", "recolor the background {color}",
        "replace the background with {color}", "use a {color} background",
        "give it a {color} background", "put {thing} on a {color} background",
        "place {thing} in front of a {color} background", "the background should be {color}",
        "i want a {color} background", "{color} background",
    ),
    Task.REMOVE: (
        "remove {thing}", "remove {thing}", "delete {thing}", "erase {thing}", "take {thing} away",
        "take away {thing}", "get rid of {thing}", "remove {thing} from the picture",
        "make {thing} disappear", "delete {thing} from the image",
    ),
    Task.ADD: (
        "add {new} {place}", "add {new} {place}", "put {new} {place}", "place {new} {place}",
        "draw {new} {place}", "insert {new} {place}", "paint {new} {place}",
        "i want {new} {place}", "there should be {new} {place}",
    ),
    Task.MOVE: (
        "move {thing} to the {side}", "move {thing} to the {side}", "move {thing} {side}",
        "shift {thing} to the {side}", "shift {thing} {side}", "push {thing} to the {side}",
        "slide {thing} {side}", "put {thing} on the {side}", "place {thing} on the {side} side",
        "move {thing} to the {side} side",
    ),
    Task.TRANSFER: (
        "give {thing} the color of {other} in {second}",
        "give {thing} in {first} the color of {other} in {second}",
        "give {thing} in {first} the colour of {other} in {second}",
        "make {thing} the same color as {other} in {second}",
        "make {thing} in {first} the same color as {other} in {second}",
        "paint {thing} in the color of {other} in {second}",
        "use the color of {other} in {second} for {thing}",
        "change the color of {thing} to the color of {other} in {second}",
        "color {thing} like {other} in {second}",
        "make {thing} match the color of {other} from {second}",
    ),
    Task.KEEP: ("", " ", " ", "do nothing", "keep the picture as it is", "change nothing"),
}  # fmt: skip
PLACES = {
    "left": ("on the left", "to the left", "on the left side", "at the left"),
    "right": ("on the right", "to the right", "on the right side", "at the right"),
    "center": ("in the center", "in the middle", "in the centre"),
    "": ("", "to the picture", "to the image"),
}
FIRST = ("picture 1", "image 1", "the first picture", "the first image")
SECOND = ("picture 2", "image 2", "the second picture", "the second image")
NICKNAMES = {"circle": "ball"}
CAPITAL_SHARE, STOP_SHARE, PLEASE_SHARE, NO_ARTICLE_SHARE = 0.7, 0.3, 0.06, 0.06


def name_shape(rng: np.random.Generator, scene: Scene, index: int) -> str:
    """Words that tell one shape of the scene from the others."""
    shape = scene.shapes[index]
    kind = shape.kind
    if kind in NICKNAMES and rng.random() < 0.1:
        kind = NICKNAMES[kind]
    names = [f"the {kind}", f"the {kind}", f"the {shape.color} {kind}"]
    if len(scene.shapes) == 1:
        names += ["the object", "the shape", "it"]
    return str(rng.choice(names))


def name_new(rng: np.random.Generator, kind: str, color: str | None) -> str:
    """Words for a shape that the scene does not have yet."""
    if kind in NICKNAMES and rng.random() < 0.1:
        kind = NICKNAMES[kind]
    words = f"{color} {kind}" if color else kind
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def phrase(rng: np.random.Generator, task: Task, **slots: str) -> str:
    """A random phrasing of the task, sometimes without articles, with a full stop or a please."""
    if task is Task.TRANSFER:
        slots |= {"first": str(rng.choice(FIRST)), "second": str(rng.choice(SECOND))}
    elif task is Task.ADD:
        slots["place"] = str(rng.choice(PLACES[slots["place"]]))
    text = str(rng.choice(PHRASES[task])).format(**slots)
    if not text.strip():
        return text
    text = " ".join(text.split())
    if task is not Task.ADD and rng.random() < NO_ARTICLE_SHARE:
        text = text.replace("the ", "")
    if rng.random() < PLEASE_SHARE:
        text = f"please {text}"
    if rng.random() < CAPITAL_SHARE:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < STOP_SHARE else text
