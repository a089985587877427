"""LoRA files to one adapter on the model: read, compose, activate."""

from pipelines.lora.compose import Adapter, compose
from pipelines.lora.engine import LoraEngine
from pipelines.lora.tensors import Lora, read_lora

__all__ = ["Adapter", "Lora", "LoraEngine", "compose", "read_lora"]
