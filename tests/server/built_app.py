"""The application as a whole, built but not started, and a list of what it answers."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from pipelines.files.catalog import Catalog
from server.app import create_app
from server.settings import Settings
from server.wiring import build_components

WEIGHTS = Path(__file__).parents[2] / "weights"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_PARAMETER = re.compile(r"\{[^}]*\}")


@contextlib.contextmanager
def built_app(folder: Path, *, model: str = "demo", **settings: Any) -> Iterator[FastAPI]:
    """Build an application that serves the demo model, or another."""
    chosen = Settings(data_dir=folder, weights_dir=WEIGHTS, model=model, **settings)
    catalog = Catalog(chosen.weights_dir)
    components = build_components(chosen, catalog.resolve_model(model), catalog)
    yield create_app(components)
    components.inputs.close()
    components.services.outputs.close()
    components.database.close()


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Return every method and path that some route answers, also those outside the schema."""
    return [
        (method, context.path)
        for context in iter_route_contexts(app.routes)
        if context.path is not None
        # the page's routes and mounts declare no methods and get every request
        for method in sorted(context.methods or METHODS)
    ]


def filled(path: str, value: str) -> str:
    """Return the path with `value` for each of its parameters."""
    return _PARAMETER.sub(value, path)
