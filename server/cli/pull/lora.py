"""A LoRA from the hub or a URL into `weights/loras/`, proved against the models first."""

import asyncio
import filecmp
import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from rich.markup import escape

from pipelines.api.errors import InvalidParameter, LoraInvalid, ModelUnusable
from pipelines.api.families import FAMILIES
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import LORA_SUFFIX, Catalog, HubLora
from pipelines.files.lora_format.config import METADATA_KEY, PEFT_CONFIG, PEFT_WEIGHTS
from pipelines.files.lora_format.file import Linears
from pipelines.files.lora_format.report import LoraReport, inspect_lora
from pipelines.files.safetensors_header import add_metadata
from server.cli.console import err, out, shown_size
from server.cli.pull.errors import PullRefused, check_space
from server.cli.pull.partial import PARTS, alone_in, leave
from server.cli.pull.progress import ByteProgress
from server.errors import FetchFailed, PayloadTooLarge
from server.loras import hub_lora as hub
from server.loras import hub_repository
from server.loras.hub_repository import HubRepository
from server.net.fetch import Fetcher
from server.settings import Settings

POLL_INTERVAL_S = 0.2
# Names that say nothing; the repository's name is taken instead.
_NAMELESS = frozenset(
    {PEFT_WEIGHTS, "pytorch_lora_weights.safetensors", "lora.safetensors", "model.safetensors"}
)


def pull_from_hub(
    repository: HubRepository, filename: str, name_here: str | None, settings: Settings
) -> None:
    """Fetch one file of a repository. Raises PullRefused, LoraInvalid."""
    file = repository.file(filename)
    if file is None:
        there = ", ".join(f.name for f in repository.files if f.name.endswith(LORA_SUFFIX))
        raise PullRefused(
            f"{repository.name} has no file {filename}. It has: {there or 'no .safetensors file'}."
        )
    if file.size_bytes > settings.max_lora_mb * 2**20:
        raise PullRefused(
            f"{repository.name}/{filename} has {shown_size(file.size_bytes)}: more than a LoRA "
            f"may have (QWEN_EDIT_MAX_LORA_MB={settings.max_lora_mb}). Models are fetched from "
            f"repositories in the published layout only, such as `qwen-edit pull 2509`."
        )
    target = _target(_name_of(repository.name, filename), name_here, settings)
    # with PEFT's configuration in it, a file is not the hub's any more
    if hub.peft_config(repository, file) is None and file.is_at(target):
        _say_there(target)
        return
    _refuse_taken(target)
    parts = settings.weights_dir / "loras" / PARTS
    title = f"{repository.name}/{filename}"
    with alone_in(parts):
        check_space(parts, hub_repository.bytes_to_come(repository, [file], parts), filename)
        with ByteProgress(title, file.size_bytes, err) as progress:
            part = hub.fetch_lora(repository, file, parts, progress.add)
    _keep(part, target, settings)


def pull_url(url: str, name_here: str | None, settings: Settings) -> None:
    """Fetch a file from any address. Raises PullRefused, LoraInvalid."""
    own = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name
    if not name_here and not own.endswith(LORA_SUFFIX):
        raise PullRefused(f"{url} does not end in the name of a file: say one, --name my-style.")
    target = _target(own, name_here, settings)
    _refuse_taken(target)
    _refuse_offline(url, settings)
    parts = settings.weights_dir / "loras" / PARTS
    part = parts / hashlib.sha256(url.encode()).hexdigest()
    with alone_in(parts), ByteProgress(own or url, None, err) as progress:
        try:
            asyncio.run(_download(url, part, settings, progress))
        except (FetchFailed, PayloadTooLarge) as exc:
            raise PullRefused(_sentence(exc, url, parts)) from exc
    part.with_name(part.name + ".etag").unlink(missing_ok=True)
    _keep(part, target, settings)


def take_cached(cached: Path, wanted: HubLora, name_here: str | None, settings: Settings) -> None:
    """Copy a file of the Hugging Face cache."""
    target = _target(_name_of(wanted.repo, cached.name), name_here, settings)
    is_there = target.is_file() and filecmp.cmp(cached, target, shallow=False)
    if is_there and cached.name != PEFT_WEIGHTS:
        _say_there(target)
        return
    _refuse_taken(target)
    parts = settings.weights_dir / "loras" / PARTS
    check_space(parts, cached.stat().st_size, cached.name)
    with alone_in(parts):
        part = parts / "cached"
        shutil.copyfile(cached, part)
        if cached.name == PEFT_WEIGHTS:
            # alone, the weights lack alpha
            add_metadata(part, METADATA_KEY, cached.with_name(PEFT_CONFIG).read_text())
    _keep(part, target, settings)


def _name_of(repository: str, filename: str) -> str:
    own = PurePosixPath(filename).name
    return repository.partition("/")[2] + LORA_SUFFIX if own in _NAMELESS else own


def _target(own: str, name_here: str | None, settings: Settings) -> Path:
    """Where the file will lie. Raises PullRefused for an impossible name."""
    name = name_here or own
    if not name.endswith(LORA_SUFFIX):
        name += LORA_SUFFIX
    try:
        return Catalog(settings.weights_dir).new_lora_path(name)
    except InvalidParameter:
        given = f"--name {name_here!r}" if name_here else f"{own!r} (say another with --name)"
        raise PullRefused(
            f"{given}: a LoRA's name may have folders in front, all under "
            f"{settings.weights_dir / 'loras'}; so it has no '..', no '/' at either end, and no "
            f"'.' at the start."
        ) from None


def _refuse_taken(target: Path) -> None:
    if target.exists():
        raise PullRefused(
            f"{target} is there already. Remove it to fetch it anew, or give this one another name "
            f"with --name."
        )


def _say_there(target: Path) -> None:
    size = shown_size(target.stat().st_size)
    out.print(escape(f"{target} was there already, whole, {size}"), soft_wrap=True, highlight=False)


def _refuse_offline(url: str, settings: Settings) -> None:
    for name, is_set in (
        ("HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE),
        ("QWEN_EDIT_OFFLINE", settings.offline),
    ):
        if is_set:
            raise PullRefused(
                f"{name} forbids to fetch {url}. Set {name}=0, or copy the file into "
                f"{settings.weights_dir / 'loras'} from another machine."
            )


def _sentence(exc: FetchFailed | PayloadTooLarge, url: str, parts: Path) -> str:
    """What went wrong, as a command says it: there is no field here, no server and no request."""
    cause = exc.__cause__
    # a time limit is an OSError as well, one without a number
    if isinstance(cause, OSError) and cause.errno is not None:
        return (
            f"{url} cannot be written: {cause.strerror}: {parts}. What came is kept: make room "
            f"and run it again, and it goes on from there."
        )
    return str(exc).removeprefix(f"{exc.field}: ")


async def _download(url: str, part: Path, settings: Settings, progress: ByteProgress) -> None:
    fetcher = Fetcher(settings.allow_networks)
    host = urllib.parse.urlsplit(url).hostname or ""
    download = asyncio.create_task(
        fetcher.download(
            url,
            part,
            max_bytes=settings.max_lora_mb * 2**20,
            timeout_s=settings.lora_timeout_s,
            field="NAME",
            token=settings.download_tokens.get(host.lower()),
        )
    )
    seen = 0
    try:
        while not download.done():
            await asyncio.wait([download], timeout=POLL_INTERVAL_S)
            size = part.stat().st_size if part.exists() else 0
            progress.add(size - seen)
            seen = size
        await download
    finally:
        await fetcher.close()


def _keep(part: Path, target: Path, settings: Settings) -> None:
    """Move the file to its place if a model can take it, else remove it and raise LoraInvalid."""
    reports: list[tuple[str, LoraReport]] = []
    try:
        for model, linears in _models(settings):
            reports.append((model, inspect_lora(part, linears, target.name)))
    except LoraInvalid:
        part.unlink()
        raise
    fitting = [model for model, report in reports if report.fits]
    model, report = reports[0]
    if not fitting:
        part.unlink()
        raise LoraInvalid(f"{report.problem} It was not kept. (Checked against {model}.)")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, target)
    leave(settings.weights_dir / "loras" / PARTS)
    out.print(escape(f"{target}  {shown_size(report.size_bytes)}"), soft_wrap=True)
    ranks = ", ".join(map(str, report.ranks))
    message = f"{report.kind}, {report.modules} layers, rank {ranks}, fits {', '.join(fitting)}"
    out.print(escape(message), soft_wrap=True, highlight=False)
    if report.trigger_words:
        out.print(escape(f"trigger words: {', '.join(report.trigger_words)}"), soft_wrap=True)
    name = target.relative_to(settings.weights_dir / "loras").with_suffix("")
    out.print(escape(f"qwen-edit edit IMAGE -p PROMPT --lora {name}"), soft_wrap=True)


def _models(settings: Settings) -> Iterator[tuple[str, Linears]]:
    """The models here and the published one: a LoRA for any of them is worth keeping."""
    for path in Catalog(settings.weights_dir).models():
        try:
            yield path.name, read_linears(path)
        except ModelUnusable:
            continue
    for family in FAMILIES.values():
        yield family.title, family.linears({})
