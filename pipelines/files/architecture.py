"""The layers of a model's transformer, from its configuration alone.

So a LoRA can be checked while the worker still loads, or from the command line without a worker.
"""

import json
from pathlib import Path

from pipelines.api.errors import ModelUnusable, without_paths
from pipelines.api.families import Linears
from pipelines.files.model_index import read_family


def read_linears(model: Path) -> Linears:
    """The linear layers of the model in `model`, by name. Raises ModelUnusable."""
    family = read_family(model)
    path = model / "transformer" / "config.json"
    try:
        return family.linears(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        name = f"{model.name}/transformer/config.json"
        raise ModelUnusable(f"{name} cannot be read: {without_paths(str(exc))}") from exc
