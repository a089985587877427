"""Checks of `qwen-edit doctor` on models, the memory for them, and LoRAs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants

from pipelines.api.errors import LoraInvalid, ModelNotFound, ModelUnusable
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.load_options import Dtype
from pipelines.api.model_spec import DEMO_NAME
from pipelines.files.catalog import Catalog, ModelChoice
from pipelines.files.installation import default_folder
from pipelines.files.memory_fit import GIB, Fit, find_fits
from pipelines.files.model_files import ModelFiles, inspect_model
from pipelines.files.model_index import INDEX_FILE, model_name
from pipelines.files.safetensors_header import read_header
from server.cli.checks import Check, State, command
from server.cli.console import shown_size
from server.cli.machine import Host, TorchReport, free_disk
from server.cli.pull.command import SHORT_NAMES
from server.cli.pull.errors import PullError
from server.cli.pull.model import PUBLISHER, model_folder, read_origin
from server.settings import Settings

PUBLISHED, PUBLISHED_GB = "2511", 57.7


def check_models(settings: Settings) -> Iterator[Check]:
    """Report the model that `serve` would take, then all others, each with what it lacks."""
    catalog, served = Catalog(settings.weights_dir), None
    try:
        choice = catalog.resolve_model(settings.model)
        served = choice.path
        yield _check_served(choice, settings)
    except ModelNotFound as exc:
        is_demo = settings.model in (None, DEMO_NAME)
        do = _pull(PUBLISHED, settings) if is_demo else {"model": DEMO_NAME}
        yield Check("model", State.STOP, str(exc), do)
    except ModelUnusable as exc:
        yield Check("model", State.STOP, str(exc), {"model": DEMO_NAME})
    cached = Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{INDEX_FILE}")
    for path in (*catalog.models(), *sorted(index.parent for index in cached)):
        with contextlib.suppress(ModelUnusable):
            if path.absolute() != served:
                files = inspect_model(path)
                text = f"{model_name(path)} in {path.parent.absolute()}: {_describe(files)}"
                yield Check("found", State.NOTE if files.problems else State.OK, text)


def _check_served(choice: ModelChoice, settings: Settings) -> Check:
    if choice.is_demo:
        text = f"serve takes the demo model ({choice.why}). {choice.warning}"
        return Check("model", State.NOTE, text)
    files = inspect_model(choice.path)
    text = f"serve takes {model_name(choice.path)} ({choice.why}): {_describe(files)}"
    if not files.problems:
        return Check("model", State.OK, text)
    pull = _pull_again(choice.path, settings)
    if pull is None:
        text += ". Its source is unknown: download it again from there"
    return Check("model", State.STOP, text, pull)


def _describe(files: ModelFiles) -> str:
    missing = "; ".join(files.problems)
    return f"incomplete: {missing}" if missing else f"complete, {shown_size(files.size_bytes)}"


def _pull_again(path: Path, settings: Settings) -> str | None:
    """Return the command that completes the model in `path`, or None for an unknown source."""
    name, models = model_name(path), settings.weights_dir.absolute() / "models"
    if path.is_relative_to(models):
        name = str(path.relative_to(models))
    elif "/" not in name:  # no snapshot in the cache, which is pulled to the weights folder
        return None
    short_names = {repository: short for short, repository in SHORT_NAMES.items()}
    published = f"{PUBLISHER}/{name}"
    source = read_origin(path) or (published if published in short_names else name)
    if "/" not in source:
        return None
    try:
        is_usual = model_folder(source, None, settings) == model_folder(source, name, settings)
    except PullError:  # pull refuses such a name
        return None
    return _pull(short_names.get(source, source), settings, None if is_usual else name)


def _pull(source: str, settings: Settings, name: str | None = None) -> str:
    is_default = settings.weights_dir == default_folder("weights")
    folder = None if is_default else settings.weights_dir
    return command(f"pull {source}", {"name": name, "weights_dir": folder})


def check_fit(settings: Settings, torch: TorchReport, host: Host) -> Iterator[Check]:
    """Report which ways to keep the weights fit, and stop where that of the settings does not.

    The demo model fits anywhere: with it, the figures are those of the published model.
    """
    if torch.failure:  # the GPUs are unknown
        return
    served = None
    with contextlib.suppress(ModelNotFound, ModelUnusable):
        choice = Catalog(settings.weights_dir).resolve_model(settings.model)
        served = None if choice.is_demo else inspect_model(choice.path).parameters
    parameters = served or QWEN_IMAGE_EDIT_PLUS.parameters
    name = "this model" if served else "the published model"
    devices = set(settings.devices)
    gpus = [gpu.total_bytes for gpu in torch.gpus if gpu.devices & devices]
    if "cpu" in devices:  # its worker needs more host memory than those of GPUs
        gpus = []
    fits = find_fits(parameters, settings.dtype, gpus, host.memory_bytes)
    for fit in fits:
        verdict, state = ("fits", State.OK) if fit.fits else ("does not fit", State.NOTE)
        yield Check("memory", state, f"{name}: {_needs(fit)}: {verdict}")
    usable = next((fit.offload for fit in fits if fit.fits), None)
    chosen = next((fit for fit in fits if fit.offload == settings.offload), fits[0])
    if served and not chosen.fits:
        text = "this model does not fit this machine"
        if usable:
            text = f"this model fits with --offload {usable}, not with {chosen.offload}"
        do = {"offload": usable} if usable else {"model": DEMO_NAME}
        yield Check("memory", State.STOP, text, do)
    if not gpus:
        needs = map(_needs, find_fits(parameters, Dtype.BFLOAT16, [0], 0))
        text = "on a CPU, an edit with the published model takes hours; on a GPU, "
        yield Check("memory", State.NOTE, text + "; ".join(needs))
    elif usable and not served:
        yield _check_disk(settings)


def _needs(fit: Fit) -> str:
    host = f"{fit.host_needs / GIB:.0f} GiB of host memory"
    if not fit.device_needs:
        return f"on the CPU needs {host}"
    return f"--offload {fit.offload} needs {fit.device_needs / GIB:.0f} GiB on the GPU and {host}"


def _check_disk(settings: Settings) -> Check:
    free = free_disk(settings.weights_dir) / 1e9
    text = f"the published model has {PUBLISHED_GB} GB to download; {free:.1f} GB of disk are free"
    if free > PUBLISHED_GB:
        return Check("disk", State.OK, text, _pull(PUBLISHED, settings))
    return Check("disk", State.NOTE, text)


def check_loras(settings: Settings) -> Check:
    """Report the LoRAs that `serve` would offer, and those that cannot be read."""
    catalog = Catalog(settings.weights_dir)
    with contextlib.suppress(ModelNotFound):
        catalog = catalog.with_loras_of(catalog.resolve_model(settings.model))
    loras, problems = catalog.loras(), []
    for lora in loras:
        try:
            read_header(lora.path, lora.name)
        except (OSError, LoraInvalid) as exc:
            problems.append(str(exc).rstrip("."))
    own = sum(not lora.is_shipped for lora in loras)
    shipped = f", {len(loras) - own} that come with the demo model" if own < len(loras) else ""
    text = f"{own} in {settings.weights_dir.absolute() / 'loras'}{shipped}"
    return Check("loras", State.NOTE if problems else State.OK, "; ".join([text, *problems]))
