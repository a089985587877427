"""The body of POST /v1/edits: JSON, or a form with files; FastAPI can declare only one of them."""

import json
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from server.contracts.native.schemas import EditRequest, LoraItem
from server.errors import InvalidRequest
from server.limits import MAX_IMAGE_BYTES

# Base64 is a third longer than its image; the rest is room for line breaks and the prefix.
MAX_PART_BYTES = MAX_IMAGE_BYTES * 7 // 5


async def read_body(request: Request) -> tuple[EditRequest, list[bytes]]:
    """Read the request from JSON, or from a form whose `image` parts are files.

    Raises InvalidRequest and RequestValidationError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return EditRequest.model_validate_json(await request.body()), []
        if kind == "multipart/form-data":
            async with request.form(max_part_size=MAX_PART_BYTES) as form:
                body = EditRequest.model_validate(_form_fields(form))
                parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                return body, [await part.read() for part in parts]
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from exc
    raise InvalidRequest(
        f"the body must be application/json or multipart/form-data, got {kind or 'neither'}",
        field="content-type",
    )


def _form_fields(form: FormData) -> dict[str, Any]:
    """Return the text parts: `images` and `loras` may repeat; a LoRA is `path` or `path:scale`.

    `sampling` is JSON. Raises InvalidRequest where it is not.
    """
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name in ("images", "loras"):
            fields.setdefault(name, []).append(_lora(value) if name == "loras" else value)
        elif name == "sampling":
            fields[name] = _json(value, name)
        else:
            fields[name] = value
    return fields


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(
            f"{name} must be a JSON object, got {text[:40]!r}", field=name
        ) from exc


def _lora(text: str) -> dict[str, str]:
    path, colon, scale = text.rpartition(":")
    if colon and scale.replace(".", "", 1).removeprefix("-").isdigit():
        return {"path": path, "scale": scale}
    return {"path": text}


def request_body() -> dict[str, Any]:
    """Return the OpenAPI of both body types, which FastAPI cannot derive from one parameter."""
    schema = EditRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["properties"]["loras"]["items"] = LoraItem.model_json_schema()
    form = {
        **schema,
        "properties": {
            **schema["properties"],
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "loras": {"type": "array", "items": {"type": "string"}, "description": "path:scale"},
        },
    }
    content = {"application/json": schema, "multipart/form-data": form}
    return {
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": value} for kind, value in content.items()},
        }
    }
