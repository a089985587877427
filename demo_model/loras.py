"""The demo LoRAs: adapters for PEFT, and files in the layouts of different trainers."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)

RANK = 16
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "img_mlp.net.0.proj", "img_mlp.net.2", "proj_out")


@dataclass(frozen=True, slots=True)
class DemoLora:
    """A style, its training steps, and the layout of its file."""

    style: str
    steps: int
    layout: Callable[[dict[str, Tensor], float], dict[str, Tensor]]


def with_adapter(
    transformer: QwenImageTransformer2DModel, seed: int
) -> QwenImageTransformer2DModel:
    """A copy with a PEFT adapter, the only part that is trained."""
    student = copy.deepcopy(transformer).requires_grad_(False)
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
    adapted: QwenImageTransformer2DModel = inject_adapter_in_model(config, student)
    return adapted


def diffusers_layout(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """`transformer.<layer>.lora_A.weight`, without alpha, which equals the rank."""
    return {f"transformer.{name}": tensor for name, tensor in state.items()}


def comfyui_layout(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """`diffusion_model.<layer>.lora_down.weight`, with the alpha of each layer."""
    return _renamed(state, alpha, lambda layer: f"diffusion_model.{layer}")


def kohya_layout(state: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """`lora_unet_<layer with underscores>.lora_down.weight`, with the alpha of each layer."""
    return _renamed(state, alpha, lambda layer: "lora_unet_" + layer.replace(".", "_"))


def _renamed(
    state: dict[str, Tensor], alpha: float, rename: Callable[[str], str]
) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, matrix = name.removesuffix(".weight").rpartition(".lora_")
        side = "down" if matrix == "A" else "up"
        renamed[f"{rename(layer)}.lora_{side}.weight"] = tensor
        renamed[f"{rename(layer)}.alpha"] = torch.tensor(alpha)
    return renamed


DEMO_LORAS = (
    DemoLora("sepia", 700, diffusers_layout),
    DemoLora("outline", 1400, comfyui_layout),
    DemoLora("mosaic", 1400, kohya_layout),
)


def save_lora(lora: DemoLora, trained: QwenImageTransformer2DModel, path: Path) -> None:
    """Write the adapter on `trained` to `path` in the LoRA's layout, in bfloat16."""
    state = {name: t.bfloat16() for name, t in get_peft_model_state_dict(trained).items()}
    tensors = {name: t.contiguous() for name, t in lora.layout(state, float(RANK)).items()}
    metadata = {"modelspec.architecture": "qwen-image-edit/lora", "modelspec.title": lora.style}
    save_file(tensors, path, metadata)
    logger.info("wrote %s, %d kB", path, path.stat().st_size // 1000)
