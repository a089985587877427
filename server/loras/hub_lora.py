"""LoRAs on the Hugging Face hub and in its cache."""

import asyncio
from pathlib import Path, PurePosixPath

from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from pipelines.api.errors import LoraInvalid
from pipelines.files.catalog import LORA_SUFFIX, HubLora
from pipelines.files.hub_cache import cached_snapshot
from pipelines.files.lora_format.config import METADATA_KEY, PEFT_CONFIG, PEFT_WEIGHTS
from pipelines.files.safetensors_header import add_metadata
from server.durable_files import REFUSALS
from server.errors import FetchFailed, PayloadTooLarge, StorageFull
from server.loras import hub_repository
from server.loras.hub_repository import HubError, HubFile, HubRepository
from server.net.download import OnSize, ignore_size

# A PEFT configuration has a few kilobytes; it is read into memory.
MAX_CONFIG_BYTES = 1024 * 1024


class LoraTooLarge(HubError):
    """The file is larger than a LoRA may be."""


def cached_file(lora: HubLora) -> Path | None:
    """Return the file in the Hugging Face cache, to be used there; None without its PEFT config."""
    if lora.filename is not None:
        found = hub_repository.cached(lora.repo, lora.filename, lora.revision)
        files = [found] if found else []
    else:
        snapshot = cached_snapshot(lora.repo, lora.revision)
        files = list(snapshot.rglob(f"*{LORA_SUFFIX}")) if snapshot else []
    if len(files) != 1:
        return None
    [path] = files
    needs_config = path.name == PEFT_WEIGHTS and not path.with_name(PEFT_CONFIG).is_file()
    return None if needs_config else path


async def download(
    lora: HubLora, folder: Path, field: str, *, max_bytes: int, timeout_s: float
) -> Path:
    """Fetch the LoRA into `folder`, resuming an earlier attempt.

    Raises PayloadTooLarge before the first byte, LoraInvalid, and FetchFailed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            repository = await hub_repository.read_repository(lora.repo, lora.revision)
            file = find_lora_file(repository, lora.filename, max_bytes)
            return await fetch_lora(repository, file, folder)
    except TimeoutError as exc:
        message = f"{field}: {shown(lora)} took longer than {timeout_s:g} seconds."
        raise FetchFailed(message, field=field) from exc
    except LoraTooLarge as exc:
        raise PayloadTooLarge(f"{field}: {exc}", field=field) from exc
    except HubError as exc:
        message = f"{field}: {exc}"
        if isinstance(exc.__cause__, RepositoryNotFoundError | HFValidationError):
            message += " A LoRA on this machine is named by its file under weights/loras."
        if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in REFUSALS:
            raise StorageFull(message) from exc
        raise FetchFailed(message, field=field) from exc


def find_lora_file(repository: HubRepository, filename: str | None, max_bytes: int) -> HubFile:
    """Return the file of this name, or the only LoRA of the repository.

    Raises HubError, which lists what there is, and LoraTooLarge.
    """
    found = [file for file in repository.files if file.name.endswith(LORA_SUFFIX)]
    listed = ", ".join(sorted(f"{repository.name}/{file.name}" for file in found))
    if filename is not None:
        found = [file for file in repository.files if file.name == filename]
        if not found:
            raise HubError(
                f"{repository.name} has no file {filename}. It has: "
                f"{listed or f'no {LORA_SUFFIX} file'}."
            )
    if not found:
        suffixes = sorted({Path(file.name).suffix for file in repository.files} - {""})
        raise HubError(
            f"{repository.name} has no {LORA_SUFFIX} file, only files of the kinds "
            f"{', '.join(suffixes) or 'none'}."
        )
    if len(found) > 1:
        raise HubError(
            f"{repository.name} has {len(found)} {LORA_SUFFIX} files; name one of them: {listed}."
        )
    [file] = found
    if file.size_bytes > max_bytes:
        raise LoraTooLarge(
            f"{repository.name}/{file.name} has {file.size_bytes / 2**20:.0f} MiB, more than the "
            f"allowed {max_bytes / 2**20:.0f} MiB (QWEN_EDIT_MAX_LORA_MB)."
        )
    return file


async def fetch_lora(
    repository: HubRepository, file: HubFile, folder: Path, on_size: OnSize = ignore_size
) -> Path:
    """Fetch a LoRA into `folder`, and put its PEFT configuration into it where it has one.

    Raises LoraInvalid for an oversized configuration or no safetensors file, and HubError.
    """
    config = peft_config(repository, file)
    if config is not None and config.size_bytes > MAX_CONFIG_BYTES:
        raise LoraInvalid(
            f"{repository.name}/{config.name} has {config.size_bytes} bytes; a PEFT configuration "
            f"has at most {MAX_CONFIG_BYTES}."
        )
    path = await hub_repository.fetch_file(repository, file, folder, on_size)
    if config is not None:
        # alone, the weights lack alpha; a new file is written, so a linked one in the cache stays
        text = await hub_repository.fetch_file(repository, config, folder)
        try:
            await asyncio.to_thread(add_metadata, path, METADATA_KEY, text.read_text())
        except UnicodeDecodeError as exc:
            raise LoraInvalid(f"{repository.name}/{config.name} is not UTF-8 text.") from exc
        finally:
            text.unlink()
    return path


def peft_config(repository: HubRepository, file: HubFile) -> HubFile | None:
    """Return PEFT's configuration beside the file, where the file is PEFT's weights."""
    path = PurePosixPath(file.name)
    if path.name != PEFT_WEIGHTS:
        return None
    return repository.file(str(path.with_name(PEFT_CONFIG)))


def shown(lora: HubLora) -> str:
    """Return the repository, or the file in it, as messages name it."""
    return lora.repo if lora.filename is None else f"{lora.repo}/{lora.filename}"
