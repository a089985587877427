"""Which files a model directory needs, which of them are there, and how large the model is.

The published layout: `model_index.json` names the components, each has a folder, and a folder's
weights are one safetensors file or the shards that an index beside them names.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.api.errors import LoraInvalid, ModelUnusable
from pipelines.api.model_spec import INDEX_FILE, PIPELINE_CLASS, SPEC_FILE, read_object
from pipelines.files.safetensors_header import read_header

# The components with weights, and what diffusers and transformers call those files.
WEIGHT_STEMS: Mapping[str, str] = {
    "transformer": "diffusion_pytorch_model",
    "text_encoder": "model",
    "vae": "diffusion_pytorch_model",
}
# Configurations, vocabularies, merges and chat templates.
_TEXT_SUFFIXES = (".json", ".txt", ".jinja")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model directory as it lies on disk.

    `parameters` counts each component's numbers, as far as its files are there; `problems` names
    what is missing or damaged, a sentence each, and is empty for a whole model.
    """

    parameters: Mapping[str, int]
    size_bytes: int
    problems: tuple[str, ...]


def components_of(index: Mapping[str, Any], name: str) -> list[str]:
    """The components of a `model_index.json`, which messages call `name`.

    Raises ModelUnusable when it is another pipeline's.
    """
    found = index.get("_class_name")
    if found != PIPELINE_CLASS:
        raise ModelUnusable(f"{name} holds a {found}; this server runs {PIPELINE_CLASS} only.")
    values = {key: value for key, value in index.items() if isinstance(value, list)}
    return [key for key, value in values.items() if len(value) == 2 and all(value)]


def needed_files(names: Iterable[str], components: Iterable[str]) -> list[str]:
    """Of a repository's files, those that loading the model reads; `model_index.json` comes last.

    No pickles, no other precisions, nothing twice: a component's shards, or else its single file.
    """
    present = set(names)
    needed = [name for name in (SPEC_FILE,) if name in present]
    for component in components:
        inside = [name for name in present if str(PurePosixPath(name).parent) == component]
        needed += sorted(name for name in inside if _is_text(name, component))
        needed += _weights(inside, component)
    return [*needed, INDEX_FILE]


def inspect_model(folder: Path, index: Mapping[str, Any] | None = None) -> ModelFiles:
    """What of the model in `folder` is there; `index` is its model_index.json where it lies not.

    Raises ModelUnusable for another kind of folder.
    """
    if index is None:
        index = read_object(folder / INDEX_FILE)
    problems: list[str] = []
    parameters: dict[str, int] = {}
    size_bytes = 0
    for component in components_of(index, str(folder)):
        if not (folder / component).is_dir() or not any((folder / component).iterdir()):
            problems.append(f"{component}/ is missing")
        elif component in WEIGHT_STEMS:
            parameters[component] = 0
            for path in _expected_weights(folder / component, WEIGHT_STEMS[component], problems):
                name = str(path.relative_to(folder))
                try:
                    shapes = read_header(path, name).shapes.values()
                except FileNotFoundError:
                    problems.append(f"{name} is missing")
                except (OSError, LoraInvalid) as exc:
                    problems.append(str(exc).rstrip("."))
                else:
                    parameters[component] += sum(map(math.prod, shapes))
                    size_bytes += path.stat().st_size
    return ModelFiles(parameters, size_bytes, tuple(problems))


def _expected_weights(folder: Path, stem: str, problems: list[str]) -> list[Path]:
    """The weight files that a component must have; what is wrong beside them goes to `problems`."""
    if not (folder / "config.json").is_file():
        problems.append(f"{folder.name}/config.json is missing")
    index = folder / f"{stem}.safetensors.index.json"
    single = folder / f"{stem}.safetensors"
    if single.is_file() or not index.is_file():
        return [single]
    try:
        shards = set(read_object(index)["weight_map"].values())
    except (ModelUnusable, KeyError, AttributeError):
        problems.append(f"{folder.name}/{index.name} cannot be read")
        return []
    return [folder / shard for shard in sorted(shards)]


def _is_text(name: str, component: str) -> bool:
    path = PurePosixPath(name)
    if path.suffix not in _TEXT_SUFFIXES:
        return False
    own = f"{WEIGHT_STEMS.get(component)}.safetensors.index.json"
    return not path.name.endswith(".index.json") or path.name == own


def _weights(inside: Iterable[str], component: str) -> list[str]:
    stem = WEIGHT_STEMS.get(component)
    if stem is None:
        return []
    shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors")
    shards = sorted(name for name in inside if shard.fullmatch(PurePosixPath(name).name))
    return shards or [name for name in inside if PurePosixPath(name).name == f"{stem}.safetensors"]
