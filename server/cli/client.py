"""A client of the native contract, for the command line."""

import base64
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

# A submit decodes the images before it answers; everything else answers at once.
TIMEOUT_S = 60.0
# As float() writes and reads them, but for those that are names as well: inf, nan, 1_0.
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"


class ClientError(Exception):
    """What the server said, or why it could not be asked."""


@dataclass(frozen=True, slots=True)
class EditOptions:
    """One edit as the command line asks for it; None leaves a value to the server."""

    prompt: str
    images: tuple[Path, ...]
    loras: tuple[tuple[str, float], ...]
    size: str | None
    seed: int | None
    num_inference_steps: int | None
    true_cfg_scale: float | None
    negative_prompt: str | None
    output_format: str

    def body(self) -> dict[str, Any]:
        """The JSON of POST /v1/edits."""
        body = {
            "prompt": self.prompt,
            "images": [base64.b64encode(path.read_bytes()).decode() for path in self.images],
            "loras": [{"path": path, "scale": scale} for path, scale in self.loras],
            "size": self.size,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "true_cfg_scale": self.true_cfg_scale,
            "negative_prompt": self.negative_prompt,
            "output_format": self.output_format,
        }
        return {name: value for name, value in body.items() if value is not None}


def parse_lora(text: str) -> tuple[str, float]:
    """`REF[:SCALE]`, split at the last colon when a finite number follows."""
    match = re.fullmatch(rf"(.+):({NUMBER})", text)
    if match is None or not math.isfinite(float(match[2])):
        return text, 1.0
    return match[1], float(match[2])


class Client:
    """Talks to one server. Use it in a `with` block."""

    def __init__(self, server: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._server = server.rstrip("/")
        self._http = httpx2.Client(base_url=self._server, headers=headers, timeout=TIMEOUT_S)

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
        """Queue an edit and give the job."""
        return self._json("POST", "/v1/edits", json=options.body())

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job after each change, until it is final."""
        try:
            with self._http.sse(f"/v1/edits/{job_id}/events", timeout=None) as events:
                for event in events:
                    yield json.loads(event.data)
        except httpx2.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        return self._json("GET", f"/v1/edits/{job_id}")

    def jobs(self, limit: int) -> dict[str, Any]:
        """The newest jobs."""
        return self._json("GET", "/v1/edits", params={"limit": limit})

    def capabilities(self) -> dict[str, Any]:
        """The model and what it can do."""
        return self._json("GET", "/v1/capabilities")

    def loras(self) -> dict[str, Any]:
        """The LoRAs under weights/loras."""
        return self._json("GET", "/v1/loras")

    def delete(self, job_id: str) -> None:
        """Cancel an unfinished job, delete a finished one."""
        self._request("DELETE", f"/v1/edits/{job_id}")

    def download(self, url: str) -> bytes:
        """A finished image."""
        return self._request("GET", url).content

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(method, path, **options).json()
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx2.HTTPError as exc:
            raise self._unreachable(exc) from exc
        if response.is_error:
            raise ClientError(_message(response))
        return response

    def _unreachable(self, exc: Exception) -> ClientError:
        return ClientError(
            f"{self._server} cannot be asked ({exc}). Is the server running? Start it with "
            f"`qwen-edit serve`, or name another with --server."
        )


def _message(response: httpx2.Response) -> str:
    """The server's sentence, with the field that it is about in front where it does not say so."""
    try:
        error = response.json()["error"]
        message, field = str(error["message"]), error.get("field")
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status_code}: {response.text[:200]}"
    if field is None:
        return message
    # a sentence of the engine's says `loras.path` of the field `loras/0/path`
    plain = re.sub(r"/\d+", "", field).replace("/", ".")
    return message if message.startswith((field, plain)) else f"{field}: {message}"
