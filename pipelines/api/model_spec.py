"""What the engine must know of a model beyond diffusers' own files."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pipelines.api.errors import ModelUnusable

SPEC_FILE = "qwen_edit.json"
INDEX_FILE = "model_index.json"
PIPELINE_CLASS = "QwenImageEditPlusPipeline"
DEMO_NAME = "demo"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a model wants to be run. The defaults are those of the published models.

    Areas are in pixels: each reference image is resized to `reference_area` for the VAE (None:
    to the output's area) and to `condition_area` for the text encoder, an output without a size has
    `output_area`.
    `num_inference_steps` and `true_cfg_scale` apply when a request names none. `can_write` says
    that the text encoder has learnt to write, and so can rewrite prompts.
    """

    name: str
    reference_area: int | None = 1024 * 1024
    condition_area: int = 384 * 384
    output_area: int = 1024 * 1024
    num_inference_steps: int = 40
    true_cfg_scale: float = 4.0
    can_write: bool = True

    @property
    def is_demo(self) -> bool:
        """Whether this is the small built-in model, whose images only show the road."""
        return self.name == DEMO_NAME


DEMO_SPEC = ModelSpec(
    name=DEMO_NAME,
    # too small to carry places over from one size to another
    reference_area=None,
    condition_area=56 * 56,
    output_area=256 * 256,
    num_inference_steps=8,
    true_cfg_scale=1.0,
    can_write=False,
)


def is_model_dir(path: Path) -> bool:
    """Whether `path` looks like a model in the published directory layout."""
    return (path / INDEX_FILE).is_file()


def read_spec(path: Path) -> ModelSpec:
    """The spec of the model in `path`: its `qwen_edit.json` where present, else published values.

    Raises ModelUnusable when the directory holds another pipeline or the file is malformed.
    """
    index = read_object(path / INDEX_FILE)
    found = index.get("_class_name")
    if found != PIPELINE_CLASS:
        raise ModelUnusable(f"{path} holds a {found}; this server runs {PIPELINE_CLASS} only.")
    own: dict[str, Any] = read_object(path / SPEC_FILE) if (path / SPEC_FILE).is_file() else {}
    unknown = set(own) - {f.name for f in fields(ModelSpec)}
    if unknown:
        raise ModelUnusable(f"{path / SPEC_FILE} has unknown keys: {', '.join(sorted(unknown))}.")
    try:
        return ModelSpec(**{"name": model_name(path), **own})
    except TypeError as exc:
        raise ModelUnusable(f"{path / SPEC_FILE} cannot be read: {exc}") from exc


def write_spec(path: Path, spec: ModelSpec) -> None:
    """Write `spec` beside the model's `model_index.json`."""
    (path / SPEC_FILE).write_text(json.dumps(asdict(spec), indent=2) + "\n")


def model_name(path: Path) -> str:
    """A model directory's name; for a snapshot in the Hugging Face cache, `owner/repo`."""
    repo = path.parent.parent.name
    if path.parent.name == "snapshots" and repo.startswith("models--"):
        return repo.removeprefix("models--").replace("--", "/", 1)
    return path.name


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelUnusable."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise ModelUnusable(f"{path} cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        raise ModelUnusable(f"{path} must hold a JSON object.")
    return value
