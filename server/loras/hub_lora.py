"""LoRAs from the Hugging Face hub, through its own library: endpoint, tokens, offline mode, cache.

Everything here blocks; call it in a thread. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE
count.
"""

from pathlib import Path, PurePosixPath

from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from pipelines.api.errors import EngineError, LoraInvalid
from pipelines.files.catalog import HubLora
from pipelines.files.hub_cache import cached_snapshot
from pipelines.files.lora_format.config import METADATA_KEY, PEFT_CONFIG, PEFT_WEIGHTS
from pipelines.files.safetensors_header import add_metadata
from server.errors import FetchFailed, PayloadTooLarge, ServerError
from server.loras import hub_repository
from server.loras.hub_repository import HubFile, HubRepository, OnBytes

WEIGHT_SUFFIX = ".safetensors"
# A PEFT configuration has a few kilobytes; a longer file would be read into memory as a whole.
MAX_CONFIG_BYTES = 1024 * 1024


def cached_file(lora: HubLora) -> Path | None:
    """The file where it lies in the Hugging Face cache already; it is used there, never copied."""
    if lora.filename is not None:
        found = hub_repository.cached(lora.repo, lora.filename, lora.revision)
        files = [found] if found else []
    else:
        snapshot = cached_snapshot(lora.repo, lora.revision)
        files = list(snapshot.rglob(f"*{WEIGHT_SUFFIX}")) if snapshot else []
    if len(files) != 1 or not _is_whole(files[0]):
        return None
    return files[0]


def download(
    lora: HubLora, folder: Path, field: str, *, max_bytes: int, on_bytes: OnBytes | None = None
) -> Path:
    """Bring the file into `folder`, going on where an earlier try ended.

    What `on_bytes` raises ends it, as of `hub_repository.download`. Raises PayloadTooLarge before
    the first byte, LoraInvalid, and FetchFailed with a sentence that says what to do.
    """
    try:
        repository = hub_repository.read_repository(lora.repo, lora.revision)
        filename = lora.filename or only_weight_file(repository, field)
        file = repository.file(filename)
        if file is None:
            raise FetchFailed(f"{field}: {lora.repo} has no file {filename}.", field=field)
        if file.size_bytes > max_bytes:
            raise PayloadTooLarge(
                f"{field}: {lora.repo}/{filename} has more than the allowed "
                f"{max_bytes / 2**20:.0f} MiB.",
                field=field,
            )
        return fetch_lora(repository, file, folder, on_bytes)
    except (EngineError, ServerError):
        raise
    except Exception as exc:  # the library's errors have no common root
        message = hub_repository.sentence(shown(lora), lora.repo, lora.revision, exc)
        if isinstance(exc, RepositoryNotFoundError | HFValidationError):
            message += " LoRAs on this machine are named by their file under weights/loras."
        raise FetchFailed(f"{field}: {message}", field=field) from exc


def fetch_lora(
    repository: HubRepository, file: HubFile, folder: Path, on_bytes: OnBytes | None = None
) -> Path:
    """A LoRA file in `folder`, with PEFT's configuration in it where one lies beside it.

    Raises LoraInvalid for what is no safetensors file, and what `hub_repository.download` raises.
    """
    config = peft_config(repository, file)
    if config is not None and config.size_bytes > MAX_CONFIG_BYTES:
        raise LoraInvalid(
            f"{repository.name}/{config.name} has {config.size_bytes} bytes; a PEFT configuration "
            f"has at most {MAX_CONFIG_BYTES}."
        )
    path = hub_repository.bring(repository, file, folder, on_bytes)
    if config is not None:
        # alone, the weights lack alpha; a new file is written, so a linked one in the cache stays
        text = hub_repository.bring(repository, config, folder)
        add_metadata(path, METADATA_KEY, text.read_text())
        text.unlink()
    return path


def peft_config(repository: HubRepository, file: HubFile) -> HubFile | None:
    """PEFT's configuration beside the file, where the file is PEFT's weights."""
    path = PurePosixPath(file.name)
    if path.name != PEFT_WEIGHTS:
        return None
    return repository.file(str(path.with_name(PEFT_CONFIG)))


def shown(lora: HubLora) -> str:
    """What messages call it: the repository, or the file in it."""
    return lora.repo if lora.filename is None else f"{lora.repo}/{lora.filename}"


def only_weight_file(repository: HubRepository, field: str) -> str:
    """The one weight file of the repository. Raises FetchFailed, which lists them, if not one."""
    names = [file.name for file in repository.files if file.name.endswith(WEIGHT_SUFFIX)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise FetchFailed(f"{field}: {repository.name} has no {WEIGHT_SUFFIX} file.", field=field)
    listed = ", ".join(f"{repository.name}/{name}" for name in sorted(names))
    raise FetchFailed(
        f"{field}: {repository.name} has {len(names)} weight files; name one of them: {listed}.",
        field=field,
    )


def _is_whole(path: Path) -> bool:
    """Whether a cached file has its configuration beside it, where it needs one."""
    return path.name != PEFT_WEIGHTS or path.with_name(PEFT_CONFIG).is_file()
