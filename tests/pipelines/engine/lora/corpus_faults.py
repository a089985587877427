"""Files that must be refused, each with its writer and its message."""

import io
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save, save_file

from tests.lora_files import Linears, adapter_metadata, lora_tensors, random_pairs, write_raw
from tests.pipelines.engine.lora.conftest import MODULES

Tensors = dict[str, torch.Tensor]
Writer = Callable[[Path, Linears], object]

FIRST = f"transformer.{MODULES[0]}"
A, B = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"
ENTRY = {"dtype": "F32", "shape": [4, 64], "data_offsets": [0, 1024]}
NO_LAYER = (
    r"not a LoRA for this model: no key names a layer of it \({}.*\)\. It looks like one for {}"
)
FAMILIES = {
    "Flux": "transformer.single_transformer_blocks.0.proj_out",
    "Flux of kohya": "lora_unet_double_blocks_0_img_attn_qkv",
    "SDXL": "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "SD 1.5": "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
    "SD 3": "lora_unet_joint_blocks_0_x_block_attn_qkv",
    "Wan": "diffusion_model.blocks.0.self_attn.q",
    "Wan of musubi": "lora_unet_blocks_0_cross_attn_k",
    "Z-Image": "diffusion_model.layers.0.attention.to_q",
}
FAMILY_NAMES = {
    "Flux": "Flux",
    "Flux of kohya": "Flux",
    "SDXL": "Stable Diffusion XL",
    "SD 1.5": "Stable Diffusion 1 or 2",
    "SD 3": "Stable Diffusion 3",
    "Wan": "Wan",
    "Wan of musubi": "Wan",
    "Z-Image": "Z-Image",
}


def good(linears: Linears) -> Tensors:
    """Two layers that fit."""
    return lora_tensors(random_pairs(linears, MODULES[:2]))


def raw(data: bytes) -> Writer:
    return lambda path, linears: path.write_bytes(data)


def header(value: object, data: bytes = bytes(1024)) -> Writer:
    return lambda path, linears: write_raw(path, value, data)


def cut(path: Path, linears: Linears, *, to: float) -> None:
    data = save(good(linears))
    path.write_bytes(data[: int(len(data) * to)] if to else data[:60])


def plus(key: str, value: torch.Tensor) -> Writer:
    """A good file with one tensor added or replaced."""
    return lambda path, linears: save_file({**good(linears), key: value}, path)


def minus(key: str) -> Writer:
    return lambda path, linears: save_file(
        {name: value for name, value in good(linears).items() if name != key}, path
    )


def only(*keys: str) -> Writer:
    return lambda path, linears: save_file({key: torch.ones(4, 8) for key in keys}, path)


def swapped(path: Path, linears: Linears) -> None:
    tensors = good(linears)
    save_file({**tensors, A: tensors[B], B: tensors[A]}, path)


def published_depth(path: Path, linears: Linears) -> None:
    """All 60 layers of the published model, on a model with fewer."""
    names = [f"transformer_blocks.{index}.attn.to_q" for index in range(60)]
    deep = dict.fromkeys(names, linears[MODULES[0]])
    save_file(lora_tensors(random_pairs(deep, names)), path)


def twice(path: Path, linears: Linears) -> None:
    again = random_pairs(linears, MODULES[:1], seed=1)
    save_file(good(linears) | lora_tensors(again, prefix="diffusion_model."), path)


def with_config(rank: int, alpha: float | None, **more: object) -> Writer:
    metadata = adapter_metadata(rank, alpha, **more)
    return lambda path, linears: save_file(good(linears), path, metadata)


def loha_without_its_end(path: Path, linears: Linears) -> None:
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a")
    save_file({f"{FIRST}.{name}": torch.ones(4, 4) for name in names}, path)


def flux_with_shared_names(path: Path, linears: Linears) -> None:
    """Flux in diffusers' layout, whose first blocks share names with this model."""
    save_file({**good(linears), f"{FAMILIES['Flux']}.lora_A.weight": torch.ones(4, 8)}, path)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CONTAINERS: dict[str, tuple[Writer, str]] = {
    "empty": (raw(b""), "is empty"),
    "one byte": (raw(b"\x01"), "is not a safetensors file"),
    "header cut": (partial(cut, to=0), r"is truncated .*\d+ of \d+ bytes of its header"),
    "data cut": (partial(cut, to=0.9), r"is truncated: \d+ of \d+ bytes are there"),
    **{
        f"pickle of protocol {protocol}": (
            raw(pickle.dumps({"a": [1] * 9}, protocol)),
            "looks like a pickle",
        )
        for protocol in (2, 3, 4, 5)
    },
    "zip of torch.save": (raw(zipped()), "looks like a pickle"),
    "web page": (raw(b"\n<!doctype html><html></html>"), "looks like a web page"),
    "git-lfs pointer": (raw(LFS), "Git LFS pointer"),
    "GGUF": (raw(b"GGUF\x03\0\0\0" + bytes(40)), "looks like a GGUF file"),
    "header is no JSON": (header(b"{nonsense"), "header is damaged"),
    "header is a list": (header([]), "header is damaged"),
    "header is no text": (header(b"\xff\xfe\xfd"), "header is damaged"),
    "entry is no object": (header({A: 3}), "header is damaged"),
    "negative offsets": (header({A: {**ENTRY, "data_offsets": [-1024, 0]}}), "header is damaged"),
    "negative shape": (header({A: {**ENTRY, "shape": [-4, -64]}}), "header is damaged"),
    "fractional offsets": (
        header({A: {**ENTRY, "data_offsets": [0.0, 1024.0]}, B: {**ENTRY, "shape": [64, 4]}}),
        "header is damaged",
    ),
    "offsets beyond the shape": (
        header({A: {**ENTRY, "data_offsets": [0, 1000]}}),
        "header is damaged",
    ),
    "offsets beyond the file": (
        header({A: {**ENTRY, "data_offsets": [1024, 2048]}}),
        "is truncated: .* bytes are there",
    ),
    "nothing": (header({}), "holds no tensors"),
    "no tensors": (header({"__metadata__": {"format": "pt"}}), "holds no tensors"),
}
MISFITS: dict[str, tuple[Writer, str]] = {
    "unknown layer": (
        plus(f"transformer.{MODULES[0]}x.lora_A.weight", torch.ones(4, 64)),
        rf"1 of 5 tensors without a place in this model: transformer\.{MODULES[0]}x",
    ),
    "layer beyond the model": (
        plus("transformer.transformer_blocks.7.attn.to_q.lora_A.weight", torch.ones(1)),
        r"without a place in this model: transformer\.transformer_blocks\.7",
    ),
    "60 layers on a smaller model": (
        published_depth,
        r"118 of 120 tensors without a place in this model: transformer\.transformer_blocks\.\d",
    ),
    "no up matrix": (minus(B), f"is incomplete: {MODULES[0]} has no up matrix"),
    "no down matrix": (minus(A), f"is incomplete: {MODULES[0]} has no down matrix"),
    "wrong shape": (
        plus(A, torch.ones(4, 5)),
        rf"does not fit this model: {MODULES[0]} is 64×64, the file has 64×4 times 4×5",
    ),
    "ranks that differ": (plus(A, torch.ones(3, 64)), "the file has 64×4 times 3×64"),
    "matrix with one dimension": (plus(A, torch.ones(64)), "the file has 64×4 times 64"),
    "rank zero": (plus(A, torch.ones(0, 64)), f"has an empty tensor: {A} is 0×64"),
    "swapped matrices": (swapped, "the file has 4×64 times 64×4"),
    "NaN": (plus(A, torch.full((4, 64), torch.nan)), f"NaN or infinity in {A}"),
    "infinity": (plus(B, torch.full((64, 4), torch.inf)), f"NaN or infinity in {B}"),
    "minus infinity": (plus(B, torch.full((64, 4), -torch.inf)), f"NaN or infinity in {B}"),
    "both infinities": (
        plus(A, torch.tensor([torch.inf, -torch.inf] * 128).view(4, 64)),
        f"NaN or infinity in {A}",
    ),
    "NaN in fp8": (
        plus(A, torch.full((4, 64), torch.nan).to(torch.float8_e4m3fn)),
        f"NaN or infinity in {A}",
    ),
    "alpha of NaN": (plus(f"{FIRST}.alpha", torch.tensor(torch.nan)), "NaN or infinity"),
    "alpha of two": (plus(f"{FIRST}.alpha", torch.ones(2)), "alpha must be a single number"),
    "whole numbers": (
        plus(A, torch.ones(4, 64, dtype=torch.int8)),
        f"stores {MODULES[0]} as I8; floats are expected",
    ),
    "one layer twice": (twice, f"names the (up|down) matrix of {MODULES[0]} twice"),
    "text encoder only": (
        only("text_encoder.layers.0.q_proj.lora_A.weight"),
        r"no key names a layer of it \(text_encoder.* looks like one for a text encoder",
    ),
    "text encoder of kohya only": (
        only("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"),
        r"no key names a layer of it \(lora_te1_.* looks like one for a text encoder",
    ),
    "text encoder too": (
        plus("text_encoder.layers.0.q_proj.lora_A.weight", torch.ones(4, 8)),
        r"has 1 of 5 tensors without a place in this model: text_encoder\.layers\.0\.q_proj",
    ),
    "nothing known": (only("whatever.weight"), r"no key names a layer of it \(whatever\.weight\)"),
    **{
        f"for {family}": (
            only(f"{stem}.lora_A.weight"),
            NO_LAYER.format(stem.replace(".", r"\."), FAMILY_NAMES[family]),
        )
        for family, stem in FAMILIES.items()
    },
    "for Flux, in part with our names": (flux_with_shared_names, "looks like one for Flux"),
}
