"""The form as the browser stores it, so that a reload keeps everything that was typed.

Gradio reloads the page when a phone was locked or the server restarted.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.api.errors import EngineError
from server.errors import ServerError
from server.playground.form import FIELDS, SLOTS, images_of_values
from server.playground.images import ImageStore


async def stored_of_values(values: Sequence[Any], images: ImageStore, owner: str) -> list[Any]:
    """Turn the fields' values into what the browser stores: images become URLs of this server.

    An unreadable image becomes None.
    """
    routes: list[str | None] = []
    for image in images_of_values(values[:SLOTS]):
        try:
            routes.append((await images.store(image, "images", owner)).route if image else None)
        except (EngineError, ServerError):
            routes.append(None)
    return [*routes, *values[SLOTS:]]


def values_of_stored(stored: Any, images: ImageStore) -> list[Any] | None:
    """Turn what the browser stored into values for the fields: images become paths.

    None when `stored` has another shape. An expired image leaves its slot empty.
    """
    if not isinstance(stored, list) or len(stored) != len(FIELDS):
        return None
    paths = [images.path(route) if isinstance(route, str) else None for route in stored[:SLOTS]]
    return [*(str(path) if path else None for path in paths), *stored[SLOTS:]]
