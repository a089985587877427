"""Every setting of the server, read once from the environment and the command line."""

import ipaddress
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, IPvAnyNetwork, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.api.load_options import Dtype, ForwardName, Offload
from pipelines.files.installation import default_folder
from server.caller import ApiKey, Caller, parse_key
from server.log import LogFormat

PREFIX = "QWEN_EDIT_"
# Variables of the command line's clients, which may share the server's environment.
CLIENT_VARIABLES = frozenset({"QWEN_EDIT_SERVER", "QWEN_EDIT_KEY"})


# Settings whose values never appear in a message.
SECRET_FIELDS = frozenset({"api_keys", "download_tokens", "webhook_secret"})


class SafetyMode(StrEnum):
    """The treatment of an output that the safety checker calls unsafe."""

    FLAG = "flag"
    BLOCK = "block"


class SettingsError(Exception):
    """A setting is unknown or malformed; the message names it."""


class Settings(BaseSettings):
    """Each field is read from the variable QWEN_EDIT_<NAME>; lists are comma-separated."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one")
    model: str | None = Field(
        None,
        description="Model: a directory, a name under weights/models, a hub id in the local cache, "
        "or `demo`; by default the first published model found, else `demo`",
    )
    weights_dir: Path = Field(
        default_factory=lambda: default_folder("weights"),
        description="Folder of models and LoRAs; by default ./weights in a checkout, else in the "
        "user's data directory",
    )
    data_dir: Path = Field(
        default_factory=lambda: default_folder("data"),
        description="Folder for jobs, inputs and outputs; by default ./data in a checkout, else in "
        "the user's data directory",
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda, cuda:N, or several cuda:N, one worker each"
    )
    dtype: Dtype = Field(
        Dtype.AUTO, description="Number format; auto is bfloat16 on CUDA, float32 on a CPU"
    )
    offload: Offload = Field(
        Offload.NONE, description="Keep weights in host memory, by model or by group of layers"
    )
    forward: ForwardName = Field(
        ForwardName.AUTO, description="Code that runs the transformer: auto, fast or stock"
    )
    prune_last_block: bool = Field(
        False, description="Compute only what is used of the last block; rounds differently"
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="API keys; clients must send one of them: name=key, admin:name=key, or a key "
        "alone, which is an admin's",
    )
    api_keys_file: Path | None = Field(None, description="File with one API key per line")
    no_auth: bool = Field(
        False, description="Serve without keys on an address that others can reach"
    )
    page: bool = Field(True, description="Serve the page at /")
    public_url: str | None = Field(
        None, description="Base of the URLs in responses, behind a proxy (https://host/path)"
    )
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (), description="Proxies (CIDR) whose X-Forwarded headers are believed"
    )
    max_connections: int = Field(
        1000, ge=16, description="Connections that clients may hold, as far as open files allow"
    )
    max_connections_per_address: int = Field(
        100,
        ge=1,
        description="Connections of one address, or of one /64 of IPv6; loopback and trusted "
        "proxies may use all",
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM), to serve HTTPS")
    tls_key: Path | None = Field(None, description="Its private key (PEM)")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web pages that may call the server from a browser (origins, or *)"
    )
    allow_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (), description="Private networks (CIDR) that URLs in requests may point to"
    )
    offline: bool = Field(False, description="Refuse requests with URLs to fetch")
    max_waiting_jobs: int = Field(
        100, ge=1, description="Jobs that may wait; more are refused with 429"
    )
    max_waiting_jobs_per_key: int = Field(
        0, ge=0, description="Jobs of one key's owner that may wait; 0 allows any number"
    )
    max_submits_per_minute_per_key: int = Field(
        0, ge=0, description="Jobs that one key's owner may submit in a minute; 0 allows any number"
    )
    max_upload_gb_per_key: float = Field(
        20, gt=0, description="Disk for the uploads of one key's owner, in GiB"
    )
    drain_s: float = Field(
        30, ge=0, description="Time that running jobs have to end after SIGTERM, in seconds"
    )
    job_timeout_s: float = Field(1800, gt=0, description="Longest run of one job, in seconds")
    step_timeout_s: float | None = Field(
        None,
        gt=0,
        description="Longest silence of a worker during a job, in seconds; by default 20 times the "
        "slowest step seen of jobs of its kind, at least 60",
    )
    sync_timeout_s: float = Field(
        90, gt=0, description="Longest wait of a synchronous request, in seconds"
    )
    fetch_timeout_s: float = Field(
        60, gt=0, description="Longest download of one image, in seconds"
    )
    lora_timeout_s: float = Field(
        1800, gt=0, description="Longest download of one LoRA, in seconds"
    )
    max_lora_mb: int = Field(4096, ge=1, description="Largest LoRA, in MiB")
    lora_store_gb: float = Field(50, gt=0, description="Largest cache of downloaded LoRAs, in GiB")
    strict_loras: bool = Field(
        False, description="Refuse LoRAs that would only give a warning, such as of another model"
    )
    download_tokens: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Tokens for LoRA downloads: host=token, comma-separated (civitai.com=…)",
    )
    keep_outputs_h: float = Field(168, gt=0, description="Hours to keep jobs and outputs")
    keep_uploads_h: float = Field(
        24, gt=0, description="Hours to keep uploaded files; those of the page are kept like jobs"
    )
    keep_inputs: bool = Field(False, description="Keep input images after their job has ended")
    embed_prompt: bool = Field(False, description="Write the prompt into the output's metadata")
    safety_checker: str | None = Field(
        None,
        description="Image classifier that checks outputs: a transformers model by path or name",
    )
    safety_mode: SafetyMode = Field(
        SafetyMode.FLAG, description="What to do with an unsafe output: flag or block"
    )
    webhook_secret: str | None = Field(
        None,
        min_length=16,
        description="Secret that signs webhooks; by default a random one, kept in the data folder",
    )
    log_format: LogFormat = Field(
        LogFormat.TEXT, description="Lines of the log: text, or json for one object per line"
    )
    log_prompts: bool = Field(False, description="Write prompts into the log")

    @field_validator("api_keys", "allow_networks", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("download_tokens", mode="before")
    @classmethod
    def _split_tokens(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if any(not (host and token) for host, _, token in pairs):
            raise ValueError("must be host=token, comma-separated")
        return {host.strip().lower(): token.strip() for host, _, token in pairs}

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if not any(part.strip() for part in value.split(",")):
            raise ValueError("must name a device: auto, cpu, cuda or cuda:N")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(f"{PREFIX}TLS_CERT and {PREFIX}TLS_KEY must be set together")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(
                    f"{path} is not a file; {PREFIX}TLS_CERT and _KEY must name PEM files"
                )
        return self

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        keys = self.all_api_keys()
        if not (self.is_loopback or self.no_auth or keys):
            raise ValueError(
                f"{self.host} can be reached by others: set {PREFIX}API_KEYS (or "
                f"{PREFIX}API_KEYS_FILE), or pass --no-auth to serve everyone"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def blocks_unsafe(self) -> bool:
        """True when outputs that the safety checker calls unsafe are withheld."""
        return self.safety_checker is not None and self.safety_mode is SafetyMode.BLOCK

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices, one per worker."""
        return tuple(part.strip() for part in self.device.split(",") if part.strip())

    def all_api_keys(self) -> tuple[ApiKey, ...]:
        """Return the keys from the variable and the file.

        Raises ValueError, which names no key, if one is too short or has two owners, or if the
        file is unreadable.
        """
        keys = _parse_keys(f"{PREFIX}API_KEYS", self.api_keys)
        if self.api_keys_file is not None:
            try:
                lines = self.api_keys_file.read_text().splitlines()
            except (OSError, UnicodeDecodeError) as exc:
                raise ValueError(f"{PREFIX}API_KEYS_FILE cannot be read: {exc}") from exc
            entries = [line.strip() for line in lines if line.strip()]
            keys += _parse_keys(f"{PREFIX}API_KEYS_FILE", entries)
        callers: dict[str, Caller] = {}
        for key in keys:
            if callers.setdefault(key.secret, key.caller) != key.caller:
                names = f"{callers[key.secret].owner!r} and {key.caller.owner!r}"
                raise ValueError(f"{names} have the same API key; each key needs one owner")
        return tuple(keys)


def _parse_keys(variable: str, entries: Sequence[str]) -> list[ApiKey]:
    try:
        return [parse_key(entry) for entry in entries]
    except ValueError as exc:
        raise ValueError(f"{variable} {exc}") from None


def read_settings(**flags: Any) -> Settings:
    """Read the settings; flags that are not None win over the environment.

    Raises SettingsError for an unknown or malformed variable.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | CLIENT_VARIABLES
    for variable in os.environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            raise SettingsError(f"Unknown setting {variable}. Known: {', '.join(sorted(known))}.")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        raise SettingsError(_first_problem(exc)) from exc


def _first_problem(exc: ValidationError) -> str:
    error = exc.errors()[0]
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    field = str(error["loc"][0])
    shown = "" if field in SECRET_FIELDS else f"={error['input']!r}"
    return f"{PREFIX}{field.upper()}{shown}: {message}"
