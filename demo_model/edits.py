"""Edits between drawn scenes: a random scene, and what instructions make of it."""

from dataclasses import dataclass, field, replace

import numpy as np

from demo_model.instructions import Task, name_new, name_shape, phrase
from demo_model.sampling import other_color, random_scene
from demo_model.scenes import KINDS, Scene, Shape

# Positions of the words, as shares of the width.
SIDES = {"left": 0.23, "right": 0.77}
ADD_PLACES = {**SIDES, "center": 0.5}
ADD_RADIUS = 0.17
ADD_JITTER = 0.03
COLORLESS_SHARE = 0.15
ADDITIONS = 3


@dataclass(frozen=True, slots=True)
class Edit:
    """An instruction, the scenes that it applies to, and the scene that should come out.

    `sources` are the input images in order. `changed` are the shapes, as drawn before or after,
    whose areas may change; empty for a change of the background.
    """

    task: Task
    prompt: str
    sources: tuple[Scene, ...]
    target: Scene
    changed: tuple[Shape, ...] = ()


@dataclass(slots=True)
class _Group:
    rng: np.random.Generator
    base: Scene
    edits: list[Edit] = field(default_factory=list)

    def say(self, task: Task, **slots: str) -> str:
        return phrase(self.rng, task, **slots)

    def add(
        self, task: Task, source: Scene, target: Scene, changed: tuple[Shape, ...], **slots: str
    ) -> None:
        self.edits.append(Edit(task, self.say(task, **slots), (source,), target, changed))


def draw_edits(rng: np.random.Generator) -> list[Edit]:
    """About twenty edits of every task, between a random scene and variants of it."""
    group = _Group(rng, random_scene(rng))
    _recolor(group)
    _change_background(group)
    _remove_and_add(group)
    _move(group)
    _transfer(group)
    group.add(Task.KEEP, group.base, group.base, ())
    return group.edits


def draw_additions(rng: np.random.Generator) -> list[Edit]:
    """Edits that add different shapes to a random scene, with and without its first shape."""
    group = _Group(rng, random_scene(rng))
    for source in (group.base, group.base.without_shape(0)):
        for _ in range(ADDITIONS):
            _add(group, source)
    return group.edits


def _recolor(group: _Group) -> None:
    rng, base = group.rng, group.base
    taken = [base.backdrop.color, *(shape.color for shape in base.shapes)]
    first = other_color(rng, *taken)
    second = other_color(rng, *taken, first)
    variants = [
        base,
        *(base.with_shape(0, replace(base.shapes[0], color=c)) for c in (first, second)),
    ]
    for source in variants:
        for target in variants:
            if source is not target:
                name, color = name_shape(rng, source, 0), target.shapes[0].color
                group.add(Task.RECOLOR, source, target, target.shapes[:1], thing=name, color=color)


def _change_background(group: _Group) -> None:
    rng, base = group.rng, group.base
    taken = [base.backdrop.color, *(shape.color for shape in base.shapes)]
    first = other_color(rng, *taken)
    second = other_color(rng, *taken, first)
    variants = [
        base,
        *(replace(base, backdrop=replace(base.backdrop, color=c)) for c in (first, second)),
    ]
    for source in variants:
        for target in variants[:2]:
            if source is not target:
                name, color = name_shape(rng, source, 0), target.backdrop.color
                group.add(Task.BACKGROUND, source, target, (), thing=name, color=color)


def _remove_and_add(group: _Group) -> None:
    rng, base = group.rng, group.base
    less = base.without_shape(0)
    group.add(Task.REMOVE, base, less, base.shapes[:1], thing=name_shape(rng, base, 0))
    for source in (base, less):
        more = _add(group, source)
        if more is not None:
            new = more.shapes[-1:]
            name = name_shape(rng, more, len(source.shapes))
            group.add(Task.REMOVE, more, source, new, thing=name)


def _add(group: _Group, source: Scene) -> Scene | None:
    """Add the edit that puts a new shape into `source`; the new scene, or None without room."""
    rng = group.rng
    if len(source.shapes) > 1:
        return None
    place, new = _new_shape(rng, source)
    if new is None:
        return None
    more = replace(source, shapes=(*source.shapes, new))
    color = None if rng.random() < COLORLESS_SHARE else new.color
    group.add(Task.ADD, source, more, (new,), new=name_new(rng, new.kind, color), place=place)
    return more


def _new_shape(rng: np.random.Generator, scene: Scene) -> tuple[str, Shape | None]:
    """A place and a shape there, None when others are too close. "" is the emptiest place."""
    kinds = [kind for kind in KINDS if kind not in {shape.kind for shape in scene.shapes}]
    color = other_color(rng, scene.backdrop.color, *(shape.color for shape in scene.shapes))
    kind, place = str(rng.choice(kinds)), str(rng.choice([*ADD_PLACES, ""]))
    if place:
        middle = ADD_PLACES[place]
    elif scene.shapes:
        middle = SIDES["left"] if scene.shapes[0].x > 0.5 else SIDES["right"]
    else:
        middle = ADD_PLACES["center"]
    dx, dy = rng.uniform(-ADD_JITTER, ADD_JITTER, 2)
    new = Shape(kind, color, middle + float(dx), 0.5 + float(dy), ADD_RADIUS)
    return place, None if any(_touch(new, shape) for shape in scene.shapes) else new


def _move(group: _Group) -> None:
    rng, base = group.rng, group.base
    shape, others = base.shapes[0], base.shapes[1:]
    variants = {side: replace(shape, x=x) for side, x in SIDES.items()}
    for side, moved in variants.items():
        starts = [shape, variants["left" if side == "right" else "right"]]
        for start in starts:
            far = start.x - moved.x if side == "left" else moved.x - start.x
            if far < 0.2 or any(
                _touch(place, other) for other in others for place in (start, moved)
            ):
                continue
            source, target = base.with_shape(0, start), base.with_shape(0, moved)
            name = name_shape(rng, source, 0)
            group.add(Task.MOVE, source, target, (start, moved), thing=name, side=side)


def _transfer(group: _Group) -> None:
    rng, base = group.rng, group.base
    for _ in range(2):
        color = other_color(rng, base.backdrop.color, *(shape.color for shape in base.shapes))
        sample = random_scene(rng, shapes=1)
        while color in (sample.backdrop.color, sample.shapes[0].color):
            sample = random_scene(rng, shapes=1)
        sample = sample.with_shape(0, replace(sample.shapes[0], color=color))
        target = base.with_shape(0, replace(base.shapes[0], color=color))
        prompt = group.say(
            Task.TRANSFER,
            thing=name_shape(rng, base, 0),
            other=str(rng.choice([f"the {sample.shapes[0].kind}", "the object", "the shape"])),
        )
        edit = Edit(Task.TRANSFER, prompt, (base, sample), target, target.shapes[:1])
        group.edits.append(edit)


def _touch(one: Shape, other: Shape) -> bool:
    """Return whether two shapes come close, measured generously: each fits into 1.3 radii."""
    gap = ((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5
    return bool(gap < 1.15 * (one.radius + other.radius))
