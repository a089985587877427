"""`qwen-edit pull NAME`: find out whether NAME is a model or a LoRA, and fetch it."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import disable_progress_bars

from pipelines.api.errors import EngineError, InvalidParameter, LoraNotFound
from pipelines.api.families import FAMILIES
from pipelines.files.catalog import Catalog, LoraEntry, ModelScopeLora, RemoteLora
from pipelines.files.lora_references import FarLora
from pipelines.files.model_index import INDEX_FILE, read_family, read_object
from server.cli.console import err, print_error
from server.cli.pull import lora, model
from server.cli.pull.errors import PullError
from server.errors import ServerError
from server.loras.hub_repository import HubError, read_repository
from server.settings import Settings, SettingsError, read_settings

SHORT_NAMES = {
    short: repository
    for family in FAMILIES.values()
    for short, repository in family.checkpoints.items()
}
# The few-step LoRAs for the model that `qwen-edit serve` would start.
LIGHTNING = {"lightning": 4, "lightning-4": 4, "lightning-8": 8}
FORMS = (
    "2509, 2511, lightning, lightning-8, OWNER/REPO[@REVISION][/FILE.safetensors], "
    "civitai:MODEL@VERSION, the URL of a file, or that of a page of the hub, Civitai or ModelScope"
)


def pull(
    name: Annotated[str, typer.Argument(help=f"What to fetch: {FORMS}")],
    name_here: Annotated[
        str | None, typer.Option("--name", help="What to call it here [its own name]")
    ] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Models and LoRAs")] = None,
) -> None:
    """Fetch a published model or a LoRA into the weights folder; run it again to resume.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE apply. Files in the Hugging Face cache are used.
    """
    disable_progress_bars()
    try:
        settings = read_settings(weights_dir=weights_dir)
        asyncio.run(_until_interrupted(_pull(_resolve(name, settings), name_here, settings)))
    except (PullError, HubError, EngineError, SettingsError) as exc:
        message = str(exc).removeprefix(f"{lora.FIELD}: ")
    except ServerError as exc:
        message = str(exc).removeprefix(f"{exc.field}: ")
    except OSError as exc:  # a full disk, say, or a folder that cannot be written
        message = f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)
    else:
        return
    print_error(message)
    raise typer.Exit(1)


async def _until_interrupted(work: Coroutine[None, None, None]) -> None:
    task = asyncio.ensure_future(work)
    # wakes the loop whichever thread takes the signal; the handler of asyncio.run does not
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        err.print("stopped; run the same command again to resume")
        # asyncio.run would wait for threads that hash or copy files
        os._exit(130)


async def _pull(found: FarLora, name_here: str | None, settings: Settings) -> None:
    if isinstance(found, ModelScopeLora):
        found = await lora.locate(found, settings)
    if isinstance(found, RemoteLora):
        await lora.pull_url(found.url, name_here, settings)
        return
    if constants.HF_HUB_OFFLINE and found.filename is None:
        folder = model.model_folder(found.repo, name_here, settings)
        if model.is_complete(folder, found.repo, name_here):
            model.say_complete(folder, is_new=False)
            return
    repository = await read_repository(found.repo, found.revision)
    if found.filename is None and repository.file(INDEX_FILE):
        await model.pull_model(repository, name_here, settings)
    else:
        await lora.pull_from_hub(repository, found.filename, name_here, settings)


def _resolve(name: str, settings: Settings) -> FarLora:
    if name in LIGHTNING:
        name = _lightning(LIGHTNING[name], settings)
    try:
        found = Catalog(settings.weights_dir).resolve_lora(SHORT_NAMES.get(name, name))
    except LoraNotFound:
        raise PullError(f"{name!r} cannot be fetched: give {FORMS}.") from None
    except InvalidParameter as exc:
        reason = str(exc).removeprefix(exc.field)
        raise PullError(f"{name!r} cannot be fetched: give {FORMS}. It{reason}.") from None
    if isinstance(found, LoraEntry):
        raise PullError(f"{found.path} exists already; it is the LoRA {name!r}.")
    return found


def _lightning(steps: int, settings: Settings) -> str:
    """Return the hub file of the Lightning LoRA for the model of this machine."""
    model = Catalog(settings.weights_dir).resolve_model(settings.model)
    if model.is_demo:
        raise PullError(
            "Lightning is for a published model, and there is none here: fetch one first, with "
            "`qwen-edit pull 2511`."
        )
    config = read_object(model.path / "transformer" / "config.json")
    return read_family(model.path).lightning(config)[steps]
