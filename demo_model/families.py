"""Families of scenes that edits lead between: one scene, and what instructions make of it."""

from dataclasses import dataclass, field, replace

import numpy as np

from demo_model.instructions import Task, name_new, name_thing, phrase
from demo_model.sampling import other_color, random_scene
from demo_model.scenes import SHAPES, Scene, Thing

# Where "left", "right" and "center" are, as shares of the width.
SIDES = {"left": 0.23, "right": 0.77}
ADD_PLACES = {**SIDES, "center": 0.5}
ADD_RADIUS = 0.17
ADD_JITTER = 0.03
COLORLESS_SHARE = 0.15
ADDITIONS = 3


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit: the instruction, what goes in, what should come out.

    `sources` are the images in order, `changed` the things (as drawn before or after) whose
    places may change; empty for a change of the background.
    """

    task: Task
    prompt: str
    sources: tuple[Scene, ...]
    target: Scene
    changed: tuple[Thing, ...] = ()


@dataclass(slots=True)
class _Family:
    rng: np.random.Generator
    base: Scene
    edits: list[Edit] = field(default_factory=list)

    def say(self, task: Task, **slots: str) -> str:
        return phrase(self.rng, task, **slots)

    def add(
        self, task: Task, source: Scene, target: Scene, changed: tuple[Thing, ...], **slots: str
    ) -> None:
        self.edits.append(Edit(task, self.say(task, **slots), (source,), target, changed))


def draw_family(rng: np.random.Generator) -> list[Edit]:
    """A random scene and about twenty edits between it and its kin, of every task."""
    family = _Family(rng, random_scene(rng))
    _recolor(family)
    _change_background(family)
    _remove_and_add(family)
    _move(family)
    _transfer(family)
    family.add(Task.KEEP, family.base, family.base, ())
    return family.edits


def draw_additions(rng: np.random.Generator) -> list[Edit]:
    """A random scene, with and without its first thing, and edits that add different things."""
    family = _Family(rng, random_scene(rng))
    for source in (family.base, family.base.without_thing(0)):
        for _ in range(ADDITIONS):
            _add(family, source)
    return family.edits


def _recolor(family: _Family) -> None:
    rng, base = family.rng, family.base
    taken = [base.backdrop.color, *(thing.color for thing in base.things)]
    first = other_color(rng, *taken)
    second = other_color(rng, *taken, first)
    kin = [base, *(base.with_thing(0, replace(base.things[0], color=c)) for c in (first, second))]
    for source in kin:
        for target in kin:
            if source is not target:
                thing, color = name_thing(rng, source, 0), target.things[0].color
                family.add(
                    Task.RECOLOR, source, target, target.things[:1], thing=thing, color=color
                )


def _change_background(family: _Family) -> None:
    rng, base = family.rng, family.base
    taken = [base.backdrop.color, *(thing.color for thing in base.things)]
    first = other_color(rng, *taken)
    second = other_color(rng, *taken, first)
    kin = [
        base,
        *(replace(base, backdrop=replace(base.backdrop, color=c)) for c in (first, second)),
    ]
    for source in kin:
        for target in kin[:2]:
            if source is not target:
                thing, color = name_thing(rng, source, 0), target.backdrop.color
                family.add(Task.BACKGROUND, source, target, (), thing=thing, color=color)


def _remove_and_add(family: _Family) -> None:
    rng, base = family.rng, family.base
    less = base.without_thing(0)
    family.add(Task.REMOVE, base, less, base.things[:1], thing=name_thing(rng, base, 0))
    for source in (base, less):
        more = _add(family, source)
        if more is not None:
            new = more.things[-1:]
            thing = name_thing(rng, more, len(source.things))
            family.add(Task.REMOVE, more, source, new, thing=thing)


def _add(family: _Family, source: Scene) -> Scene | None:
    """Adds the edit that puts a new thing into `source`; gives the scene with it, if it fits."""
    rng = family.rng
    if len(source.things) > 1:
        return None
    place, new = _new_thing(rng, source)
    if new is None:
        return None
    more = replace(source, things=(*source.things, new))
    color = None if rng.random() < COLORLESS_SHARE else new.color
    family.add(Task.ADD, source, more, (new,), new=name_new(rng, new.shape, color), place=place)
    return more


def _new_thing(rng: np.random.Generator, scene: Scene) -> tuple[str, Thing | None]:
    """A thing for a place where there is room, and the place; "" is where most room is."""
    shapes = [shape for shape in SHAPES if shape not in {thing.shape for thing in scene.things}]
    color = other_color(rng, scene.backdrop.color, *(thing.color for thing in scene.things))
    shape, place = str(rng.choice(shapes)), str(rng.choice([*ADD_PLACES, ""]))
    if place:
        middle = ADD_PLACES[place]
    elif scene.things:
        middle = SIDES["left"] if scene.things[0].x > 0.5 else SIDES["right"]
    else:
        middle = ADD_PLACES["center"]
    dx, dy = rng.uniform(-ADD_JITTER, ADD_JITTER, 2)
    new = Thing(shape, color, middle + float(dx), 0.5 + float(dy), ADD_RADIUS)
    return place, None if any(_touch(new, thing) for thing in scene.things) else new


def _move(family: _Family) -> None:
    rng, base = family.rng, family.base
    thing, others = base.things[0], base.things[1:]
    kin = {side: replace(thing, x=x) for side, x in SIDES.items()}
    for side, moved in kin.items():
        starts = [thing, kin["left" if side == "right" else "right"]]
        for start in starts:
            far = start.x - moved.x if side == "left" else moved.x - start.x
            if far < 0.2 or any(
                _touch(place, other) for other in others for place in (start, moved)
            ):
                continue
            source, target = base.with_thing(0, start), base.with_thing(0, moved)
            name = name_thing(rng, source, 0)
            family.add(Task.MOVE, source, target, (start, moved), thing=name, side=side)


def _transfer(family: _Family) -> None:
    rng, base = family.rng, family.base
    for _ in range(2):
        color = other_color(rng, base.backdrop.color, *(thing.color for thing in base.things))
        sample = random_scene(rng, things=1)
        while color in (sample.backdrop.color, sample.things[0].color):
            sample = random_scene(rng, things=1)
        sample = sample.with_thing(0, replace(sample.things[0], color=color))
        target = base.with_thing(0, replace(base.things[0], color=color))
        prompt = family.say(
            Task.TRANSFER,
            thing=name_thing(rng, base, 0),
            other=str(rng.choice([f"the {sample.things[0].shape}", "the object", "the shape"])),
        )
        edit = Edit(Task.TRANSFER, prompt, (base, sample), target, target.things[:1])
        family.edits.append(edit)


def _touch(one: Thing, other: Thing) -> bool:
    """Whether two things come close, measured generously: every shape fits into 1.3 radii."""
    gap = ((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5
    return bool(gap < 1.15 * (one.radius + other.radius))
