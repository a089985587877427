"""The layers of a model that LoRAs can change, from its configurations alone.

So a LoRA can be checked while the worker still loads, or from the command line without a worker.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.api.errors import ModelUnusable, without_paths
from pipelines.api.families import Linears
from pipelines.files.model_index import read_family


def read_linears(model: Path) -> Linears:
    """The linear layers of the model in `model`, by name. Raises ModelUnusable."""
    family = read_family(model)
    transformer, text_encoder = (_read(model, part) for part in ("transformer", "text_encoder"))
    try:
        return family.all_linears(transformer, text_encoder)
    except (TypeError, ZeroDivisionError) as exc:
        raise ModelUnusable(f"A config.json of {model.name} cannot be used: {exc}.") from exc


def _read(model: Path, component: str) -> Mapping[str, object]:
    try:
        config: object = json.loads((model / component / "config.json").read_text())
    except (OSError, ValueError) as exc:
        name = f"{model.name}/{component}/config.json"
        raise ModelUnusable(f"{name} cannot be read: {without_paths(str(exc))}") from exc
    if not isinstance(config, Mapping):
        raise ModelUnusable(f"{model.name}/{component}/config.json must hold a JSON object.")
    return config
