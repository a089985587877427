"""The models and LoRAs in a `weights/` folder, by name. Reads folders, never the network."""

import contextlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.errors import InvalidParameter, LoraNotFound, ModelNotFound
from pipelines.api.model_spec import DEMO_NAME
from pipelines.api.sizes import SizeBounds
from pipelines.files.hub_cache import cached_snapshots
from pipelines.files.installation import SHIPPED_WEIGHTS, default_folder
from pipelines.files.lora_names import LORA_SUFFIX as LORA_SUFFIX
from pipelines.files.lora_names import check_new_name, check_printable
from pipelines.files.lora_references import FarLora, is_hub_id, is_url, parse_name, parse_url
from pipelines.files.lora_references import HubLora as HubLora
from pipelines.files.lora_references import ModelScopeLora as ModelScopeLora
from pipelines.files.lora_references import RemoteLora as RemoteLora
from pipelines.files.model_index import is_model_dir

# The sides of the images that the demo model was trained on.
DEMO_SIZES = SizeBounds(256, 512)
DEMO_WARNING = (
    f"The small demo model answers: it edits simple coloured shapes at {DEMO_SIZES.min_side} to "
    f"{DEMO_SIZES.max_side} pixels, nothing else. For real images, fetch a published model "
    "(qwen-edit pull 2511), or name one with --model."
)
SHIPPED_DEMO = SHIPPED_WEIGHTS / DEMO_NAME


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
        if is_hub_id(reference):
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

    def resolve_lora(self, reference: str) -> LoraEntry | FarLora:
        """The local file for `reference`, or where it would have to be fetched from.

        An existing file under `weights/loras/` wins (the suffix is optional), then a hub id
        `[hf://]owner/repo[@revision][/file.safetensors]` and an AIR id. A URL of a page of the hub,
        of Civitai or of ModelScope means the file that it shows.
        Raises InvalidParameter for a path that leaves the folder, a malformed URL, control
        characters and a Civitai model without a version, LoraNotFound for an unknown name.
        """
        if is_url(reference):
            return parse_url(reference)
        found = self._local_lora(reference) or parse_name(reference)
        if found is not None:
            return found
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
