"""The plan of a LoRA file: the layers that it changes, read from its header.

Every key must have a place in the model, or the file is refused with its name: no LoRA is ignored
or applied in part. No torch, no tensor data.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import FAMILIES, Linears
from pipelines.files.lora_format.config import LoraConfig, read_config
from pipelines.files.lora_format.family import guess_family
from pipelines.files.lora_format.fused import split_fused, with_fused
from pipelines.files.lora_format.kinds import COMPANIONS, KINDS, Alpha, Kind, Misfit, shape_text
from pipelines.files.lora_format.kinds.difference import DIFFERENCE
from pipelines.files.lora_format.kinds.lora import LORA
from pipelines.files.lora_format.kinds.norm import NORM, norms_of
from pipelines.files.lora_format.kinds.norm import PARTS as NORM_PARTS
from pipelines.files.lora_format.kinds.refused import refused_kind
from pipelines.files.lora_format.layer_plan import LayerPlan
from pipelines.files.lora_format.other_files import other_kind
from pipelines.files.lora_format.prefixes import flat_names, module_of
from pipelines.files.safetensors_header import FLOAT_DTYPES, Header, TensorInfo, read_header

_SUFFIXES = (
    *(suffix for kind in KINDS if kind is not NORM for suffix in kind.suffixes),
    *((pattern, companion.part) for companion in COMPANIONS for pattern in companion.suffixes),
    (re.compile(r"\.alpha$"), "alpha"),
    # last: one of them is the end of most others
    *NORM.suffixes,
)
_COMPANION_PARTS = frozenset(companion.part for companion in COMPANIONS)


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """A file, every tensor of which has a place in the model."""

    path: Path
    header: Header
    layers: Mapping[str, LayerPlan]

    @property
    def used_keys(self) -> Iterator[str]:
        """The keys of the tensors that change the model; an alpha may be without effect."""
        for layer in self.layers.values():
            yield from layer.parts.values()
            if layer.alpha_key is not None:
                yield layer.alpha_key


def plan_lora(path: Path, linears: Linears, name: str | None = None) -> LoraPlan:
    """The layers of the model that the file at `path` changes.

    `linears` maps the model's linear layers to (out, in) features; messages call the file `name`.
    Raises LoraInvalid, which names the first keys concerned, when the file cannot be read, is
    another kind of adapter or for another model, or has a wrong shape, half a pair or an unknown
    key.
    """
    name = name or path.name
    return plan_header(read_header(path, name), path, linears, name)


def plan_header(header: Header, path: Path, linears: Linears, name: str) -> LoraPlan:
    """The plan of the file at `path`, whose header has been read. Raises LoraInvalid."""
    config = read_config(path, header.metadata, name)
    if kind := refused_kind(header.shapes):
        applied = ", ".join(kind.name for kind in KINDS)
        raise LoraInvalid(f"{name} is {kind}; this engine applies {applied} and DoRA.")
    norms = norms_of(linears)
    layers = with_fused(linears) | norms
    located = _locate_all(header, layers, norms, name)
    plans = {
        module: _plan_layer(name, header, module, parts, layers[module], config.of(module))
        for module, parts in located.items()
    }
    return LoraPlan(path, header, split_fused(plans, linears, name))


def _locate_all(
    header: Header, layers: Collection[str], norms: Collection[str], name: str
) -> dict[str, dict[str, str]]:
    names = flat_names(layers)
    located: dict[str, dict[str, str]] = {}
    unmatched_keys: list[str] = []
    for key in header.tensors:
        module, part = _locate(key, names, norms)
        if module is None or part is None:
            unmatched_keys.append(key)
            continue
        parts = located.setdefault(module, {})
        if part in parts:
            raise LoraInvalid(f"{name} names the {part} matrix of {module} twice.")
        parts[part] = key
    if unmatched_keys:
        raise LoraInvalid(_unmatched_message(name, header, unmatched_keys, reached=len(located)))
    return located


def _locate(
    key: str, names: Mapping[str, str], norms: Collection[str]
) -> tuple[str | None, str | None]:
    """The layer and the part of it that `key` names; None for what is unknown."""
    for pattern, part in _SUFFIXES:
        match = pattern.search(key)
        if match:
            module = module_of(key[: match.start()], names)
            if module in norms:
                return module, NORM_PARTS.get(part)
            return module, None if part in NORM.parts else part
    return None, None


def _plan_layer(
    name: str,
    header: Header,
    module: str,
    parts: Mapping[str, str],
    features: tuple[int, int],
    config: LoraConfig,
) -> LayerPlan:
    alpha_key = parts.get("alpha")
    tensors = {part: key for part, key in parts.items() if part != "alpha"}
    infos = {part: header.tensors[key] for part, key in tensors.items()}
    kind = _kind_of(name, module, tensors)
    rank = _check_tensors(name, module, kind, infos, features)
    _check_companions(name, module, kind, infos, features)
    if alpha_key is not None and math.prod(header.tensors[alpha_key].shape) != 1:
        raise LoraInvalid(f"{name}: {alpha_key} must be a single number.")
    if config.is_dora and kind.alpha is Alpha.OF_RANK and "magnitude" not in parts:
        raise LoraInvalid(f"{name} is a DoRA without the magnitude of {module}.")
    _check_config(name, module, config, rank, has_alpha=alpha_key is not None)
    if kind.alpha is Alpha.PART and alpha_key is not None:
        tensors["alpha"] = alpha_key
    if kind.alpha is not Alpha.OF_RANK:
        return LayerPlan(kind, tensors, rank, 1.0, None, config)
    multiplier = config.multiplier(config.alpha_of(module), rank or config.rank_of(module) or 1)
    return LayerPlan(kind, tensors, rank, multiplier, alpha_key if rank else None, config)


def _kind_of(name: str, module: str, parts: Collection[str]) -> Kind:
    """The kind of which the layer has every part. Raises LoraInvalid."""
    present = frozenset(parts) - _COMPANION_PARTS
    kinds = [kind for kind in KINDS if kind.parts & present]
    if len(kinds) > 1:
        names = " and ".join(kind.name for kind in kinds)
        raise LoraInvalid(f"{name} mixes {names} matrices in {module}.")
    kind = kinds[0] if kinds else DIFFERENCE if "shift" in parts else LORA
    form = kind.nearest_form(present)
    for part in sorted(form - present):
        raise LoraInvalid(f"{name} is incomplete: {module} has no {part} matrix.")
    for part in sorted(present - form):
        raise LoraInvalid(f"{name} has one {part} matrix too many in {module}.")
    return kind


def _check_config(
    name: str, module: str, config: LoraConfig, rank: int, *, has_alpha: bool
) -> None:
    configured = config.rank_of(module)
    if configured is not None and rank not in (0, configured):
        raise LoraInvalid(
            f"{name} contradicts itself: its configuration gives {module} rank {configured:g}, its "
            f"matrices have rank {rank}."
        )
    if config.is_oft:
        raise LoraInvalid(
            f"{name} is an OFT of PEFT; this engine applies LyCORIS' and OneTrainer's."
        )
    if config.is_rslora and config.alpha_of(module) is None and not has_alpha:
        raise LoraInvalid(f"{name} is an rsLoRA without an alpha: its strength is unknown.")


def _check_tensors(
    name: str, module: str, kind: Kind, infos: Mapping[str, TensorInfo], features: tuple[int, int]
) -> int:
    """The rank. Raises LoraInvalid."""
    try:
        own = {part: info.shape for part, info in infos.items() if part in kind.parts}
        rank = kind.rank(own, features)
    except Misfit as exc:
        raise LoraInvalid(
            f"{name} does not fit this model: {module} is "
            f"{'a norm' if kind is NORM else shape_text(features)}, the file has {exc}."
        ) from exc
    for part, info in infos.items():
        if info.dtype not in FLOAT_DTYPES and part not in kind.markers:
            raise LoraInvalid(f"{name} stores {module} as {info.dtype}; floats are expected.")
    return rank


def _check_companions(
    name: str, module: str, kind: Kind, infos: Mapping[str, TensorInfo], features: tuple[int, int]
) -> None:
    """Raise LoraInvalid for a companion that does not fit the layer or its kind."""
    for companion in COMPANIONS:
        info = infos.get(companion.part)
        if info is None:
            continue
        # PEFT has no DoRA with biases, so what its scale would be is unknown
        is_odd = companion.part == "bias" and "magnitude" in infos
        if kind.name not in companion.kinds or is_odd:
            raise LoraInvalid(f"{name} has a {companion.part} beside a {kind.name} in {module}.")
        if not companion.fits(info.shape, features):
            raise LoraInvalid(
                f"{name} does not fit this model: {module} is {shape_text(features)}, the file has "
                f"a {companion.part} of {shape_text(info.shape)}."
            )


def _unmatched_message(name: str, header: Header, unmatched: Iterable[str], *, reached: int) -> str:
    unmatched = list(unmatched)
    first = ", ".join(unmatched[:3]) + (" …" if len(unmatched) > 3 else "")
    if kind := other_kind(header.shapes):
        return f"{name} is {kind}, not a LoRA ({first})."
    family = guess_family(header.shapes)
    is_served = family in {served.lora_marks.name for served in FAMILIES.values()}
    guess = f" It looks like one for {family}." if family and not is_served else ""
    if reached == 0:
        return f"{name} is not a LoRA for this model: no key names a layer of it ({first}).{guess}"
    return (
        f"{name} has {len(unmatched)} of {len(header.tensors)} tensors without a place in this "
        f"model: {first}.{guess}"
    )
