"""`model_index.json`, the file that makes a folder a model and names its pipeline."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.api.errors import ModelUnusable, without_paths
from pipelines.api.families import FAMILIES, ModelFamily

INDEX_FILE = "model_index.json"


def is_model_dir(path: Path) -> bool:
    """Return whether `path` is a folder in the published layout; its contents are not checked."""
    return (path / INDEX_FILE).is_file()


def read_family(path: Path) -> ModelFamily:
    """The family of the model in `path`. Raises ModelUnusable for any other folder."""
    return family_of(read_object(path / INDEX_FILE), model_name(path))


def family_of(index: Mapping[str, Any], name: str) -> ModelFamily:
    """The family whose pipeline an index names; messages call the model `name`.

    Raises ModelUnusable for another pipeline.
    """
    found = index.get("_class_name")
    for family in FAMILIES.values():
        if family.pipeline_class == found:
            return family
    known = ", ".join(family.pipeline_class for family in FAMILIES.values())
    raise ModelUnusable(f"{name} holds a {found}; this server runs {known} only.")


def model_name(path: Path) -> str:
    """A model folder's name; for a snapshot in the Hugging Face cache, `owner/repo`."""
    repo = path.parent.parent.name
    if path.parent.name == "snapshots" and repo.startswith("models--"):
        return repo.removeprefix("models--").replace("--", "/", 1)
    return path.name


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelUnusable."""
    name = f"{path.parent.name}/{path.name}"
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ModelUnusable(f"{name} cannot be read: {without_paths(str(exc))}") from exc
    if not isinstance(value, dict):
        raise ModelUnusable(f"{name} must hold a JSON object.")
    return value
