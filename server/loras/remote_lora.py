"""LoRAs named by URL: their address, and web pages that come in place of a file."""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.api.errors import LoraInvalid
from pipelines.files.lora_names import LORA_SUFFIX, shown
from pipelines.files.lora_references import ModelScopeLora, RemoteLora
from server.errors import FetchFailed
from server.net.download import bearer
from server.net.fair_slots import host_of
from server.net.fetch import Fetcher

# A list of a thousand files has some hundred kilobytes.
MAX_LISTING_BYTES = 4 * 1024 * 1024
LISTING_TIMEOUT_S = 30.0
# A page may begin with blank lines.
_START_BYTES = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def locate(
    lora: ModelScopeLora, fetcher: Fetcher, field: str, tokens: Mapping[str, str]
) -> RemoteLora:
    """Return the repository's only weight file.

    Raises FetchFailed, which lists the files where there are several, and PayloadTooLarge.
    """
    url = lora.listing_url
    body = await fetcher.read(
        url,
        max_bytes=MAX_LISTING_BYTES,
        timeout_s=LISTING_TIMEOUT_S,
        field=field,
        headers=bearer(tokens, url),
    )
    try:
        paths = [str(file["Path"]) for file in json.loads(body)["Data"]["Files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        message = f"{field}: {host_of(url)} lists no files of {lora.repo}."
        raise FetchFailed(message, field=field) from exc
    found = sorted(path for path in paths if path.endswith(LORA_SUFFIX))
    if not found:
        raise FetchFailed(f"{field}: {lora.repo} has no {LORA_SUFFIX} file.", field=field)
    if len(found) > 1:
        raise FetchFailed(
            f"{field}: {lora.repo} has {len(found)} {LORA_SUFFIX} files; give the address of the "
            f"page of one of them: {', '.join(map(shown, found))}.",
            field=field,
        )
    return lora.file(found[0])


def refuse_page(path: Path, url: str, field: str) -> None:
    """Remove a download from `url` that is a web page, and raise LoraInvalid; else do nothing."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"<"):
        return
    path.unlink()
    host = host_of(url)
    raise LoraInvalid(
        f"{field}: {host} answered with a web page instead of a LoRA: give the address of the file "
        f"itself, the one behind the page's download button, and a token for {host} in "
        f"QWEN_EDIT_DOWNLOAD_TOKENS if the file needs a login."
    )
