"""A report on a LoRA file for people, without the model's libraries."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import TEXT_ENCODER, Linears
from pipelines.api.profiles import LoraProfile
from pipelines.files.lora_format.alpha import multiplier_of
from pipelines.files.lora_format.card import read_card
from pipelines.files.lora_format.family import guess_family
from pipelines.files.lora_format.file import plan_header
from pipelines.files.lora_format.layer_plan import LayerPlan
from pipelines.files.lora_format.origin import check_origin
from pipelines.files.lora_format.prefixes import prefix_of
from pipelines.files.lora_format.thumbnail import (
    embedded_thumbnail,
    has_preview,
    without_images,
)
from pipelines.files.lora_profiles import read_profile
from pipelines.files.safetensors_header import Header, read_header


@dataclass(frozen=True, slots=True)
class LoraReport:
    """A LoRA file at a glance.

    `modules` counts the layers that it changes, `text_modules` those of the text encoder.
    `problem` is the reason why it cannot be applied, None when it fits. `layout` is the prefix and
    the suffix of its first key. `ranks` and `alphas` map values to numbers of layers that have a
    rank, with "in the file" for an alpha that is a tensor; `dtypes` maps to numbers of tensors.
    `profile` is how requests that leave it open are sampled. `metadata` is without images.
    """

    name: str
    size_bytes: int
    problem: str | None
    family: str | None
    layout: str
    kind: str
    modules: int
    text_modules: int
    ranks: Mapping[int, int]
    alphas: Mapping[str, int]
    dtypes: Mapping[str, int]
    title: str | None
    base_model: str | None
    trigger_words: tuple[str, ...]
    usage_hint: str | None
    suggested_scale: float | None
    has_thumbnail: bool
    metadata: Mapping[str, str]
    profile: LoraProfile | None = None
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Return whether the LoRA can be applied to the model."""
        return self.problem is None

    @property
    def shown_layers(self) -> str:
        """The number of layers, and of those that are not the transformer's."""
        text = f" ({self.text_modules} in the text encoder)" if self.text_modules else ""
        return f"{self.modules}{text}"


def inspect_lora(path: Path, linears: Linears, name: str) -> LoraReport:
    """The report of the file at `path` for a model with these linear layers.

    Raises LoraInvalid when it is not a safetensors file.
    """
    header = read_header(path, name)
    problem: str | None = None
    profile: LoraProfile | None = None
    warnings: tuple[str, ...] = ()
    plans: Mapping[str, LayerPlan] = {}
    try:
        plans = plan_header(header, path, linears, name).layers
        origin = check_origin(header.metadata, plans, linears, name)
        warnings = (*origin, *_strength_warnings(header, path, name))
        profile = read_profile(path, name, header.metadata, name)
    except LoraInvalid as exc:
        problem, plans = str(exc), {}
    layers = plans.values()
    ranks = Counter(layer.rank for layer in layers if layer.rank)
    alphas = Counter(
        "in the file" if layer.alpha_key else f"{layer.multiplier * layer.rank:g}"
        for layer in layers
        if layer.rank
    )
    card = read_card(path, header.metadata)
    return LoraReport(
        name=name,
        size_bytes=path.stat().st_size,
        problem=problem,
        family=guess_family(header.shapes),
        layout=_layout(header),
        kind=" and ".join(sorted({layer.kind_name for layer in layers})) or "unknown",
        modules=len(plans),
        text_modules=sum(layer.startswith(TEXT_ENCODER) for layer in plans),
        ranks=dict(sorted(ranks.items())),
        alphas=dict(alphas),
        dtypes=dict(Counter(info.dtype for info in header.tensors.values())),
        title=card.title,
        base_model=card.base_model,
        trigger_words=card.trigger_words,
        usage_hint=card.usage_hint,
        suggested_scale=card.suggested_scale,
        has_thumbnail=has_preview(path) or embedded_thumbnail(header.metadata) is not None,
        metadata=without_images(header.metadata),
        profile=profile,
        warnings=warnings,
    )


def _strength_warnings(header: Header, path: Path, name: str) -> Iterator[str]:
    """What a request with this file must say, though the file fits."""
    try:
        multiplier_of(header, path, name, None)
    except LoraInvalid as exc:
        yield str(exc)


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
