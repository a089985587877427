"""Names may change, except those that clients, data folders and models depend on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.frozen_words import gather

FROZEN = Path(__file__).with_name("frozen_words.json")


def lost(frozen: Any, now: Any, place: str) -> Iterator[str]:
    """Yield each frozen word that `now` lacks."""
    if isinstance(frozen, Mapping):
        for key, value in frozen.items():
            if key in now:
                yield from lost(value, now[key], f"{place} {key}")
            else:
                yield f"{place}: {key}"
    elif isinstance(frozen, list) and not place.startswith(("phrases", "places", "colors")):
        yield from (f"{place}: {word}" for word in frozen if word not in now)
    elif frozen != now:
        yield f"{place}: {frozen!r} is now {now!r}"


def test_every_frozen_word_is_kept() -> None:
    frozen = json.loads(FROZEN.read_text())
    now = json.loads(json.dumps(gather()))

    assert [word for group in frozen for word in lost(frozen[group], now.get(group), group)] == []


def test_lost_word_is_detected_at_every_depth() -> None:
    frozen = {"a": ["x", "y"], "b": {"c": ["z"], "d": "e"}}

    assert list(lost(frozen, {"a": ["y"], "b": {"c": []}}, "group")) == [
        "group a: x",
        "group b c: z",
        "group b: d",
    ]
