"""`qwen-edit pull NAME`: which kind of thing NAME is, and every fault as a sentence."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx2
import typer
from huggingface_hub import constants
from huggingface_hub.utils.tqdm import disable_progress_bars

from pipelines.api.errors import EngineError, InvalidParameter, LoraNotFound
from pipelines.api.families import FAMILIES
from pipelines.files.catalog import Catalog, HubLora, LoraEntry, RemoteLora
from pipelines.files.model_index import INDEX_FILE
from server.cli.console import err, print_error
from server.cli.pull import lora, model
from server.cli.pull.errors import PullRefused
from server.errors import ServerError
from server.loras import hub_lora as hub
from server.loras import hub_repository
from server.loras.hub_repository import DamagedDownload, HubRepository
from server.settings import Settings, SettingsError, read_settings

SHORT_NAMES = {
    short: repository
    for family in FAMILIES.values()
    for short, repository in family.checkpoints.items()
}
FORMS = (
    "2509, 2511, OWNER/REPO, OWNER/REPO/FILE.safetensors, or the URL of a file or of a page of the "
    "hub"
)


def pull(
    name: Annotated[str, typer.Argument(help=f"What to fetch: {FORMS}")],
    name_here: Annotated[
        str | None, typer.Option("--name", help="What to call it here [its own name]")
    ] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Models and LoRAs")] = None,
) -> None:
    """Fetch a published model or a LoRA into the weights folder; run it again to go on.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count. What lies in the Hugging Face cache is taken
    from there.
    """
    disable_progress_bars()
    with _faults_said():
        settings = read_settings(weights_dir=weights_dir)
        found = _resolve(name, settings)
        if isinstance(found, RemoteLora):
            lora.pull_url(found.url, name_here, settings)
        elif constants.HF_HUB_OFFLINE:
            _pull_offline(found, name_here, settings)
        else:
            _pull_from_hub(found, name_here, settings)


def _resolve(name: str, settings: Settings) -> HubLora | RemoteLora:
    try:
        found = Catalog(settings.weights_dir).resolve_lora(SHORT_NAMES.get(name, name))
    except (LoraNotFound, InvalidParameter):
        raise PullRefused(f"{name!r} is nothing that can be fetched: give {FORMS}.") from None
    if isinstance(found, LoraEntry):
        raise PullRefused(f"{found.path} is there already; it is the LoRA {name!r}.")
    return found


def _pull_offline(wanted: HubLora, name_here: str | None, settings: Settings) -> None:
    """Take from the Hugging Face cache what HF_HUB_OFFLINE forbids to fetch."""
    if wanted.filename is None and model.take_cached(wanted, name_here, settings):
        return
    cached = hub.cached_file(wanted)
    if cached is None:
        what = wanted.repo if wanted.filename is None else f"{wanted.repo}/{wanted.filename}"
        raise PullRefused(
            f"{what} is not whole in the Hugging Face cache ({constants.HF_HUB_CACHE}), and "
            f"HF_HUB_OFFLINE forbids to fetch it. Set HF_HUB_OFFLINE=0, or copy the files into "
            f"{settings.weights_dir} from another machine."
        )
    lora.take_cached(cached, wanted, name_here, settings)


def _pull_from_hub(wanted: HubLora, name_here: str | None, settings: Settings) -> None:
    what = wanted.repo if wanted.filename is None else f"{wanted.repo}/{wanted.filename}"
    try:
        _pull_repository(wanted, name_here, settings)
    except (httpx2.HTTPError, OSError, ValueError) as exc:  # the library's errors
        message = hub_repository.sentence(what, wanted.repo, wanted.revision, exc)
        goes_on = isinstance(exc, httpx2.TransportError)
        raise PullRefused(f"{message} The same command goes on." if goes_on else message) from exc


def _pull_repository(wanted: HubLora, name_here: str | None, settings: Settings) -> None:
    repository = hub_repository.read_repository(wanted.repo, wanted.revision)
    if wanted.filename is None and repository.file(INDEX_FILE):
        model.pull_model(repository, name_here, settings)
        return
    filename = wanted.filename or _only_lora(repository)
    lora.pull_from_hub(repository, filename, name_here, settings)


def _only_lora(repository: HubRepository) -> str:
    names = sorted(file.name for file in repository.files if file.name.endswith(".safetensors"))
    if not names:
        kinds = sorted({Path(file.name).suffix for file in repository.files} - {""})
        raise PullRefused(
            f"{repository.name} is neither a model in the published layout (it has no "
            f"{INDEX_FILE}) nor a LoRA (it has no .safetensors file). It has files of the kinds "
            f"{', '.join(kinds) or 'none'}."
        )
    if len(names) > 1:
        listed = "\n".join(f"  qwen-edit pull '{repository.name}/{name}'" for name in names)
        raise PullRefused(
            f"{repository.name} has {len(names)} .safetensors files. Choose one:\n{listed}"
        )
    return names[0]


@contextlib.contextmanager
def _faults_said() -> Iterator[None]:
    """An error becomes a sentence and exit code 1. Ctrl-C ends at once: parts are good to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        # threads that download would otherwise be waited for
        os._exit(130)
    except (PullRefused, DamagedDownload, EngineError, ServerError, SettingsError) as exc:
        print_error(str(exc))
        raise typer.Exit(1) from exc
    except OSError as exc:  # a full disk, say, or a folder that cannot be written
        print_error(f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc))
        raise typer.Exit(1) from exc
