"""Errors of models, LoRAs and parameters.

EngineError
├── InvalidParameter      a value the model cannot work with
├── ModelNotFound         no such model on this machine
├── ModelUnusable         the folder is there but cannot be loaded
├── LoraNotFound          no such LoRA on this machine
├── LoraInvalid           the file is not a LoRA that this engine can apply
├── LoraOverflow          the LoRAs' scales make values beyond the model's number format
├── PresetNotFound        no such preset on this machine
├── PresetInvalid         the preset's file has a fault
├── OutOfDeviceMemory     the device has too little memory for this edit
├── NonFiniteOutput       the model computed NaN or infinity
└── DeviceFailed          the device cannot be used any more by this process

Each class has a stable `code`: errors cross the process border as (code, message), never pickled.
"""

import re
from typing import ClassVar

# An absolute path, and no part of a URL or of a relative path. The name after the last slash is
# kept; a path may have spaces, but where it ends is then unknown.
_PATH = re.compile(r"(?<![\w:/.~-])~?(?:/[^\s/'\"`,:;()<>]+)+/([^\s/'\"`,:;()<>]*)")


class EngineError(Exception):
    """The model could not make the image."""

    code: ClassVar[str] = "inference_failed"


class InvalidParameter(EngineError):
    """A parameter has a value that the model cannot work with."""

    code = "invalid_parameter"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}")
        self.field = field


class ModelNotFound(EngineError):
    """The model is not on this machine."""

    code = "model_not_found"


class ModelUnusable(EngineError):
    """The model's folder cannot be loaded."""

    code = "model_unusable"


class LoraNotFound(EngineError):
    """The LoRA is not on this machine."""

    code = "lora_not_found"


class LoraInvalid(EngineError):
    """The LoRA file cannot be applied to the loaded model."""

    code = "lora_invalid"


class LoraOverflow(EngineError):
    """The LoRAs at their scales have values beyond the number format of the model."""

    code = "lora_overflow"


class PresetNotFound(EngineError):
    """The preset is not on this machine."""

    code = "preset_not_found"


class PresetInvalid(EngineError):
    """The preset's file has a fault."""

    code = "preset_invalid"


class OutOfDeviceMemory(EngineError):
    """The device has too little free memory for this edit."""

    code = "out_of_memory"


class NonFiniteOutput(EngineError):
    """The model computed values that are no numbers."""

    code = "non_finite_output"


class DeviceFailed(EngineError):
    """The device failed in a way that only a new process recovers from."""

    code = "device_failed"


def without_paths(text: str) -> str:
    """Return the text with files by their names alone: clients may read what a library says."""
    return _PATH.sub(lambda match: match[1] or "…", text)


def is_device_failure(exc: BaseException | None) -> bool:
    """Return whether the exception, or one that it came from, is a fatal error of CUDA.

    After it every call in the process fails. torch raises AcceleratorError, older paths a plain
    RuntimeError. The class is known by its name, because torch is not imported here.
    """
    while exc is not None:
        if type(exc).__name__ == "AcceleratorError":
            return True
        if isinstance(exc, RuntimeError) and "CUDA error" in str(exc):
            return True
        exc = exc.__cause__ or exc.__context__
    return False
