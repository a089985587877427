"""What a LoRA file says of itself, read from its safetensors header. No torch, no tensor data.

`read_header` reads the header, `plan` maps its keys to the model's linear layers and proves that
every one of them has a place. Format: https://huggingface.co/docs/safetensors, an 8-byte
little-endian length, that many bytes of JSON, then the tensors.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import LoraInvalid

MAX_HEADER_BYTES = 64 * 1024 * 1024
DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

# What trainers put before a module's name, longest first. What follows may be dotted or flat.
_PREFIXES = (
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
_SUFFIXES = (
    (re.compile(r"\.lora_A(\.[^.]+)*\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.[^.]+)*\.weight$"), "up"),
    (re.compile(r"\.lora_down\.weight$"), "down"),
    (re.compile(r"\.lora_up\.weight$"), "up"),
    (re.compile(r"\.lora\.down\.weight$"), "down"),
    (re.compile(r"\.lora\.up\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)
# Adapters that are more or other than a product of two matrices, by the end of their keys.
_OTHER_KINDS = (
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)(\.|$)"), "a DoRA"),
    (re.compile(r"\.lokr_\w+$"), "a LoKr"),
    (re.compile(r"\.hada_\w+$"), "a LoHa"),
    (re.compile(r"\.diff_b$"), "a full bias difference (.diff_b)"),
    (re.compile(r"\.diff(_m)?$"), "a full weight difference (.diff)"),
    (re.compile(r"\.lora_B(\.[^.]+)*\.bias$"), "a LoRA with biases"),
)
_TEXT_ENCODER = re.compile(r"^(lora_te\d?_|text_encoder|te\d?\.|base_model\.model\.text_encoder)")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor by its header: safetensors' dtype name, shape, and byte range after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """A safetensors header. `data_start` is the file offset that byte ranges count from."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One linear layer's share of a LoRA: the keys of its tensors and its rank.

    `down` is (rank, in), `up` is (out, rank). `alpha` is the key of a scalar, or a number that the
    file's metadata gives, or None for alpha = rank.
    """

    down: str
    up: str
    alpha: str | float | None
    rank: int


def read_header(path: Path) -> Header:
    """The header of the safetensors file at `path`.

    Raises LoraInvalid when the file is empty, truncated, damaged, or of another format.
    """
    size = path.stat().st_size
    if size == 0:
        raise LoraInvalid(f"{path.name} is empty.")
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else MAX_HEADER_BYTES + 1
        if length > MAX_HEADER_BYTES:
            raise LoraInvalid(f"{path.name} is no safetensors file{_guess_format(start)}.")
        raw = file.read(length)
    if len(raw) < length:
        raise LoraInvalid(
            f"{path.name} is truncated or no safetensors file{_guess_format(start)}: its header "
            f"should have {length} bytes, {len(raw)} are there."
        )
    header = _parse_header(raw, path.name)
    expected = 8 + length + max((info.end for info in header.tensors.values()), default=0)
    if size < expected:
        raise LoraInvalid(f"{path.name} is truncated: {size} of {expected} bytes are there.")
    if not header.tensors:
        raise LoraInvalid(f"{path.name} holds no tensors.")
    return header


def plan(header: Header, linears: Mapping[str, tuple[int, int]], name: str) -> dict[str, LayerPlan]:
    """The layers of the model that the file changes, every tensor of the file accounted for.

    `linears` maps the model's linear layers to (out, in) features. Raises LoraInvalid, naming the
    first keys concerned, when the file is another kind of adapter, for another model, has a wrong
    shape, half a pair, or a key without a place.
    """
    _refuse_other_kinds(header, name)
    flat_names = {module.replace(".", "_"): module for module in linears}
    layers: dict[str, dict[str, str]] = {}
    strangers: list[str] = []
    for key in header.tensors:
        module, part = _locate(key, flat_names)
        if module is None or part is None:
            strangers.append(key)
        elif part in layers.setdefault(module, {}):
            raise LoraInvalid(f"{name} names the {part} matrix of {module} twice.")
        else:
            layers[module][part] = key
    if strangers:
        raise LoraInvalid(_stranger_message(name, header, strangers, reached=len(layers)))
    alphas = _metadata_alphas(header)
    return {
        module: _layer_plan(name, header, module, parts, linears[module], alphas)
        for module, parts in layers.items()
    }


def _layer_plan(
    name: str,
    header: Header,
    module: str,
    parts: Mapping[str, str],
    features: tuple[int, int],
    metadata_alpha: float | None,
) -> LayerPlan:
    for part in ("down", "up"):
        if part not in parts:
            raise LoraInvalid(f"{name} is incomplete: {module} has no {part} matrix.")
    down, up = (header.tensors[parts[part]] for part in ("down", "up"))
    rank = down.shape[0] if down.shape else 0
    out_features, in_features = features
    if rank < 1 or down.shape != (rank, in_features) or up.shape != (out_features, rank):
        raise LoraInvalid(
            f"{name} does not fit this model: {module} is {out_features}×{in_features}, the file "
            f"has {_shape(up)} times {_shape(down)}."
        )
    for info in (down, up):
        if info.dtype not in FLOAT_DTYPES:
            raise LoraInvalid(f"{name} stores {module} as {info.dtype}; floats are expected.")
    alpha_key = parts.get("alpha")
    if alpha_key is not None and math.prod(header.tensors[alpha_key].shape) != 1:
        raise LoraInvalid(f"{name}: {alpha_key} must be a single number.")
    return LayerPlan(parts["down"], parts["up"], alpha_key or metadata_alpha, rank)


def _locate(key: str, flat_names: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The model's layer and the part of it that `key` names; None where there is none."""
    for pattern, part in _SUFFIXES:
        match = pattern.search(key)
        if match:
            stem = key[: match.start()]
            for prefix in ("", *_PREFIXES):
                flat = stem.removeprefix(prefix).replace(".", "_")
                if stem.startswith(prefix) and flat in flat_names:
                    return flat_names[flat], part
            return None, part
    return None, None


def _refuse_other_kinds(header: Header, name: str) -> None:
    for mark, kind in _OTHER_KINDS:
        if any(mark.search(key) for key in header.tensors):
            raise LoraInvalid(f"{name} is {kind}; this engine applies plain LoRAs only.")


def _stranger_message(name: str, header: Header, strangers: list[str], reached: int) -> str:
    first = ", ".join(strangers[:3]) + (" …" if len(strangers) > 3 else "")
    if all(_TEXT_ENCODER.match(key) for key in header.tensors):
        return f"{name} is for the text encoder only; this engine applies LoRAs to the transformer."
    if reached == 0:
        return f"{name} is no LoRA for this model: none of its keys names a layer of it ({first})."
    return (
        f"{name} has {len(strangers)} of {len(header.tensors)} tensors without a place in this "
        f"model: {first}"
    )


def _metadata_alphas(header: Header) -> float | None:
    """The alpha of a file that PEFT wrote through diffusers, which keeps it in the metadata."""
    raw = header.metadata.get("lora_adapter_metadata")
    if raw is None:
        return None
    try:
        config = json.loads(raw)
    except ValueError:
        return None
    for key in ("transformer.lora_alpha", "lora_alpha"):
        value = config.get(key) if isinstance(config, dict) else None
        if isinstance(value, int | float):
            return float(value)
    return None


def _parse_header(raw: bytes, name: str) -> Header:
    try:
        entries: dict[str, Any] = json.loads(raw)
        metadata = entries.pop("__metadata__", {})
        tensors = {key: _tensor_info(entry) for key, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        guess = _guess_format(raw[:8])
        raise LoraInvalid(f"{name} is no safetensors file{guess}: its header is damaged.") from exc
    return Header(tensors, {str(k): str(v) for k, v in metadata.items()}, 8 + len(raw))


def _tensor_info(entry: Mapping[str, Any]) -> TensorInfo:
    start, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    if end - start != math.prod(shape) * DTYPE_BYTES[entry["dtype"]] or start < 0:
        raise ValueError("the byte range does not match the shape")
    return TensorInfo(entry["dtype"], shape, start, end)


def _guess_format(start: bytes) -> str:
    """What a file of another format probably is, in words, from its first bytes."""
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return " (it looks like a pickle, which can run code and is never loaded)"
    if start.lstrip().lower().startswith((b"<!doc", b"<html", b"<")):
        return " (it looks like a web page)"
    return ""


def _shape(info: TensorInfo) -> str:
    return "×".join(map(str, info.shape)) or "a scalar"
