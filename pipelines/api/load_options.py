"""Choices for loading a model onto a device."""

from enum import StrEnum


class Offload(StrEnum):
    """Which weights wait in host memory until they are needed."""

    NONE = "none"
    MODEL = "model"
    GROUP = "group"


class ForwardName(StrEnum):
    """Which code runs the transformer; `auto` is the fast one where its check holds."""

    AUTO = "auto"
    FAST = "fast"
    STOCK = "stock"


class Dtype(StrEnum):
    """The number format that the model computes in; `auto` depends on the device."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
