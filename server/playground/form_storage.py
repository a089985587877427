"""What stands in the fields, kept by the browser: a reload loses nothing that was typed.

A phone that locks, or a server that restarts, makes Gradio load the page anew.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.api.errors import EngineError
from server.errors import ServerError
from server.playground.form import FIELDS, SLOTS, pictures_of_values
from server.playground.pictures import PictureShelf


async def draft_of_values(values: Sequence[Any], shelf: PictureShelf) -> list[Any]:
    """The fields' values as they are, the pictures as URLs of this server, where they stay."""
    routes: list[str | None] = []
    for picture in pictures_of_values(values[:SLOTS]):
        try:
            routes.append((await shelf.keep(picture, "images")).route if picture else None)
        except (EngineError, ServerError):
            routes.append(None)  # one that cannot be read
    return [*routes, *values[SLOTS:]]


def values_of_draft(draft: Any, shelf: PictureShelf) -> list[Any] | None:
    """What to put into the fields, pictures as paths; None for what is no draft.

    A picture that is no longer kept leaves its slot empty.
    """
    if not isinstance(draft, list) or len(draft) != len(FIELDS):
        return None
    paths = [shelf.path(route) if isinstance(route, str) else None for route in draft[:SLOTS]]
    return [*(str(path) if path else None for path in paths), *draft[SLOTS:]]
