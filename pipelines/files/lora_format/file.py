"""The plan of a LoRA file: the layers that it changes, read from its header.

Every key must have a place in the model, or the file is refused with its name: no LoRA is ignored
or applied in part. No torch, no tensor data.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import FAMILIES, Linears
from pipelines.files.lora_format.config import LoraConfig, read_config
from pipelines.files.lora_format.family import guess_family
from pipelines.files.safetensors_header import FLOAT_DTYPES, Header, TensorInfo, read_header

# Prefixes that trainers put before a layer's name, which may be dotted or joined by underscores.
PREFIXES = (
    "base_model.model.transformer.",
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "pipe.dit.",
    "lora_unet_",
    "lora_transformer_",
    "lora_transformer.",
    "lycoris_",
)
# Ends of keys, and the part of a layer's change that each marks. Possessive where a key that does
# not match would take quadratic time.
_SUFFIXES = (
    (re.compile(r"\.lora_A(\.[^.]++)*\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.[^.]++)*\.weight$"), "up"),
    (re.compile(r"\.lora_down\.weight$"), "down"),
    (re.compile(r"\.lora_up\.weight$"), "up"),
    (re.compile(r"\.lora\.down\.weight$"), "down"),
    (re.compile(r"\.lora\.up\.weight$"), "up"),
    (re.compile(r"\.hada_w1_a$"), "w1_a"),
    (re.compile(r"\.hada_w1_b$"), "w1_b"),
    (re.compile(r"\.hada_w2_a$"), "w2_a"),
    (re.compile(r"\.hada_w2_b$"), "w2_b"),
    (re.compile(r"\.alpha$"), "alpha"),
)
# Other kinds of adapters, by the ends of their keys.
_OTHER_KINDS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)(\.|$)"), "a DoRA"),
    (re.compile(r"\.lokr_\w+$"), "a LoKr"),
    (re.compile(r"\.hada_t\d$"), "a LoHa for convolutions"),
    (re.compile(r"\.diff_b$"), "a full bias difference (.diff_b)"),
    (re.compile(r"\.diff(_m)?$"), "a full weight difference (.diff)"),
    (re.compile(r"\.lora_B(\.[^.]++)*\.bias$"), "a LoRA with biases"),
)
_LORA_PARTS = frozenset({"down", "up"})
_LOHA_PARTS = frozenset({"w1_a", "w1_b", "w2_a", "w2_b"})
_TEXT_ENCODER = re.compile(r"^(lora_te\d?_|text_encoder|te\d?\.|base_model\.model\.text_encoder)")


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One linear layer's share of a LoRA.

    `parts` are the keys of its tensors by part: down (rank, in) and up (out, rank), or a LoHa's
    w1_a, w2_a (out, rank) and w1_b, w2_b (rank, in). Their product is scaled by `multiplier` or,
    when `alpha_key` names a scalar in the file, by `config.multiplier` of that alpha.
    """

    parts: Mapping[str, str]
    rank: int
    multiplier: float
    alpha_key: str | None
    config: LoraConfig

    @property
    def is_loha(self) -> bool:
        """Return whether the change is a Hadamard product of two products."""
        return "w1_a" in self.parts


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """A file, every tensor of which has a place in the model."""

    path: Path
    header: Header
    layers: Mapping[str, LayerPlan]


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
    _refuse_other_kinds(header, config, name)
    located = _locate_all(header, linears, name)
    return LoraPlan(
        path,
        header,
        {
            module: _plan_layer(name, header, module, parts, linears[module], config)
            for module, parts in located.items()
        },
    )


def _locate_all(header: Header, linears: Linears, name: str) -> dict[str, dict[str, str]]:
    flat_names = {module.replace(".", "_"): module for module in linears}
    located: dict[str, dict[str, str]] = {}
    unmatched_keys: list[str] = []
    for key in header.tensors:
        module, part = _locate(key, flat_names)
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


def _locate(key: str, flat_names: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The layer and the part of it that `key` names; None for what is unknown."""
    for pattern, part in _SUFFIXES:
        match = pattern.search(key)
        if match:
            return _module_of(key[: match.start()], flat_names), part
    return None, None


def _module_of(stem: str, flat_names: Mapping[str, str]) -> str | None:
    for prefix in ("", *PREFIXES):
        if stem.startswith(prefix):
            module = flat_names.get(stem[len(prefix) :].replace(".", "_"))
            if module is not None:
                return module
    return None


def _plan_layer(
    name: str,
    header: Header,
    module: str,
    parts: Mapping[str, str],
    features: tuple[int, int],
    config: LoraConfig,
) -> LayerPlan:
    alpha_key = parts.get("alpha")
    matrices = {part: key for part, key in parts.items() if part != "alpha"}
    _check_parts(name, module, matrices)
    infos = {part: header.tensors[key] for part, key in matrices.items()}
    rank = _check_shapes(name, module, infos, features)
    if alpha_key is not None and math.prod(header.tensors[alpha_key].shape) != 1:
        raise LoraInvalid(f"{name}: {alpha_key} must be a single number.")
    _check_config(name, module, config, rank, has_alpha=alpha_key is not None)
    multiplier = config.multiplier(config.alpha_of(module), rank)
    return LayerPlan(matrices, rank, multiplier, alpha_key, config)


def _check_parts(name: str, module: str, parts: Iterable[str]) -> None:
    present = set(parts)
    wanted = _LOHA_PARTS if present & {"w1_a", "w1_b"} else _LORA_PARTS
    for part in sorted(wanted ^ present):
        if part in wanted:
            raise LoraInvalid(f"{name} is incomplete: {module} has no {part} matrix.")
        raise LoraInvalid(f"{name} mixes LoRA and LoHa matrices in {module}.")


def _check_config(
    name: str, module: str, config: LoraConfig, rank: int, *, has_alpha: bool
) -> None:
    configured = config.rank_of(module)
    if configured is not None and configured != rank:
        raise LoraInvalid(
            f"{name} contradicts itself: its configuration gives {module} rank {configured:g}, its "
            f"matrices have rank {rank}."
        )
    if config.is_rslora and config.alpha_of(module) is None and not has_alpha:
        raise LoraInvalid(f"{name} is an rsLoRA without an alpha: its strength is unknown.")


def _check_shapes(
    name: str, module: str, infos: Mapping[str, TensorInfo], features: tuple[int, int]
) -> int:
    """The rank. A LoHa's two products may have different ranks; the first one counts."""
    out_features, in_features = features
    pairs = [("up", "down")] if "up" in infos else [("w1_a", "w1_b"), ("w2_a", "w2_b")]
    ranks = []
    for up, down in pairs:
        rank = infos[down].shape[0] if infos[down].shape else 0
        fits = infos[up].shape == (out_features, rank) and infos[down].shape == (rank, in_features)
        if rank < 1 or not fits:
            raise LoraInvalid(
                f"{name} does not fit this model: {module} is {out_features}×{in_features}, the "
                f"file has {_shape(infos[up])} times {_shape(infos[down])}."
            )
        ranks.append(rank)
    for info in infos.values():
        if info.dtype not in FLOAT_DTYPES:
            raise LoraInvalid(f"{name} stores {module} as {info.dtype}; floats are expected.")
    return ranks[0]


def _refuse_other_kinds(header: Header, config: LoraConfig, name: str) -> None:
    # no map: it would hold the interpreter's lock for all keys
    kinds = [kind for mark, kind in _OTHER_KINDS if any(mark.search(key) for key in header.tensors)]
    if config.is_dora:
        kinds.append("a DoRA")
    if kinds:
        raise LoraInvalid(
            f"{name} is {kinds[0]}; this engine applies LoRA and LoHa, which are products of "
            f"low-rank matrices, and nothing else."
        )


def _unmatched_message(name: str, header: Header, unmatched: Iterable[str], *, reached: int) -> str:
    unmatched = list(unmatched)
    first = ", ".join(unmatched[:3]) + (" …" if len(unmatched) > 3 else "")
    if all(_TEXT_ENCODER.match(key) for key in header.tensors):
        return f"{name} is for the text encoder only; this engine applies LoRAs to the transformer."
    family = guess_family(header.shapes)
    guess = f" It looks like one for {family}." if family else ""
    if reached == 0:
        return f"{name} is not a LoRA for this model: no key names a layer of it ({first}).{guess}"
    is_served = family in {served.lora_marks.name for served in FAMILIES.values()}
    return (
        f"{name} has {len(unmatched)} of {len(header.tensors)} tensors without a place in this "
        f"model: {first}.{'' if is_served else guess}"
    )


def _shape(info: TensorInfo) -> str:
    return "×".join(map(str, info.shape)) or "a scalar"
