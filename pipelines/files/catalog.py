"""The models and LoRAs in a `weights/` folder, by name. Reads folders, never the network."""

import contextlib
import os
import re
import shlex
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import InvalidParameter, LoraNotFound, ModelNotFound
from pipelines.api.model_spec import DEMO_NAME
from pipelines.api.sizes import SizeBounds
from pipelines.files.hub_cache import cached_snapshots
from pipelines.files.installation import SHIPPED_WEIGHTS, default_folder
from pipelines.files.lora_names import LORA_SUFFIX as LORA_SUFFIX
from pipelines.files.lora_names import check_new_name, check_printable, shown
from pipelines.files.model_index import is_model_dir

# The sides of the images that the demo model was trained on.
DEMO_SIZES = SizeBounds(256, 512)
DEMO_WARNING = (
    f"The small demo model answers: it edits simple coloured shapes at {DEMO_SIZES.min_side} to "
    f"{DEMO_SIZES.max_side} pixels, nothing else. For real images, fetch a published model "
    "(qwen-edit pull 2511), or name one with --model."
)
SHIPPED_DEMO = SHIPPED_WEIGHTS / DEMO_NAME
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_HUB_ID = re.compile(r"\w(?:[\w.-]*\w)?/\w(?:[\w.-]{0,94}\w)?")
_HUB_FILE = re.compile(rf"({_HUB_ID.pattern})/((?:[\w. -]+/)*[\w. -]+\.safetensors)")


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model's folder, and why it was chosen."""

    path: Path
    why: str
    is_demo: bool = False

    @property
    def good_sizes(self) -> SizeBounds:
        """Sizes that the model can edit well; requests may ask for others."""
        return DEMO_SIZES if self.is_demo else SizeBounds()

    @property
    def warning(self) -> str | None:
        """A note about the model for people who look at its images, or None."""
        return DEMO_WARNING if self.is_demo else None


@dataclass(frozen=True, slots=True)
class LoraEntry:
    """A LoRA file. `name` is the `path` by which a request names it.

    `is_shipped` marks one of the demo model's own that is not in the weights folder.
    """

    name: str
    path: Path
    size_bytes: int
    is_shipped: bool = False


@dataclass(frozen=True, slots=True)
class RemoteLora:
    """A LoRA to fetch from `url`."""

    url: str


@dataclass(frozen=True, slots=True)
class HubLora:
    """A LoRA in a repository on the Hugging Face hub; without `filename` its only weight file."""

    repo: str
    filename: str | None = None
    revision: str | None = None


class Catalog:
    """The models and LoRAs of one `weights/` folder, looked up on each call.

    `presets` is the folder of its presets.
    `shipped_loras` is a folder of further LoRAs, those of the demo model; a file of the same name
    in the weights folder wins.
    """

    def __init__(self, weights_dir: Path, *, shipped_loras: Path | None = None) -> None:
        self._weights_dir = weights_dir
        self._models = weights_dir / "models"
        self._loras = weights_dir / "loras"
        self.presets = weights_dir / "presets"
        self._shipped_loras = shipped_loras

    def with_loras_of(self, choice: ModelChoice) -> "Catalog":
        """Return a catalog of the same folder that also finds the LoRAs shipped with a model."""
        shipped = SHIPPED_WEIGHTS / "loras" if choice.is_demo else None
        return Catalog(self._weights_dir, shipped_loras=shipped)

    def models(self) -> list[Path]:
        """The model folders under `weights/models/`, by name, including nested `owner/repo`."""
        found = [
            *self._models.glob("*/model_index.json"),
            *self._models.glob("*/*/model_index.json"),
        ]
        return sorted(index.parent for index in found)

    def resolve_model(self, reference: str | None) -> ModelChoice:
        """The model for `reference`: a path, a name, a hub id in the local cache, or `demo`.

        None means the first published model by name, or the demo model when there is none.
        Raises ModelNotFound, which lists the models that were found.
        """
        if reference is None:
            return self._default_model()
        if reference == DEMO_NAME:
            return self._demo("asked for by name")
        candidates = [Path(reference).expanduser(), self._models / reference]
        if _HUB_ID.fullmatch(reference):
            candidates += cached_snapshots(reference)
        for path in candidates:
            if is_model_dir(path):
                return ModelChoice(path.absolute(), f"asked for as {reference!r}")
        names = [str(path.relative_to(self._models)) for path in self.models()]
        raise ModelNotFound(
            f"No model {reference!r}: neither a folder with a model_index.json, nor a name "
            f"under {self._models}, nor in the Hugging Face cache. Found: "
            f"{', '.join([*names, DEMO_NAME])}."
        )

    def _default_model(self) -> ModelChoice:
        published = self.models()
        if not published:
            why = (
                f"there is no published model under {self._models}; the demo model answers instead"
            )
            return self._demo(why)
        others = ", ".join(path.name for path in published[1:])
        why = f"the first by name under {self._models}"
        if others:
            why += f"; choose another with --model (also there: {others})"
        return ModelChoice(published[0].absolute(), why)

    def _demo(self, why: str) -> ModelChoice:
        # a weights folder such as a mounted volume may lack the demo model
        places = (self._weights_dir / DEMO_NAME, SHIPPED_DEMO)
        for path in places:
            if is_model_dir(path):
                return ModelChoice(path.absolute(), why, is_demo=True)
        pull = "qwen-edit pull 2511"
        if self._weights_dir != default_folder("weights"):
            pull += f" --weights-dir {shlex.quote(str(self._weights_dir))}"
        raise ModelNotFound(
            f"There is no model to serve: none under {self._models}, and no demo model in "
            f"{' or '.join(map(str, places))}. Fetch one with `{pull}`."
        )

    def loras(self) -> list[LoraEntry]:
        """All LoRA files under `weights/loras/`, subfolders too, sorted by name."""
        own = {
            (name := str(path.relative_to(self._loras))): LoraEntry(name, path, path.stat().st_size)
            for path in self._loras.rglob(f"*{LORA_SUFFIX}")
            if path.is_file()
        }
        found = self._shipped() | own
        return [found[name] for name in sorted(found)]

    def resolve_lora(self, reference: str) -> LoraEntry | RemoteLora | HubLora:
        """The local file for `reference`, or where it would have to be fetched from.

        An existing file under `weights/loras/` wins (the suffix is optional), then a hub id
        `owner/repo[/file.safetensors]`. A URL of a hub page counts as a hub id.
        Raises InvalidParameter for a path that leaves the folder, a malformed URL and control
        characters, LoraNotFound for an unknown name.
        """
        if re.match(r"https?://", reference, re.IGNORECASE):
            return _remote_lora(reference)
        local = self._local_lora(reference)
        if local is not None:
            return local
        if _is_hub_id(reference):
            return HubLora(reference)
        if (match := _HUB_FILE.fullmatch(reference)) and _is_hub_id(match[1]):
            return HubLora(match[1], match[2])
        known = ", ".join(entry.name for entry in self.loras()) or "none"
        raise LoraNotFound(f"There is no LoRA {reference!r} under weights/loras. Found: {known}.")

    def new_lora_path(self, name: str) -> Path:
        """The path for a new LoRA of this name, which may have folders in front.

        Raises InvalidParameter for a bad name.
        """
        self._check_inside(name, "name")
        check_new_name(name)
        return self._loras / name

    def _check_inside(self, name: str, field: str) -> None:
        check_printable(name, field)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidParameter(
                field, f"must be a file name under weights/loras or a URL, got {name!r}"
            )

    def _local_lora(self, reference: str) -> LoraEntry | None:
        self._check_inside(reference, "loras.path")
        names = (reference, reference + LORA_SUFFIX)
        for name in names:
            path = self._loras / name
            with contextlib.suppress(OSError):  # a name longer than the file system allows
                if path.suffix == LORA_SUFFIX and path.is_file():
                    return LoraEntry(name, path, path.stat().st_size)
        shipped = self._shipped()
        return next((shipped[name] for name in names if name in shipped), None)

    def _shipped(self) -> dict[str, LoraEntry]:
        if self._shipped_loras is None:
            return {}
        # in a checkout the folder also holds LoRAs of the user
        files = self._shipped_loras.glob(f"{DEMO_NAME}-*{LORA_SUFFIX}")
        return {
            path.name: LoraEntry(path.name, path, path.stat().st_size, is_shipped=True)
            for path in files
        }


def _is_hub_id(text: str) -> bool:
    """Return whether the hub allows this `owner/repo`, so that its library accepts it."""
    return bool(_HUB_ID.fullmatch(text)) and not re.search(r"--|\.\.|\.git$", text)


def _remote_lora(url: str) -> RemoteLora | HubLora:
    """The LoRA at a URL. Raises InvalidParameter where none can be."""
    check_printable(url, "loras.path")
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        if not host:
            raise ValueError("it names no host")
    except ValueError as exc:
        message = f"must be a valid URL, got {shown(url)}: {exc}"
        raise InvalidParameter("loras.path", message) from exc
    return _hub_page(parts) or RemoteLora(url)


def _hub_page(parts: urllib.parse.SplitResult) -> HubLora | None:
    """The file or repository that a page or a download link of the hub is about, or None.

    Raises InvalidParameter for a path that leaves the repository.
    """
    own = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    if parts.netloc.lower() not in {*_HUB_HOSTS, own.lower()} - {""}:
        return None
    path = urllib.parse.unquote(parts.path).strip("/")
    check_printable(path, "loras.path")
    if {".", ".."} & set(path.split("/")):
        raise InvalidParameter("loras.path", f"must have no . or .. in it, got {shown(path)}")
    match = re.fullmatch(rf"({_HUB_ID.pattern})/(?:blob|resolve)/([^/]+)/(.+)", path)
    if match and _is_hub_id(match[1]):
        return HubLora(match[1], match[3], match[2])
    match = re.fullmatch(rf"(?!datasets/|spaces/)({_HUB_ID.pattern})(?:/tree/([^/]+))?", path)
    return HubLora(match[1], None, match[2]) if match and _is_hub_id(match[1]) else None
