"""The torch half of each model family: a file per family, and of parts."""

from collections.abc import Mapping

from pipelines.engine.families.family import EngineFamily
from pipelines.engine.families.qwen_image_edit_plus import QWEN_IMAGE_EDIT_PLUS

# The one place to register a family on this side; `pipelines.api.families` has the other.
FAMILIES: Mapping[str, EngineFamily] = {
    family.facts.name: family for family in (QWEN_IMAGE_EDIT_PLUS,)
}

__all__ = ["FAMILIES", "QWEN_IMAGE_EDIT_PLUS", "EngineFamily"]
