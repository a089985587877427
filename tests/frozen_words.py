"""Words that clients, data folders and models depend on, collected from the code.

`tests/frozen_words.json` records them as of the last renaming in the code; `test_frozen_words.py`
fails when one of them is missing. New words need no entry until a release has shipped them: run
`python -m tests.frozen_words > tests/frozen_words.json`, and read the diff.
"""

import hashlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer.main

from demo_model import instructions, random_weights, scenes
from pipelines.api.errors import EngineError
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds
from pipelines.engine.families.qwen_image_edit_plus import REWRITING
from pipelines.files.catalog import Catalog
from server.app import create_app
from server.cli import app as commands
from server.errors import ServerError
from server.job import JobStatus, Output, OutputFormat
from server.playground.access import COOKIE
from server.playground.layout import BROWSER_STATES
from server.settings import Settings
from server.store import jobs, uploads, webhooks
from server.wiring import build_components

ROOT = Path(__file__).parents[1]


def gather() -> dict[str, Any]:
    """Return every group of frozen words, by name."""
    return {
        "settings": sorted(Settings.model_fields),
        "error codes": sorted(
            {kind.code for tree in (ServerError, EngineError) for kind in _tree(tree)}
        ),
        "wire": _wire_words(),
        "command line": sorted(_options(typer.main.get_command(commands), "qwen-edit")),
        "database": _schema(),
        "stored request": _names(EditParams, LoraRef, SizeBounds),
        "stored result": _names(Output),
        "states": [*JobStatus],
        "output formats": [*OutputFormat],
        "cookies": [COOKIE],
        "browser storage": sorted(BROWSER_STATES.values()),
        "rewriting": _digest(REWRITING.instruction),
        "tokenizer": _digest(random_weights.build_tokenizer().backend_tokenizer.to_str()),
        "chat template": _digest(random_weights.CHAT_TEMPLATE),
        "phrases": {task: list(phrases) for task, phrases in instructions.PHRASES.items()},
        "places": {name: list(words) for name, words in instructions.PLACES.items()},
        "ordinals": [*instructions.FIRST, *instructions.SECOND],
        "nicknames": dict(instructions.NICKNAMES),
        "colors": dict(scenes.COLORS),
    }


def _tree(kind: type[Exception]) -> Iterator[Any]:
    yield kind
    for child in kind.__subclasses__():
        yield from _tree(child)


def _wire_words() -> dict[str, list[str]]:
    """Return each path of the OpenAPI document with the names of its inputs and outputs."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            data_dir=Path(folder), weights_dir=ROOT / "weights", model="demo", page=False
        )
        catalog = Catalog(settings.weights_dir)
        components = build_components(settings, catalog.resolve_model("demo"), catalog)
        document = create_app(components).openapi()
        components.inputs.close()
        components.services.outputs.close()
        components.database.close()
    words = {
        f"{method} {path}": sorted(parameter["name"] for parameter in found.get("parameters", ()))
        for path, methods in document["paths"].items()
        for method, found in methods.items()
    }
    schemas = document["components"]["schemas"]
    return words | {"properties": sorted(set(_properties([*schemas.values(), document["paths"]])))}


def _properties(node: object) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(names := node.get("properties"), Mapping):
            yield from names
        for value in node.values():
            yield from _properties(value)
    elif isinstance(node, list):
        for value in node:
            yield from _properties(value)


def _options(command: Any, name: str) -> Iterator[str]:
    for parameter in command.params:
        yield f"{name} {' '.join([*parameter.opts, *parameter.secondary_opts])}"
    for child, found in getattr(command, "commands", {}).items():
        yield from _options(found, f"{name} {child}")


def _schema() -> dict[str, list[str]]:
    """Return the columns of each table. New ones may be added: an old table gets them too."""
    connection = sqlite3.connect(":memory:")
    for table in (jobs, uploads, webhooks):
        table.create_table(connection)
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return {
        name: [
            " ".join(map(str, column[1:]))
            for column in connection.execute(f"PRAGMA table_info({name})")
        ]
        for (name,) in names
    }


def _names(*kinds: Any) -> dict[str, list[str]]:
    return {kind.__name__: sorted(field.name for field in fields(kind)) for kind in kinds}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    json.dump(gather(), sys.stdout, indent=1, sort_keys=True)
    print()
