"""The linear layers of a QwenImageTransformer2DModel, from its configuration alone. No torch.

A LoRA can so be judged by a server whose worker still loads, or by the command line without one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.api.errors import ModelUnusable

# Qwen-Image, Qwen-Image-Edit, -2509 and -2511 alike.
PUBLISHED_CONFIG: Mapping[str, int] = {
    "num_layers": 60,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 3584,
    "in_channels": 64,
    "out_channels": 16,
    "patch_size": 2,
}
TIME_CHANNELS = 256
MLP_RATIO = 4


def linears_of(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Each linear layer's name and its (out, in) features."""
    values = {**PUBLISHED_CONFIG, **{key: config[key] for key in PUBLISHED_CONFIG if key in config}}
    inner = values["num_attention_heads"] * values["attention_head_dim"]
    linears = {
        "img_in": (inner, values["in_channels"]),
        "txt_in": (inner, values["joint_attention_dim"]),
        "time_text_embed.timestep_embedder.linear_1": (inner, TIME_CHANNELS),
        "time_text_embed.timestep_embedder.linear_2": (inner, inner),
    }
    block = _block_linears(inner)
    for index in range(values["num_layers"]):
        for name, features in block.items():
            linears[f"transformer_blocks.{index}.{name}"] = features
    linears["norm_out.linear"] = (2 * inner, inner)
    linears["proj_out"] = (values["patch_size"] ** 2 * values["out_channels"], inner)
    return linears


def read_linears(model: Path) -> dict[str, tuple[int, int]]:
    """The linear layers of the model in `model`. Raises ModelUnusable."""
    path = model / "transformer" / "config.json"
    try:
        return linears_of(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise ModelUnusable(f"{path} cannot be read: {exc}") from exc


def _block_linears(inner: int) -> dict[str, tuple[int, int]]:
    attention = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    block = {f"attn.{name}": (inner, inner) for name in (*attention, "to_out.0", "to_add_out")}
    for stream in ("img", "txt"):
        block[f"{stream}_mod.1"] = (6 * inner, inner)
        block[f"{stream}_mlp.net.0.proj"] = (MLP_RATIO * inner, inner)
        block[f"{stream}_mlp.net.2"] = (inner, MLP_RATIO * inner)
    return block
