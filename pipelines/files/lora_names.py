"""Names of LoRA files, as uploads and downloads give them."""

import re
from pathlib import PurePath

from pipelines.api.errors import InvalidParameter

LORA_SUFFIX = ".safetensors"
# The limit of file systems, in bytes of UTF-8.
MAX_PART_BYTES = 255
MAX_FOLDERS = 8
SHOWN_CHARS = 80
# Also line separators, and halves of surrogate pairs, which no file name can hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_printable(text: str, field: str) -> None:
    """Raise InvalidParameter for control characters, which would forge lines of the log."""
    if _CONTROL.search(text):
        raise InvalidParameter(field, f"must have no control characters, got {shown(text)}")


def check_new_name(name: str) -> None:
    """Raise InvalidParameter for a name that no file, or no other LoRA beside it, could have."""
    *folders, own = PurePath(name).parts or ("",)
    if PurePath(own).suffix != LORA_SUFFIX or own.startswith("."):
        problem = f"must end in {LORA_SUFFIX}"
    elif len(folders) > MAX_FOLDERS:
        problem = f"must have at most {MAX_FOLDERS} folders"
    elif any(len(part.encode()) > MAX_PART_BYTES for part in (*folders, own)):
        problem = f"must have at most {MAX_PART_BYTES} bytes between slashes"
    elif any(folder.startswith(".") or folder.endswith(LORA_SUFFIX) for folder in folders):
        problem = f"must have no folder that starts with a dot or ends in {LORA_SUFFIX}"
    else:
        return
    raise InvalidParameter("name", f"{problem}, got {shown(name)}")


def shown(text: str) -> str:
    """The start of a text in quotes, with escapes for what cannot be printed."""
    return repr(text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…")
