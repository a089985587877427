"""Every route that submits work or changes an account's data, with a body that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import as_base64, encoded, gradient
from tests.fuzz.bad_files import good_lora
from tests.server.contracts.owners import FAL_MODELS, OPENAI, QUEUE_MODELS, WAVESPEED_MODELS

PNG = encoded(gradient(32, 24))
BASE64 = as_base64(PNG)
DATA_URI = f"data:image/png;base64,{BASE64}"
LORA = {"path": "known.safetensors", "scale": 0.5}
# A placeholder in a path: an id of a job, the token of an upload.
ID, TOKEN = "{id}", "{token}"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a form; one with a file name is a file."""

    name: str
    value: bytes
    filename: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A route and what it takes: JSON, a form, or plain bytes."""

    method: str
    path: str
    json: Mapping[str, Any] | None = None
    form: tuple[Part, ...] = ()
    raw: bytes | None = None
    # Of good requests; names are unlike Python's.
    headers: Mapping[str, str] = field(default_factory=dict)


NATIVE = {
    "prompt": "a", "images": [BASE64], "negative_prompt": "b", "size": "256*256", "loras": [LORA],
    "seed": 1, "n": 1, "num_inference_steps": 2, "true_cfg_scale": 1.0, "output_format": "png",
    "prompt_extend": False, "watermark": "w",
}  # fmt: skip
WAVESPEED = {
    "prompt": "a", "images": [BASE64], "image": BASE64, "size": "256*256", "loras": [LORA],
    "seed": 1, "output_format": "jpeg", "enable_base64_output": False, "enable_sync_mode": False,
    "negative_prompt": "b", "num_inference_steps": 2, "guidance_scale": 1.0,
}  # fmt: skip
QUEUE = {
    "prompt": "a", "images": [BASE64], "negative_prompt": "b", "size": "512*512", "n": 1,
    "prompt_extend": False, "watermark": True, "seed": 1, "loras": [LORA],
}  # fmt: skip
FAL = {
    "prompt": "a", "image_urls": [DATA_URI], "image_url": DATA_URI, "num_images": 1,
    "image_size": {"width": 512, "height": 512}, "num_inference_steps": 2, "guidance_scale": 1.0,
    "output_format": "png", "sync_mode": False, "enable_safety_checker": True, "loras": [LORA],
    "acceleration": "none", "prompt_extend": False, "negative_prompt": "b", "seed": 1,
}  # fmt: skip
OPENAI_JSON = {
    "prompt": "a", "image": [DATA_URI], "images": [{"image_url": DATA_URI}], "model": "m", "n": 1,
    "size": "256x256", "response_format": "b64_json", "output_format": "png", "quality": "auto",
    "output_compression": 90, "stream": False, "partial_images": 0, "background": "auto",
    "user": "u", "loras": [LORA], "num_inference_steps": 2, "seed": 1, "true_cfg_scale": 1.0,
    "input_fidelity": "high", "moderation": "auto",
}  # fmt: skip
HISTORY = {
    "page": 1, "page_size": 20, "model": "wavespeed-ai/qwen-image/edit-plus", "status": "completed",
    "created_after": "2026-01-01T00:00:00Z", "created_before": "2999-01-01", "include_inputs": True,
}  # fmt: skip
TICKET = {"filename": "a.png", "size": len(PNG), "content_type": "image/png"}
PRICE = {"model_id": "wavespeed-ai/qwen-image/edit-plus", "inputs": {"prompt": "a"}}
PNG_PART = Part("file", PNG, "a.png")


def _form(fields: Mapping[str, Any], *files: Part) -> tuple[Part, ...]:
    """The fields as text parts, without those that files replace."""
    left_out = {"images", "image", "loras"}
    texts = [Part(name, str(v).encode()) for name, v in fields.items() if name not in left_out]
    return (*texts, *files)


def _submits() -> list[Target]:
    native_form = _form(NATIVE, Part("loras", b"known:0.5"), Part("image", PNG, "a.png"))
    openai_form = _form(OPENAI_JSON, Part("loras[0][path]", b"known"), Part("image[]", PNG, "a"))
    queued = {"x-fal-queue-priority": "normal"}
    return [
        *(Target("POST", path, WAVESPEED) for path in WAVESPEED_MODELS),
        *(Target("POST", path, FAL if "fal-ai" in path else QUEUE) for path in QUEUE_MODELS),
        *(Target("POST", path, FAL) for path in FAL_MODELS),
        *(Target("POST", path, FAL, headers=queued) for path in FAL_MODELS),
        Target("POST", "/v1/edits", NATIVE),
        Target("POST", "/v1/edits?wait=1", NATIVE),
        Target("POST", "/v1/edits", form=native_form),
        Target("POST", "/v1/edits", form=native_form),
        Target("POST", OPENAI, OPENAI_JSON),
        Target("POST", OPENAI, OPENAI_JSON | {"stream": True, "partial_images": 1}),
        Target("POST", OPENAI, form=openai_form),
        Target("POST", OPENAI, form=openai_form),
    ]


def _jobs() -> list[Target]:
    queue = [f"{path}/requests/{ID}" for path in (*QUEUE_MODELS, FAL_MODELS[0])]
    return [
        *(Target("GET", path + end) for path in queue for end in ("", "/status", "/response")),
        *(Target("GET", f"{path}/status/stream") for path in queue[:2]),
        *(Target("PUT", f"{path}/cancel") for path in queue),
        *(Target("GET", f"/api/v{n}/predictions/{ID}/result") for n in (2, 3)),
        Target("GET", f"/api/v3/predictions/{ID}"),
        Target("GET", f"/v1/edits/{ID}"),
        Target("GET", f"/v1/edits/{ID}/events"),
        Target("POST", f"/v1/edits/{ID}/cancel"),
        Target("DELETE", f"/v1/edits/{ID}"),
        Target("GET", "/v1/edits?status=queued&limit=5&offset=0"),
    ]


def _account() -> list[Target]:
    content_type = {"Content-Type": "image/png"}
    uploads = [Target("POST", f"/api/v{n}/media/upload/binary", form=(PNG_PART,)) for n in (2, 3)]
    deletes = [Target("POST", "/api/v3/predictions/delete", {"ids": [ID, "b"]})] * 2
    return [
        *deletes,
        *uploads,
        *[Target("POST", "/api/v3/predictions", HISTORY)] * 3,
        *[Target("POST", "/api/v3/media/uploads", TICKET)] * 3,
        *[Target("PUT", f"/api/v3/media/uploads/{TOKEN}", raw=PNG, headers=content_type)] * 3,
        Target("POST", "/api/v3/model/price", PRICE),
        Target("POST", "/api/v3/model/pricing", PRICE),
        Target("GET", "/api/v3/models"),
        Target("GET", "/api/v3/balance"),
        Target("GET", "/api/v3/webhook/secret"),
        Target("GET", "/v1/models/m"),
        Target("GET", "/v1/capabilities"),
        Target("GET", "/health"),
        Target("GET", "/outputs/a.png"),
        Target("GET", "/uploads/a.png"),
    ]


def _loras() -> list[Target]:
    upload = (
        Part("name", b"new.safetensors"),
        Part("replace", b"true"),
        Part("file", good_lora(), "new.safetensors"),
    )
    return [
        *[Target("POST", "/v1/loras", form=upload)] * 4,
        Target("GET", "/v1/loras"),
        *[Target("GET", "/v1/loras/known.safetensors")] * 2,
        *[Target("DELETE", "/v1/loras/new.safetensors")] * 2,
    ]


# Each kind as often as the others: there are many more submits than other routes.
KINDS = {"submit": _submits(), "job": _jobs(), "account": _account(), "lora": _loras()}
