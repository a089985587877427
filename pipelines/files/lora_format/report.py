"""A report on a LoRA file for people, without the model's libraries."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import Linears
from pipelines.api.profiles import LoraProfile
from pipelines.files.lora_format.family import guess_family
from pipelines.files.lora_format.file import plan_header
from pipelines.files.lora_format.origin import check_origin
from pipelines.files.lora_format.prefixes import prefix_of
from pipelines.files.lora_profiles import read_profile
from pipelines.files.safetensors_header import Header, read_header

MAX_TRIGGER_WORDS = 20
_BASE_MODEL_KEYS = (
    "modelspec.base_model", "ss_base_model_version", "ss_sd_model_name", "base_model",
    "modelspec.architecture",
)  # fmt: skip
_TRIGGER_KEYS = ("modelspec.trigger_phrase", "trigger_words", "trigger_word", "instance_prompt")
_TITLE_KEYS = ("modelspec.title", "ss_output_name", "name")


@dataclass(frozen=True, slots=True)
class LoraReport:
    """A LoRA file at a glance.

    `problem` is the reason why it cannot be applied, None when it fits. `layout` is the prefix and
    the suffix of its first key. `ranks` and `alphas` map values to numbers of layers that have a
    rank, with "in the file" for an alpha that is a tensor; `dtypes` maps to numbers of tensors.
    `profile` is how requests that leave it open are sampled.
    """

    name: str
    size_bytes: int
    problem: str | None
    family: str | None
    layout: str
    kind: str
    modules: int
    ranks: Mapping[int, int]
    alphas: Mapping[str, int]
    dtypes: Mapping[str, int]
    title: str | None
    base_model: str | None
    trigger_words: tuple[str, ...]
    metadata: Mapping[str, str]
    profile: LoraProfile | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Return whether the LoRA can be applied to the model."""
        return self.problem is None


def inspect_lora(path: Path, linears: Linears, name: str) -> LoraReport:
    """The report of the file at `path` for a model with these linear layers.

    Raises LoraInvalid when it is not a safetensors file.
    """
    header = read_header(path, name)
    problem, ranks, alphas, kind, modules = None, Counter[int](), Counter[str](), "unknown", 0
    profile: LoraProfile | None = None
    warnings: tuple[str, ...] = ()
    try:
        plan = plan_header(header, path, linears, name)
        warnings = check_origin(header.metadata, plan.layers, linears, name)
        profile = read_profile(path, name, header.metadata, name)
    except LoraInvalid as exc:
        problem = str(exc)
    else:
        modules = len(plan.layers)
        layers = plan.layers.values()
        ranks.update(layer.rank for layer in layers if layer.rank)
        alphas.update(
            "in the file" if layer.alpha_key else f"{layer.multiplier * layer.rank:g}"
            for layer in layers
            if layer.rank
        )
        kind = " and ".join(sorted({layer.kind_name for layer in layers}))
    return LoraReport(
        name=name,
        size_bytes=path.stat().st_size,
        problem=problem,
        family=guess_family(header.shapes),
        layout=_layout(header),
        kind=kind,
        modules=modules,
        ranks=dict(sorted(ranks.items())),
        alphas=dict(alphas),
        dtypes=dict(Counter(info.dtype for info in header.tensors.values())),
        title=_first(header.metadata, _TITLE_KEYS),
        base_model=_first(header.metadata, _BASE_MODEL_KEYS),
        trigger_words=_trigger_words(header.metadata),
        metadata=header.metadata,
        profile=profile,
        warnings=warnings,
    )


def _layout(header: Header) -> str:
    """The first key but alphas, which all kinds have, with a star in place of the layer."""
    key = min(header.tensors, key=lambda key: (key.endswith(".alpha"), key))
    prefix = prefix_of(key)
    rest = key[len(prefix) :]
    marks = (
        ".lora_",
        ".lora.",
        ".hada_",
        ".lokr_",
        ".alpha",
        ".diff",
        ".dora_",
        ".oft_",
        ".set_w",
        ".w_",
    )
    starts = [position for mark in marks if (position := rest.find(mark)) >= 0]
    return f"{prefix}*{rest[min(starts) :]}" if starts else key


def _trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words that trigger the LoRA: from its metadata, else its most frequent captions."""
    named = _first(metadata, _TRIGGER_KEYS)
    if named:
        return tuple(word.strip() for word in named.split(",") if word.strip())
    try:
        datasets = json.loads(metadata.get("ss_tag_frequency", "{}"))
        tags: Counter[str] = Counter()
        for frequencies in datasets.values():
            tags.update({str(tag).strip(): int(count) for tag, count in frequencies.items()})
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return ()
    return tuple(tag for tag, _ in tags.most_common(MAX_TRIGGER_WORDS))


def _first(metadata: Mapping[str, str], keys: tuple[str, ...]) -> str | None:
    return next((metadata[key] for key in keys if metadata.get(key)), None)
