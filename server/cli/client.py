"""A client of the native contract, for the command line."""

import base64
import json
import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

from pipelines.api.sampling import Sampling, dump_sampling
from server.cli.errors import ClientError

# The server decodes the images before it answers a submit; it answers all else at once.
TIMEOUT_S = 60.0
# What float() reads, except what could be a name: inf, nan, 1_0.
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True, slots=True)
class EditOptions:
    """One edit as the command line requests it; None leaves a value to the server."""

    prompt: str
    images: tuple[Path, ...]
    loras: tuple[tuple[str, float], ...]
    size: str | None
    seed: int | None
    num_inference_steps: int | None
    true_cfg_scale: float | None
    negative_prompt: str | None
    output_format: str
    sampling: Sampling = field(default_factory=Sampling)
    preset: str | None = None

    def body(self) -> dict[str, Any]:
        """The JSON of POST /v1/edits. Raises ClientError for a file that cannot be read."""
        body = {
            "prompt": self.prompt,
            "images": [_read_base64(path) for path in self.images],
            "loras": [{"path": path, "scale": scale} for path, scale in self.loras],
            "size": self.size,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "true_cfg_scale": self.true_cfg_scale,
            "negative_prompt": self.negative_prompt,
            "output_format": self.output_format,
            "sampling": dump_sampling(self.sampling) or None,
            "preset": self.preset,
        }
        return {name: value for name, value in body.items() if value is not None}


def parse_lora(text: str) -> tuple[str, float]:
    """Split `REF[:SCALE]` at the last colon when a finite number follows."""
    match = re.fullmatch(rf"(.+):({NUMBER})", text)
    if match is None or not math.isfinite(float(match[2])):
        return text, 1.0
    return match[1], float(match[2])


class Client:
    """A connection to one server; use it in a `with` block. Every method raises ClientError."""

    def __init__(self, server: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._server = server.rstrip("/")
        try:
            self._http = httpx2.Client(base_url=self._server, headers=headers, timeout=TIMEOUT_S)
        except httpx2.InvalidURL as exc:
            raise self._unreachable(exc) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def submit(self, options: EditOptions) -> dict[str, Any]:
        """Queue an edit and return its job."""
        names = {f"images/{index}": str(path) for index, path in enumerate(options.images)}
        return self._json("POST", "/v1/edits", names, json=options.body())

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Yield the job after each change, until it is final."""
        try:
            with self._http.sse(f"/v1/edits/{job_id}/events", timeout=None) as events:
                if events.response.is_error:
                    events.response.read()
                    raise self._refusal(events.response, {})
                for event in events:
                    yield json.loads(event.data)
        except httpx2.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def jobs(self, limit: int) -> dict[str, Any]:
        """The newest jobs."""
        return self._json("GET", "/v1/edits", params={"limit": limit})

    def capabilities(self) -> dict[str, Any]:
        """The model and its limits."""
        return self._json("GET", "/v1/capabilities")

    def loras(self) -> dict[str, Any]:
        """The LoRAs of the server."""
        return self._json("GET", "/v1/loras")

    def presets(self) -> dict[str, Any]:
        """The presets of the server."""
        return self._json("GET", "/v1/presets")

    def delete_lora(self, name: str) -> None:
        """Remove a LoRA of the server."""
        self._request("DELETE", f"/v1/loras/{urllib.parse.quote(name)}", {})

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job unless it has ended, and return it."""
        return self._json("POST", f"/v1/edits/{job_id}/cancel")

    def download(self, url: str) -> bytes:
        """A finished image."""
        return self._request("GET", url, {}).content

    def _json(
        self, method: str, path: str, names: Mapping[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        response = self._request(method, path, names or {}, **options)
        try:
            body: dict[str, Any] = response.json()
        except ValueError as exc:
            raise ClientError(
                f"{self._server} does not answer like a qwen-edit server: name another with "
                f"--server"
            ) from exc
        return body

    def _request(
        self, method: str, path: str, names: Mapping[str, str], **options: Any
    ) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise self._unreachable(exc) from exc
        if response.is_error:
            raise self._refusal(response, names)
        return response

    def _refusal(self, response: httpx2.Response, names: Mapping[str, str]) -> ClientError:
        if response.status_code == httpx2.codes.UNAUTHORIZED:
            given = "Authorization" in self._http.headers
            fault = "does not accept this API key" if given else "requires an API key"
            return ClientError(f"{self._server} {fault}: pass one with --key or QWEN_EDIT_KEY")
        return ClientError(_message(response, names))

    def _unreachable(self, exc: Exception) -> ClientError:
        return ClientError(
            f"no server at {self._server} ({exc}). Start one with `qwen-edit serve`, or name "
            f"another with --server."
        )


def _read_base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as exc:
        raise ClientError(f"cannot read {path}: {exc.strerror}") from exc


def _message(response: httpx2.Response, names: Mapping[str, str]) -> str:
    """The server's message, beginning with its field; `names` has what users call a field."""
    try:
        error = response.json()["error"]
        message = str(error["message"])
        field: str | None = error.get("field")
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}: {response.text[:200]}"
    if field is None:
        return message
    if message.startswith(field):
        return names.get(field, field) + message.removeprefix(field)
    # the engine's messages say `loras.path` where the field is `loras/0/path`
    plain = re.sub(r"/\d+", "", field).replace("/", ".")
    return message if message.startswith(plain) else f"{names.get(field, field)}: {message}"
