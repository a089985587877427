"""The torch-free half of each model family: a file per family, and of parts."""

from collections.abc import Mapping

from pipelines.api.families.family import TEXT_ENCODER, Linears, ModelFamily
from pipelines.api.families.qwen_image_edit_plus import QWEN_IMAGE_EDIT_PLUS

# The one place to register a family on this side; `pipelines.engine.families` has the other.
FAMILIES: Mapping[str, ModelFamily] = {family.name: family for family in (QWEN_IMAGE_EDIT_PLUS,)}

__all__ = ["FAMILIES", "QWEN_IMAGE_EDIT_PLUS", "TEXT_ENCODER", "Linears", "ModelFamily"]
