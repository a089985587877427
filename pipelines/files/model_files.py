"""Which files a model folder needs, which of them are there, and how large the model is.

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
from pipelines.files.model_index import INDEX_FILE, family_of, read_object
from pipelines.files.safetensors_header import MODEL_LIMITS, read_header
from pipelines.files.spec_file import SPEC_FILE

# Configurations, vocabularies, merges and chat templates.
_TEXT_SUFFIXES = (".json", ".txt", ".jinja")

# The components of a model; those with weights have the stem of their weight files.
Components = Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder as it is on disk.

    `parameters` counts each component's numbers, as far as its files are there; `problems` names
    what is missing or damaged, one sentence each without a full stop, empty for a whole model.
    """

    parameters: Mapping[str, int]
    size_bytes: int
    problems: tuple[str, ...]


def components_of(index: Mapping[str, Any], name: str) -> Components:
    """The components that a `model_index.json` names; messages call the model `name`.

    Raises ModelUnusable for an unknown pipeline.
    """
    stems = family_of(index, name).weight_stems
    values = {key: value for key, value in index.items() if isinstance(value, list)}
    return {key: stems.get(key) for key, value in values.items() if len(value) == 2 and all(value)}


def needed_files(names: Iterable[str], components: Components) -> list[str]:
    """Of a repository's files, those that loading the model reads; `model_index.json` comes last.

    No pickles, no other precisions, nothing twice: a component's shards, or else its single file.
    """
    present = set(names)
    needed = [name for name in (SPEC_FILE,) if name in present]
    for component, stem in components.items():
        inside = [name for name in present if str(PurePosixPath(name).parent) == component]
        needed += sorted(name for name in inside if _is_text(name, stem))
        needed += _weights(inside, stem)
    return [*needed, INDEX_FILE]


def inspect_model(folder: Path, index: Mapping[str, Any] | None = None) -> ModelFiles:
    """The model in `folder`; `index` replaces its `model_index.json` where that is missing.

    Raises ModelUnusable for another kind of folder.
    """
    if index is None:
        index = read_object(folder / INDEX_FILE)
    parts = [
        _inspect_component(folder / component, stem)
        for component, stem in components_of(index, str(folder)).items()
    ]
    return ModelFiles(
        {name: count for part in parts for name, count in part.parameters.items()},
        sum(part.size_bytes for part in parts),
        tuple(problem for part in parts for problem in part.problems),
    )


def _inspect_component(folder: Path, stem: str | None) -> ModelFiles:
    """One component's share of a model: its numbers, its size, and what is wrong with it."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return ModelFiles({}, 0, (f"{folder.name}/ is missing",))
    if stem is None:
        return ModelFiles({}, 0, ())
    problems: list[str] = []
    if not (folder / "config.json").is_file():
        problems.append(f"{folder.name}/config.json is missing")
    count = size_bytes = 0
    for path in _expected_weights(folder, stem, problems):
        name = f"{folder.name}/{path.name}"
        try:
            shapes = read_header(path, name, MODEL_LIMITS).shapes.values()
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except (OSError, LoraInvalid) as exc:
            problems.append(str(exc).rstrip("."))
        else:
            count += sum(map(math.prod, shapes))
            size_bytes += path.stat().st_size
    return ModelFiles({folder.name: count}, size_bytes, tuple(problems))


def _expected_weights(folder: Path, stem: str, problems: list[str]) -> list[Path]:
    """The weight files that a component must have; an unreadable index goes to `problems`."""
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


def _is_text(name: str, stem: str | None) -> bool:
    path = PurePosixPath(name)
    if path.suffix not in _TEXT_SUFFIXES:
        return False
    return not path.name.endswith(".index.json") or path.name == f"{stem}.safetensors.index.json"


def _weights(inside: Iterable[str], stem: str | None) -> list[str]:
    if stem is None:
        return []
    shard = re.compile(rf"{stem}-\d+-of-\d+\.safetensors")
    shards = sorted(name for name in inside if shard.fullmatch(PurePosixPath(name).name))
    return shards or [name for name in inside if PurePosixPath(name).name == f"{stem}.safetensors"]
