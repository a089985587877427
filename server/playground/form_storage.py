"""What stands in the fields, kept by the browser: a reload loses nothing that was typed.

A phone that locks, or a server that restarts, makes Gradio load the page anew.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.api.errors import EngineError
from server.errors import ServerError
from server.playground.form import FIELDS, SLOTS, images_of_values
from server.playground.images import ImageShelf


async def draft_of_values(values: Sequence[Any], shelf: ImageShelf) -> list[Any]:
    """The fields' values as they are, the images as URLs of this server, where they stay."""
    routes: list[str | None] = []
    for image in images_of_values(values[:SLOTS]):
        try:
            routes.append((await shelf.keep(image, "images")).route if image else None)
        except (EngineError, ServerError):
            routes.append(None)  # one that cannot be read
    return [*routes, *values[SLOTS:]]


def values_of_draft(draft: Any, shelf: ImageShelf) -> list[Any] | None:
    """What to put into the fields, images as paths; None for what is no draft.

    An image that is no longer kept leaves its slot empty.
    """
    if not isinstance(draft, list) or len(draft) != len(FIELDS):
        return None
    paths = [shelf.path(route) if isinstance(route, str) else None for route in draft[:SLOTS]]
    return [*(str(path) if path else None for path in paths), *draft[SLOTS:]]
