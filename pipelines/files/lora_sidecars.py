"""Files that other programs keep beside a LoRA: what they know about it, and its preview.

Notes are `.civitai.info` (Civitai Helper: the version as Civitai's API describes it),
`.metadata.json` (LoRA Manager) and `.json` (Stable Diffusion web UI, whose keys have spaces). None
of them is trusted: what cannot be read counts as absent.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

NOTES = (".civitai.info", ".metadata.json", ".json")
PREVIEWS = tuple(
    middle + suffix for middle in ("", ".preview") for suffix in (".png", ".jpg", ".jpeg", ".webp")
)
# The web UI puts this text into the prompt.
TRIGGER_KEY = "activation text"
# Those of published models have some ten kilobytes.
MAX_NOTE_BYTES = 1024 * 1024


def sidecar_paths(path: Path) -> list[Path]:
    """Return the paths that files beside the LoRA at `path` may have."""
    return [path.with_suffix(suffix) for suffix in (*NOTES, *PREVIEWS)]


def read_notes(path: Path) -> Iterator[Mapping[str, object]]:
    """Yield the JSON objects beside the LoRA at `path`."""
    for suffix in NOTES:
        note = _read_object(path.with_suffix(suffix))
        if note:
            yield note


def write_trigger(path: Path, prompt: str) -> None:
    """Note the prompt that triggers the LoRA at `path`, unless it has a note of that name."""
    with contextlib.suppress(FileExistsError), path.with_suffix(".json").open("x") as file:
        json.dump({TRIGGER_KEY: prompt}, file)


def _read_object(path: Path) -> Mapping[str, object]:
    try:
        # a pipe would never end
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            text = file.read(MAX_NOTE_BYTES + 1)
        found = json.loads(text) if len(text) <= MAX_NOTE_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
