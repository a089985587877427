"""`qwen_edit.json`, in which a model's folder says how it differs from the published models."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

from pipelines.api.errors import ModelUnusable
from pipelines.api.model_spec import ModelSpec
from pipelines.files.model_index import model_name, read_family, read_object

SPEC_FILE = "qwen_edit.json"
# The family is read from `model_index.json`.
_KEYS = frozenset(field.name for field in fields(ModelSpec)) - {"family"}


def read_spec(path: Path) -> ModelSpec:
    """The spec of the model in `path`: its own values where it has any, else the published ones.

    Raises ModelUnusable when the folder holds another pipeline or the file is malformed.
    """
    published = replace(read_family(path).spec, name=model_name(path))
    file = path / SPEC_FILE
    if not file.is_file():
        return published
    own = read_object(file)
    unknown = set(own) - _KEYS
    if unknown:
        raise ModelUnusable(f"{file} has unknown keys: {', '.join(sorted(unknown))}.")
    return replace(published, **own)


def write_spec(path: Path, spec: ModelSpec) -> None:
    """Write `spec` beside the model's `model_index.json`."""
    values = {key: value for key, value in asdict(spec).items() if key in _KEYS}
    (path / SPEC_FILE).write_text(json.dumps(values, indent=2) + "\n")
