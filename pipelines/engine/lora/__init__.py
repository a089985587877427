"""LoRA files to one adapter on the model: read, compose, activate."""

from pipelines.engine.lora.change import LayerChange
from pipelines.engine.lora.compose import Adapter, compose
from pipelines.engine.lora.engine import LoraEngine
from pipelines.engine.lora.tensors import Lora, read_lora

__all__ = ["Adapter", "LayerChange", "Lora", "LoraEngine", "compose", "read_lora"]
