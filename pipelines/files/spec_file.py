"""`qwen_edit.json`, in which a model's folder says how it differs from the published models."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path

from pipelines.api.errors import InvalidParameter, ModelUnusable
from pipelines.api.model_spec import ModelSpec
from pipelines.api.sampling import dump_sampling, parse_sampling
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
    if "sampling" in own:
        try:
            own["sampling"] = parse_sampling(own["sampling"])
        except (InvalidParameter, ValueError) as exc:
            raise ModelUnusable(f"sampling in {file} is malformed: {exc}.") from exc
    return replace(published, **own)


def write_spec(path: Path, spec: ModelSpec) -> None:
    """Write `spec` beside the model's `model_index.json`."""
    values = {key: value for key, value in asdict(spec).items() if key in _KEYS - {"sampling"}}
    if spec.sampling:
        values["sampling"] = dump_sampling(spec.sampling)
    (path / SPEC_FILE).write_text(json.dumps(values, indent=2) + "\n")
