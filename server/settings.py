"""Every setting of the server, read once from the environment and the command line."""

import ipaddress
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, IPvAnyNetwork, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pipelines.api.load_options import Dtype, Offload
from pipelines.files.installation import default_folder

PREFIX = "QWEN_EDIT_"
# Of the command line's clients, which may share their environment with the server.
CLIENT_VARIABLES = frozenset({"QWEN_EDIT_SERVER", "QWEN_EDIT_KEY"})


# Their values are never repeated in a message.
SECRET_FIELDS = frozenset({"api_keys", "download_tokens", "webhook_secret"})


class SafetyMode(StrEnum):
    """What becomes of an output that the safety checker calls unsafe."""

    FLAG = "flag"
    BLOCK = "block"


class SettingsError(Exception):
    """A setting is unknown or malformed; the message names it."""


class Settings(BaseSettings):
    """Each field is also the variable QWEN_EDIT_<NAME>; lists are separated by commas."""

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
        "auto", description="auto, cpu, cuda, cuda:N, or several cuda:N for one worker each"
    )
    dtype: Dtype = Field(Dtype.AUTO, description="auto is bfloat16 on CUDA, float32 on a CPU")
    offload: Offload = Field(
        Offload.NONE, description="Keep weights in host memory, by model or by group of layers"
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Keys that clients must send"
    )
    api_keys_file: Path | None = Field(None, description="File with one key per line")
    no_auth: bool = Field(False, description="Serve without keys on an address others can reach")
    page: bool = Field(True, description="Serve the page for people at /")
    public_url: str | None = Field(
        None, description="Base of the URLs in answers, when a proxy hides it (https://host/path)"
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM), to serve https")
    tls_key: Path | None = Field(None, description="Its private key (PEM)")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web pages that may call the server from a browser (origins, or *)"
    )
    allow_networks: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = Field(
        (), description="Private networks (CIDR) that URLs in requests may name"
    )
    offline: bool = Field(False, description="Refuse every request that names a URL to fetch")
    max_waiting_jobs: int = Field(100, ge=1, description="Jobs that may wait; beyond, 429")
    job_timeout_s: float = Field(1800, gt=0, description="Seconds that one job may run")
    sync_timeout_s: float = Field(90, gt=0, description="Seconds that a synchronous request waits")
    fetch_timeout_s: float = Field(60, gt=0, description="Seconds that one image may take")
    lora_timeout_s: float = Field(1800, gt=0, description="Seconds that one LoRA may take to come")
    max_lora_mb: int = Field(4096, ge=1, description="Largest LoRA that is taken, in MiB")
    lora_store_gb: float = Field(50, gt=0, description="Disk that fetched LoRAs may fill, in GiB")
    download_tokens: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict,
        description="Tokens for LoRA downloads: host=token, separated by commas (civitai.com=…)",
    )
    keep_outputs_h: float = Field(168, gt=0, description="Hours that jobs and outputs are kept")
    keep_uploads_h: float = Field(
        24, gt=0, description="Hours that uploaded files are kept, those of the page as jobs are"
    )
    keep_inputs: bool = Field(False, description="Keep input images after their job has ended")
    embed_prompt: bool = Field(False, description="Write the prompt into the output's metadata")
    safety_checker: str | None = Field(
        None,
        description="Image classifier that looks at outputs: a transformers model by path or name",
    )
    safety_mode: SafetyMode = Field(
        SafetyMode.FLAG, description="What becomes of an unsafe output: flag it, or block it"
    )
    webhook_secret: str | None = Field(
        None,
        min_length=16,
        description="Secret that webhooks are signed with; by default one is drawn and kept in the "
        "data folder",
    )
    log_prompts: bool = Field(False, description="Write prompts into the log")

    @field_validator("api_keys", "allow_networks", "cors_origins", mode="before")
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
            raise ValueError("must be host=token, separated by commas")
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
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(f"{PREFIX}TLS_CERT and {PREFIX}TLS_KEY go together")
        for path in (self.tls_cert, self.tls_key):
            if path is not None and not path.is_file():
                raise ValueError(f"{path} is no file; {PREFIX}TLS_CERT and _KEY name PEM files")
        return self

    @model_validator(mode="after")
    def _check_auth(self) -> Self:
        keys = self.all_api_keys()
        if not (self.is_loopback or self.no_auth or keys):
            raise ValueError(
                f"{self.host} can be reached by others: set {PREFIX}API_KEYS (or "
                f"{PREFIX}API_KEYS_FILE), or say --no-auth to serve everybody"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def blocks_unsafe(self) -> bool:
        """Whether outputs that the safety checker calls unsafe are withheld."""
        return self.safety_checker is not None and self.safety_mode is SafetyMode.BLOCK

    @property
    def devices(self) -> tuple[str, ...]:
        """One entry per worker."""
        return tuple(part.strip() for part in self.device.split(",") if part.strip())

    def all_api_keys(self) -> tuple[str, ...]:
        """The keys from the variable and the file. Raises ValueError for an unreadable file."""
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = self.api_keys_file.read_text().splitlines()
        except OSError as exc:
            raise ValueError(f"{PREFIX}API_KEYS_FILE cannot be read: {exc}") from exc
        return (*self.api_keys, *(line.strip() for line in lines if line.strip()))


def read_settings(**flags: Any) -> Settings:
    """The settings: flags that are not None win over the environment.

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
