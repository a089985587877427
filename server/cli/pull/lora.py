"""A LoRA from the hub, its cache or a URL, stored under `weights/loras/` once it fits a model."""

import contextlib
import functools
import hashlib
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from rich.markup import escape

from pipelines.api.errors import InvalidParameter, LoraInvalid, ModelNotFound, ModelUnusable
from pipelines.api.families import FAMILIES, Linears
from pipelines.api.model_spec import DEMO_NAME
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import LORA_SUFFIX, Catalog, ModelScopeLora, RemoteLora
from pipelines.files.lora_format.card import read_card
from pipelines.files.lora_format.config import PEFT_WEIGHTS
from pipelines.files.lora_format.report import LoraReport, inspect_lora
from pipelines.files.lora_sidecars import write_trigger
from server import durable_files
from server.cli.console import out, shown_size
from server.cli.pull.errors import PullError
from server.cli.pull.partial import PARTIAL, check_space, exclusive
from server.cli.pull.progress import byte_progress
from server.loras import hub_lora as hub
from server.loras import remote_lora
from server.loras.hub_repository import HubRepository, missing_bytes
from server.net.download import Download, bearer
from server.net.fetch import Fetcher
from server.settings import Settings

# The argument as messages of the server's parts name it.
FIELD = "NAME"
# File names that say nothing; the repository's name is taken instead.
_NAMELESS = frozenset(
    {PEFT_WEIGHTS, "pytorch_lora_weights.safetensors", "lora.safetensors", "model.safetensors"}
)


async def pull_from_hub(
    repository: HubRepository, filename: str | None, name_here: str | None, settings: Settings
) -> None:
    """Fetch one file of a repository. Raises PullError, HubError, LoraInvalid."""
    file = hub.find_lora_file(repository, filename, settings.max_lora_mb * 2**20)
    target = _target(_own_name(repository.name, file.name), name_here, settings)
    # a file with PEFT's configuration in it differs from the hub's
    if hub.peft_config(repository, file) is None and file.is_at(target):
        _say_present(target)
        return
    _check_free(target)
    folder = _partial_folder(settings)
    title = f"{repository.name}/{file.name}"
    with exclusive(folder):
        check_space(folder, missing_bytes(repository, [file], folder), file.name)
        with byte_progress(title, file.size_bytes) as update:
            on_size = functools.partial(update, file.name)
            partial = await hub.fetch_lora(repository, file, folder, on_size)
        _store(partial, target, settings, repository.instance_prompt)


async def locate(lora: ModelScopeLora, settings: Settings) -> RemoteLora:
    """Return the only LoRA of a repository on ModelScope. Raises PullError, ServerError."""
    _check_online(lora.listing_url, settings)
    fetcher = Fetcher(settings.allow_networks)
    try:
        return await remote_lora.locate(lora, fetcher, FIELD, settings.download_tokens)
    finally:
        await fetcher.close()


async def pull_url(url: str, name_here: str | None, settings: Settings) -> None:
    """Fetch a file from any address. Raises PullError, ServerError, LoraInvalid."""
    own = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name_here and not own.endswith(LORA_SUFFIX):
        raise PullError(f"{url} does not end in the name of a file: give one, --name my-style.")
    target = _target(own, name_here, settings)
    _check_free(target)
    _check_online(url, settings)
    partial = _partial_folder(settings) / hashlib.sha256(url.encode()).hexdigest()
    with exclusive(partial.parent):
        with byte_progress(own or url, None) as update:
            wanted = Download(
                url,
                partial,
                max_bytes=settings.max_lora_mb * 2**20,
                headers=bearer(settings.download_tokens, url),
                on_size=functools.partial(update, url),
            )
            fetcher = Fetcher(settings.allow_networks)
            try:
                await fetcher.download(wanted, timeout_s=settings.lora_timeout_s, field=FIELD)
            finally:
                await fetcher.close()
        remote_lora.refuse_page(partial, url, FIELD)
        _store(partial, target, settings)


def _partial_folder(settings: Settings) -> Path:
    return settings.weights_dir / "loras" / PARTIAL


def _own_name(repository: str, filename: str) -> str:
    own = PurePosixPath(filename).name
    return repository.partition("/")[2] + LORA_SUFFIX if own in _NAMELESS else own


def _target(own: str, name_here: str | None, settings: Settings) -> Path:
    name = (name_here or own).removesuffix(LORA_SUFFIX) + LORA_SUFFIX
    try:
        return Catalog(settings.weights_dir).new_lora_path(name)
    except InvalidParameter as exc:
        given = f"--name {name_here!r}" if name_here else f"{own!r} (give another with --name)"
        raise PullError(
            f"{given}: a LoRA's name may have folders in front, all under "
            f"{settings.weights_dir / 'loras'}; it has no '..', no '/' at either end, and no '.' "
            f"at the start ({exc})."
        ) from None


def _check_free(target: Path) -> None:
    if target.exists():
        raise PullError(
            f"{target} exists already. Remove it to fetch it again, or give this one another name "
            f"with --name."
        )


def _check_online(url: str, settings: Settings) -> None:
    if constants.HF_HUB_OFFLINE or settings.offline:
        raise PullError(
            f"HF_HUB_OFFLINE or QWEN_EDIT_OFFLINE forbids downloads, and so {url}. Unset it, or "
            f"copy the file into {settings.weights_dir / 'loras'} from another machine."
        )


def _store(partial: Path, target: Path, settings: Settings, prompt: str | None = None) -> None:
    """Move the file to `target` if it fits a model, else remove it and raise LoraInvalid.

    `prompt` is what triggers it, where the file itself does not say.
    """
    try:
        report, fitting = _inspect(partial, target.name, settings)
    except LoraInvalid:
        partial.unlink()
        raise
    target.parent.mkdir(parents=True, exist_ok=True)
    durable_files.publish(partial, target)
    name = target.relative_to(settings.weights_dir / "loras").with_suffix("")
    ranks = ", ".join(map(str, report.ranks))
    _say(f"{target}  {shown_size(report.size_bytes)}")
    _say(f"{report.kind}, {report.shown_layers} layers, rank {ranks}, fits {', '.join(fitting)}")
    if prompt and not report.trigger_words:
        write_trigger(target, prompt)
    words = report.trigger_words or read_card(target, {}).trigger_words
    if words:
        _say(f"trigger words: {', '.join(words)}")
    _say(f"qwen-edit edit IMAGE -p PROMPT --lora {name}")


def _inspect(partial: Path, name: str, settings: Settings) -> tuple[LoraReport, list[str]]:
    """Return the LoRA's report and the models that it fits. Raises LoraInvalid for none."""
    reports = {model: inspect_lora(partial, linears, name) for model, linears in _models(settings)}
    fitting = [model for model, report in reports.items() if report.fits]
    if not fitting:
        problem = next(iter(reports.values())).problem
        checked = ", ".join(reports)
        raise LoraInvalid(f"{problem} It was not kept. (Checked against {checked}.)")
    return reports[fitting[0]], fitting


def _models(settings: Settings) -> Iterator[tuple[str, Linears]]:
    """Yield the published models, those under `weights/`, and the demo model."""
    for family in FAMILIES.values():
        yield family.title, family.all_linears({}, {})
    catalog = Catalog(settings.weights_dir)
    paths = {path.name: path for path in catalog.models()}
    with contextlib.suppress(ModelNotFound):
        paths["the demo model"] = catalog.resolve_model(DEMO_NAME).path
    for name, path in paths.items():
        with contextlib.suppress(ModelUnusable):
            yield name, read_linears(path)


def _say_present(target: Path) -> None:
    _say(f"{target} exists already and is complete, {shown_size(target.stat().st_size)}")


def _say(line: str) -> None:
    out.print(escape(line), soft_wrap=True, highlight=False)
