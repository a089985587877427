"""References to LoRAs that are elsewhere: URLs, hub ids, pages of Civitai and ModelScope, AIR ids.

HF_ENDPOINT, CIVITAI_ENDPOINT and MODELSCOPE_ENDPOINT replace the sites by mirrors of them.
"""

import os
import re
import urllib.parse
from dataclasses import dataclass

from pipelines.api.errors import InvalidParameter
from pipelines.files.lora_names import check_printable, shown

FIELD = "loras.path"
# ModelScope's name of the default branch.
MODELSCOPE_BRANCH = "master"
_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_CIVITAI_HOSTS = ("civitai.com", "www.civitai.com", "civitai.green", "civitai.red")
# A redirect from the short name to the long one would lose the token.
_MODELSCOPE_SITES = {
    "modelscope.cn": "https://www.modelscope.cn",
    "www.modelscope.cn": "https://www.modelscope.cn",
    "modelscope.ai": "https://www.modelscope.ai",
    "www.modelscope.ai": "https://www.modelscope.ai",
}
_ID = r"\w(?:[\w.-]*\w)?/\w(?:[\w.-]{0,94}\w)?"
_FILE = r"(?:[\w. -]+/)*[\w. -]+\.safetensors"
_REVISION = r"refs/(?:pr|convert)/\w[\w.-]*|\w[\w.-]*"
_HUB_REFERENCE = re.compile(rf"(?:hf://)?({_ID})(?:@({_REVISION}))?(?:/({_FILE}))?")
_URN = r"(?:(?:urn:)?air:(?:[\w.-]+:){0,2})"
# https://github.com/civitai/civitai/wiki/AIR-‐-Uniform-Resource-Names-for-AI
_CIVITAI_AIR = re.compile(rf"{_URN}?civitai:([0-9]+)(?:@([0-9]+)(?:[:.].*)?)?", re.IGNORECASE)
_HUB_AIR = re.compile(rf"{_URN}huggingface:(.+)", re.IGNORECASE)
_CIVITAI_MODEL = re.compile(r"models/[0-9]+(?:/[^/]*)?")
_CIVITAI_VERSION = re.compile(r"(?:api/v1/)?model-versions/([0-9]+)")
_MODELSCOPE_PAGE = re.compile(rf"models/({_ID})(?:/(.*))?")
_MODELSCOPE_FILE = re.compile(r"(?:file/view|resolve)/([^/]+)(?:/(.+))?")
_MODELSCOPE_TABS = re.compile(r"(?:summary|files|feedback|discussions)?|tree/([^/]+)")


@dataclass(frozen=True, slots=True)
class RemoteLora:
    """A LoRA to fetch from `url`."""

    url: str


@dataclass(frozen=True, slots=True)
class HubLora:
    """A LoRA in a repository on the Hugging Face hub; without `filename` its only weight file."""

    repo: str
    filename: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelScopeLora:
    """The only weight file of a repository on the ModelScope site at the URL `site`."""

    site: str
    repo: str
    revision: str = MODELSCOPE_BRANCH

    @property
    def listing_url(self) -> str:
        """The URL of the repository's list of files."""
        query = urllib.parse.urlencode({"Revision": self.revision, "Recursive": "true"})
        return f"{self.site}/api/v1/models/{self.repo}/repo/files?{query}"

    def file(self, name: str) -> RemoteLora:
        """Return one of the repository's files."""
        path = f"{urllib.parse.quote(self.revision, safe='')}/{urllib.parse.quote(name)}"
        return RemoteLora(f"{self.site}/models/{self.repo}/resolve/{path}")


FarLora = RemoteLora | HubLora | ModelScopeLora


def is_hub_id(text: str) -> bool:
    """Return whether the hub allows this `owner/repo`, so that its library accepts it."""
    return bool(re.fullmatch(_ID, text)) and not re.search(r"--|\.\.|\.git$", text)


def is_url(reference: str) -> bool:
    """Return whether a reference is the URL of a file or of a page."""
    return bool(re.match(r"https?://", reference, re.IGNORECASE))


def parse_url(url: str) -> FarLora:
    """Return the LoRA that a URL is about. Raises InvalidParameter where there can be none."""
    check_printable(url, FIELD)
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        if not host:
            raise ValueError("it names no host")
    except ValueError as exc:
        raise InvalidParameter(FIELD, f"must be a valid URL, got {shown(url)}: {exc}") from exc
    return _hub_page(parts) or _civitai_page(parts) or _modelscope_page(parts) or RemoteLora(url)


def parse_name(reference: str) -> FarLora | None:
    """Return the LoRA that an AIR id or `[hf://]owner/repo[@revision][/file]` names, or None.

    Raises InvalidParameter for an AIR id of a model without a version.
    """
    if match := _CIVITAI_AIR.fullmatch(reference):
        if match[2] is None:
            raise InvalidParameter(FIELD, f"{_VERSION_NEEDED}, got {shown(reference)}")
        return _civitai_version(match[2], "civitai.com")
    air = _HUB_AIR.fullmatch(reference)
    match = _HUB_REFERENCE.fullmatch(air[1] if air else reference)
    return HubLora(match[1], match[3], match[2]) if match and is_hub_id(match[1]) else None


_VERSION_NEEDED = (
    "must name a version of a Civitai model: choose one on its page and give the page's address "
    "with ?modelVersionId=, or civitai:MODEL@VERSION"
)


def _path(parts: urllib.parse.SplitResult) -> str:
    """Return the decoded path. Raises InvalidParameter for one that leaves its repository."""
    path = urllib.parse.unquote(parts.path).strip("/")
    check_printable(path, FIELD)
    _check_segments(path)
    return path


def _check_segments(path: str) -> None:
    if {".", ".."} & set(path.split("/")):
        raise InvalidParameter(FIELD, f"must have no . or .. in it, got {shown(path)}")


def _mirror(name: str) -> urllib.parse.SplitResult:
    """Return the URL in an environment variable, which is empty when the variable is not set."""
    return urllib.parse.urlsplit(os.environ.get(name, "").rstrip("/"))


def _hub_page(parts: urllib.parse.SplitResult) -> HubLora | None:
    """The file or repository that a page or a download link of the hub is about."""
    if parts.netloc.lower() not in {*_HUB_HOSTS, _mirror("HF_ENDPOINT").netloc.lower()} - {""}:
        return None
    path = _path(parts)
    match = re.fullmatch(rf"({_ID})/(?:blob|resolve)/([^/]+)/(.+)", path)
    if match and is_hub_id(match[1]):
        return HubLora(match[1], match[3], match[2])
    match = re.fullmatch(rf"(?!datasets/|spaces/)({_ID})(?:/tree/([^/]+))?", path)
    return HubLora(match[1], None, match[2]) if match and is_hub_id(match[1]) else None


def _civitai_page(parts: urllib.parse.SplitResult) -> RemoteLora | None:
    """The file of the model's version that a page of Civitai shows."""
    host = parts.netloc.lower()
    if host not in {*_CIVITAI_HOSTS, _mirror("CIVITAI_ENDPOINT").netloc.lower()} - {""}:
        return None
    path = _path(parts)
    if match := _CIVITAI_VERSION.fullmatch(path):
        return _civitai_version(match[1], host)
    if not _CIVITAI_MODEL.fullmatch(path):
        return None
    version = urllib.parse.parse_qs(parts.query).get("modelVersionId", [""])[-1]
    if not (version.isascii() and version.isdigit()):
        raise InvalidParameter(FIELD, f"{_VERSION_NEEDED}, got {shown(parts.geturl())}")
    return _civitai_version(version, host)


def _civitai_version(version: str, host: str) -> RemoteLora:
    site = _mirror("CIVITAI_ENDPOINT").geturl() or f"https://{host}"
    return RemoteLora(f"{site}/api/download/models/{version}")


def _modelscope_page(parts: urllib.parse.SplitResult) -> RemoteLora | ModelScopeLora | None:
    """The file or repository that a page or a download link of ModelScope is about."""
    mirror, host = _mirror("MODELSCOPE_ENDPOINT"), parts.netloc.lower()
    if host not in {*_MODELSCOPE_SITES, mirror.netloc.lower()} - {""}:
        return None
    page = _MODELSCOPE_PAGE.fullmatch(_path(parts))
    if page is None:
        return None
    site, repo, rest = mirror.geturl() or _MODELSCOPE_SITES[host], page[1], page[2] or ""
    if tab := _MODELSCOPE_TABS.fullmatch(rest):
        return ModelScopeLora(site, repo, tab[1] or MODELSCOPE_BRANCH)
    file = _MODELSCOPE_FILE.fullmatch(rest)
    # older pages name the file in the query, encoded twice
    query = urllib.parse.parse_qs(parts.query).get("fileName", [""])[-1]
    name = file and (file[2] or urllib.parse.unquote(query))
    if not file or not name:
        return None
    check_printable(name, FIELD)
    _check_segments(name)
    return ModelScopeLora(site, repo, file[1]).file(name)
