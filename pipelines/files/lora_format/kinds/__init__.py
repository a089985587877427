"""The kinds of LoRA by their headers, one file per kind. No torch, no tensor data."""

from pipelines.files.lora_format.kinds.companion import Companion
from pipelines.files.lora_format.kinds.difference import BIAS, DIFFERENCE, SHIFT
from pipelines.files.lora_format.kinds.dora import MAGNITUDE
from pipelines.files.lora_format.kinds.kind import Alpha, Kind, Misfit, shape_text
from pipelines.files.lora_format.kinds.loha import LOHA
from pipelines.files.lora_format.kinds.lokr import LOKR
from pipelines.files.lora_format.kinds.lora import LORA
from pipelines.files.lora_format.kinds.norm import NORM
from pipelines.files.lora_format.kinds.oft import OFT

KINDS: tuple[Kind, ...] = (LORA, LOHA, LOKR, DIFFERENCE, OFT, NORM)
COMPANIONS: tuple[Companion, ...] = (MAGNITUDE, SHIFT, BIAS)

__all__ = ["COMPANIONS", "KINDS", "Alpha", "Companion", "Kind", "Misfit", "shape_text"]
