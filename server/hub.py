"""LoRAs from the Hugging Face hub, through its own library: endpoint, tokens, offline mode, cache.

Everything here blocks; call it in a thread. The library reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE
and HF_HUB_CACHE itself.
"""

from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils.tqdm import disable_progress_bars

from pipelines.catalog import HubLora
from pipelines.errors import LoraInvalid
from pipelines.lora_config import METADATA_KEY, PEFT_CONFIG, PEFT_WEIGHTS
from pipelines.safetensors_header import add_metadata
from server.errors import FetchFailed

WEIGHT_SUFFIX = ".safetensors"
REQUEST_TIMEOUT_S = 30.0


def cached_file(lora: HubLora) -> Path | None:
    """The file where it lies in the Hugging Face cache already; it is used there, never copied."""
    if lora.filename is not None:
        found = huggingface_hub.try_to_load_from_cache(
            lora.repo, lora.filename, revision=lora.revision
        )
        files = [Path(found)] if isinstance(found, str) else []
    else:
        files = _cached_weights(lora)
    if len(files) != 1 or not _is_whole(files[0]):
        return None
    return files[0]


def download(lora: HubLora, folder: Path, field: str) -> Path:
    """Bring the file into `folder`, going on where an earlier try ended.

    Raises FetchFailed with a sentence that says what to do.
    """
    disable_progress_bars()
    try:
        filename = lora.filename or _only_weight_file(lora, field)
        path = _download_file(lora, filename, folder)
        if path.name == PEFT_WEIGHTS:
            _add_peft_config(lora, filename, path, folder)
    except (FetchFailed, LoraInvalid):
        raise
    except Exception as exc:  # the library's errors have no common root
        raise FetchFailed(f"{field}: {_sentence(lora, exc)}", field=field) from exc
    return path


def _download_file(lora: HubLora, filename: str, folder: Path) -> Path:
    return Path(
        huggingface_hub.hf_hub_download(
            lora.repo,
            filename,
            revision=lora.revision,
            local_dir=folder,
            etag_timeout=REQUEST_TIMEOUT_S,
        )
    )


def _add_peft_config(lora: HubLora, filename: str, path: Path, folder: Path) -> None:
    """Put PEFT's configuration, which lies beside its weights, into them: alone they lack alpha."""
    beside = str(PurePosixPath(filename).with_name(PEFT_CONFIG))
    try:
        config = _download_file(lora, beside, folder).read_text()
    except errors.RemoteEntryNotFoundError:
        return
    add_metadata(path, METADATA_KEY, config)


def _is_whole(path: Path) -> bool:
    """Whether a cached file has its configuration beside it, where it needs one."""
    return path.name != PEFT_WEIGHTS or path.with_name(PEFT_CONFIG).is_file()


def _only_weight_file(lora: HubLora, field: str) -> str:
    """The one weight file of the repository. Raises FetchFailed, which lists them, if not one."""
    info = huggingface_hub.HfApi().model_info(
        lora.repo, revision=lora.revision, timeout=REQUEST_TIMEOUT_S
    )
    names = [file.rfilename for file in info.siblings or () if _is_weight(file.rfilename)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise FetchFailed(f"{field}: {lora.repo} has no {WEIGHT_SUFFIX} file.", field=field)
    listed = ", ".join(f"{lora.repo}/{name}" for name in sorted(names))
    raise FetchFailed(
        f"{field}: {lora.repo} has {len(names)} weight files; name one of them: {listed}.",
        field=field,
    )


def _cached_weights(lora: HubLora) -> list[Path]:
    repo = f"models--{lora.repo.replace('/', '--')}"
    snapshots = Path(constants.HF_HUB_CACHE) / repo / "snapshots"
    if not snapshots.is_dir():
        return []
    newest = max(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, default=snapshots)
    return [path for path in newest.rglob(f"*{WEIGHT_SUFFIX}") if path.is_file()]


def _sentence(lora: HubLora, exc: Exception) -> str:
    what = lora.repo if lora.filename is None else f"{lora.repo}/{lora.filename}"
    match exc:
        case errors.OfflineModeIsEnabled():
            return f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it."
        case errors.GatedRepoError():
            return f"{lora.repo} is gated: accept its terms on the hub, and set HF_TOKEN."
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return (
                f"{constants.ENDPOINT} has no repository {lora.repo}, or it is private: then set "
                f"HF_TOKEN. LoRAs on this machine are named by their file under weights/loras."
            )
        case errors.RevisionNotFoundError():
            return f"{lora.repo} has no revision {lora.revision}."
        case errors.RemoteEntryNotFoundError():
            return f"{lora.repo} has no file {lora.filename}."
        case _:
            reason = str(exc).strip().split("\n")[0] or type(exc).__name__
            return f"{what} cannot be fetched from {constants.ENDPOINT}: {reason}"


def _is_weight(name: str) -> bool:
    return name.endswith(WEIGHT_SUFFIX)
