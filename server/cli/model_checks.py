"""What `qwen-edit doctor` finds out about models and LoRAs, and which model the memory holds."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants

from pipelines.api.errors import LoraInvalid, ModelNotFound, ModelUnusable
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.load_options import Dtype, Offload
from pipelines.api.model_spec import DEMO_NAME
from pipelines.files.catalog import Catalog, ModelChoice
from pipelines.files.memory_fit import GIB, Fit, fits_on_cpu, fits_on_gpu
from pipelines.files.model_files import ModelFiles, inspect_model
from pipelines.files.model_index import INDEX_FILE, model_name
from pipelines.files.safetensors_header import read_header
from server.cli.advice import Pull, Serve
from server.cli.checks import Check, State, cuda_index
from server.cli.console import shown_size
from server.cli.machine import Gpu, Host, TorchReport, free_disk
from server.cli.pull.command import SHORT_NAMES
from server.cli.pull.errors import PullError
from server.cli.pull.model import PUBLISHER, model_folder, read_origin
from server.settings import Settings

PUBLISHED_GB = 57.7
PULL = Pull("2509")


def check_models(settings: Settings) -> Iterator[Check]:
    """The model that would be served, then all others found, each with what it lacks."""
    catalog = Catalog(settings.weights_dir)
    try:
        choice = catalog.resolve_model(settings.model)
    except ModelNotFound as exc:
        is_demo_absent = settings.model in (None, DEMO_NAME)
        do = PULL if is_demo_absent else Serve({"model": DEMO_NAME})
        yield Check("model", State.STOP, str(exc), do)
        return
    yield _served(choice, settings)
    others = [path.absolute() for path in catalog.models() if path.absolute() != choice.path]
    for path in [*others, *(path for path in _cached_models() if path != choice.path)]:
        with contextlib.suppress(ModelUnusable):
            files = inspect_model(path)
            state = State.NOTE if files.problems else State.OK
            yield Check("found", state, f"{model_name(path)} in {path.parent}: {_describe(files)}")


@dataclass(frozen=True, slots=True)
class _Plan:
    """The ways to hold one model: the served one, or the published one when none is served."""

    parameters: Mapping[str, int]
    is_served: bool
    on_gpu: bool
    fits: tuple[Fit, ...]

    @property
    def name(self) -> str:
        return "this model" if self.is_served else "the published model"

    @property
    def fastest(self) -> Fit | None:
        """The first way with enough memory for it."""
        return next((fit for fit in self.fits if fit.fits), None)


def check_fit(settings: Settings, torch: TorchReport, host: Host) -> Iterator[Check]:
    """Whether memory holds the served model, or the published one, and in which ways."""
    plan = _plan(settings, torch, host)
    for fit in plan.fits:
        state = State.OK if fit.fits else State.NOTE
        yield Check("memory", state, f"{plan.name}: {_message(fit, on_gpu=plan.on_gpu)}")
    yield from _check_choice(plan, settings.offload)
    if plan.on_gpu and plan.fastest and not plan.is_served:
        yield _check_disk(settings)


def _plan(settings: Settings, torch: TorchReport, host: Host) -> _Plan:
    served = _served_parameters(settings)
    parameters = served or QWEN_IMAGE_EDIT_PLUS.parameters
    used = _used_gpus(settings, torch)
    return _Plan(parameters, bool(served), bool(used), _fits(settings, parameters, used, host))


def _check_choice(plan: _Plan, offload: Offload) -> Iterator[Check]:
    """What is wrong with the way that the settings choose; nothing when it fits on a GPU."""
    chosen = next(fit for fit in plan.fits if not plan.on_gpu or fit.offload == offload)
    state = State.STOP if plan.is_served else State.NOTE
    advice: Serve | None = None
    if plan.fastest is None:
        message = f"{plan.name} does not fit this machine. On a GPU, {_needs(plan.parameters)}"
        advice = Serve({"model": DEMO_NAME})
    elif not chosen.fits:
        usable = plan.fastest.offload
        message = f"{plan.name} fits with --offload {usable}, not with {chosen.offload}"
        advice = Serve({"offload": usable})
    elif not plan.on_gpu:
        state = State.NOTE
        message = f"{plan.name} would run on the CPU: with the published one an edit takes hours"
    else:
        return
    yield Check("memory", state, message, advice if plan.is_served else None)


def _check_disk(settings: Settings) -> Check:
    """Whether the disk has room for the published model."""
    free = free_disk(settings.weights_dir) / 1e9
    message = f"the published model has {PUBLISHED_GB} GB to fetch; {free:.1f} GB of disk are free"
    if free > PUBLISHED_GB:
        return Check("disk", State.OK, message, PULL)
    return Check("disk", State.NOTE, message)


def check_loras(settings: Settings) -> Check:
    """How many LoRAs a server would find, and which of them cannot be read."""
    catalog = Catalog(settings.weights_dir)
    with contextlib.suppress(ModelNotFound):
        catalog = catalog.with_loras_of(catalog.resolve_model(settings.model))
    found = catalog.loras()
    bad = []
    for entry in found:
        try:
            read_header(entry.path, entry.name)
        except (OSError, LoraInvalid) as exc:
            bad.append(str(exc).rstrip("."))
    shipped = sum(entry.is_shipped for entry in found)
    message = f"{len(found) - shipped} in {settings.weights_dir / 'loras'}"
    if shipped:
        message += f", {shipped} that come with the demo model"
    if bad:
        return Check("loras", State.NOTE, f"{message}; {'; '.join(bad)}")
    return Check("loras", State.OK, message)


def _served(choice: ModelChoice, settings: Settings) -> Check:
    if choice.is_demo:
        message = f"the demo model would answer ({choice.why}). {choice.warning}"
        return Check("model", State.NOTE, message)
    try:
        files = inspect_model(choice.path)
    except ModelUnusable as exc:
        return Check("model", State.STOP, str(exc))
    message = f"{model_name(choice.path)} would answer ({choice.why}): {_describe(files)}"
    if not files.problems:
        return Check("model", State.OK, message)
    mend = _mend(choice.path, settings)
    if mend is None:
        message += ". Where this folder came from is not known here: fetch it again from there"
    return Check("model", State.STOP, message, mend)


def _mend(path: Path, settings: Settings) -> Pull | None:
    """What fetches what the model in `path` lacks; None where nothing says whence it came."""
    models = settings.weights_dir.absolute() / "models"
    here = model_name(path)
    if "/" not in here:  # else a snapshot in the cache: what is fetched goes to the weights folder
        if not path.is_relative_to(models):
            return None
        here = str(path.relative_to(models))
    repository = read_origin(path) or _repository_of(here)
    if repository is None:
        return None
    try:
        usual, own = (model_folder(repository, name, settings) for name in (None, here))
    except PullError:
        return None
    short = {full: name for name, full in SHORT_NAMES.items()}.get(repository, repository)
    return Pull(short, None if own == usual else here)


def _repository_of(name: str) -> str | None:
    """The repository that a folder under `models/` is named after."""
    if "/" in name:
        return name
    published = f"{PUBLISHER}/{name}"
    return published if published in SHORT_NAMES.values() else None


def _describe(files: ModelFiles) -> str:
    if files.problems:
        return f"not whole: {'; '.join(files.problems)}"
    return f"whole, {shown_size(files.size_bytes)}"


def _served_parameters(settings: Settings) -> Mapping[str, int] | None:
    """The served model's size; None for the demo model, which fits anywhere, and for no model."""
    try:
        choice = Catalog(settings.weights_dir).resolve_model(settings.model)
        return None if choice.is_demo else inspect_model(choice.path).parameters
    except (ModelNotFound, ModelUnusable):
        return None


def _used_gpus(settings: Settings, torch: TorchReport) -> list[Gpu]:
    """The devices that workers would be started on; none is the CPU."""
    if "cpu" in settings.devices:
        return []
    wanted = {0 if name == "auto" else cuda_index(name) for name in settings.devices}
    return [gpu for gpu in torch.gpus if gpu.index in wanted]


def _fits(
    settings: Settings, parameters: Mapping[str, int], used: list[Gpu], host: Host
) -> tuple[Fit, ...]:
    is_wide = settings.dtype is Dtype.FLOAT32 or (settings.dtype is Dtype.AUTO and not used)
    bytes_each = 4 if is_wide else 2
    if not used:
        return (fits_on_cpu(parameters, bytes_each=bytes_each, host_bytes=host.memory_bytes),)
    return fits_on_gpu(
        parameters,
        bytes_each=bytes_each,
        device_bytes=min(gpu.total_bytes for gpu in used),
        host_bytes=host.memory_bytes,
        workers=len(used),
    )


def _message(fit: Fit, *, on_gpu: bool) -> str:
    verdict = "fits" if fit.fits else "does not fit"
    host = f"{fit.host_needs / GIB:.0f} GiB of host memory"
    if not on_gpu:
        return f"needs {host} on the CPU: {verdict}"
    gpu = f"{fit.device_needs / GIB:.0f} GiB on the GPU"
    return f"--offload {fit.offload} needs {gpu} and {host}: {verdict}"


def _needs(parameters: Mapping[str, int]) -> str:
    fits = fits_on_gpu(parameters, bytes_each=2, device_bytes=0, host_bytes=0)
    return "; ".join(_message(fit, on_gpu=True).rpartition(":")[0] for fit in fits)


def _cached_models() -> list[Path]:
    """Snapshots of models in the local Hugging Face cache."""
    return sorted(
        index.parent.absolute()
        for index in Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{INDEX_FILE}")
    )
