"""The body of an edit, a form or JSON: its images in order of appearance, and its fields."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json
from starlette.datastructures import FormData, UploadFile

from pipelines.api.params import MAX_REFERENCES
from server.contracts.openai.schemas import EditRequest
from server.errors import InvalidRequest
from server.limits import MAX_IMAGE_BYTES
from server.web.fields import LoraItem

JSON = "application/json"
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
# Starlette's own limit for a text part is 1 MiB; a data URI is a third longer than its image.
MAX_TEXT_BYTES = MAX_IMAGE_BYTES * 4 // 3 + 1024
# The SDK sends `image` for one file and `image[]` for a list; others repeat or number `image`.
_IMAGE = re.compile(r"(?:images?|url|image_url)(?:\[[0-9]*\])?")
_LORA = re.compile(r"loras\[([0-9]{0,3})\](?:\[(\w+)\])?")
_MASK = "mask"


async def read_body(request: Request) -> tuple[EditRequest, list[str | bytes]]:
    """Read the fields and the images (references, or the bytes of files).

    Raises InvalidRequest and RequestValidationError.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    images: list[str | bytes]
    if kind == JSON:
        fields = _json_object(await request.body())
        images = [image for name, value in fields.items() for image in _listed(name, value)]
    elif kind in FORMS:
        async with request.form(max_part_size=MAX_TEXT_BYTES) as form:
            images = [image async for image in _form_images(form)]
            fields = _form_fields(form)
    else:
        raise InvalidRequest(
            f"the body must be multipart/form-data or {JSON}, got {kind or 'neither'}",
            field="content-type",
        )
    _refuse_mask(fields)
    fields["loras"] = _loras(fields.get("loras"))
    try:
        return EditRequest.model_validate(fields), images
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from exc


async def _form_images(form: FormData) -> AsyncIterator[str | bytes]:
    for name, part in form.multi_items():
        if not _IMAGE.fullmatch(name):
            continue
        if isinstance(part, UploadFile):
            yield await part.read()
        elif part.strip():
            yield part


def _form_fields(form: FormData) -> dict[str, Any]:
    """Return the text parts, with LoRAs collected into a list, and the mask if one has content."""
    fields: dict[str, Any] = {}
    loras: list[tuple[str, str]] = []
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if name == _MASK and part.size:
                fields[_MASK] = part
        elif _LORA.fullmatch(name):
            loras.append((name, part))
        else:
            fields[name] = part
    if loras:
        fields["loras"] = _bracketed_loras(loras)
    return fields


def _bracketed_loras(parts: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Collect LoRAs from `loras[0][path]`, or `loras[][path]` as the SDK sends them.

    The SDK sends all paths before all scales. Without numbers, a scale can be assigned only if
    every LoRA has one, or none has.
    """
    numbered: dict[int, dict[str, str]] = {}
    columns: dict[str, list[str]] = {}
    for name, value in parts:
        match = _LORA.fullmatch(name)
        assert match is not None, "matched by the caller"
        key = match[2] or "path"
        if match[1]:
            numbered.setdefault(int(match[1]), {})[key] = value
        else:
            columns.setdefault(key, []).append(value)
    paths, scales = columns.get("path", []), columns.get("scale", [])
    if scales and len(scales) != len(paths):
        raise InvalidRequest(
            f"loras[] must have a scale for every path or for none, got {len(paths)} paths and "
            f"{len(scales)} scales; alternatively send loras as one JSON field",
            field="loras",
        )
    items = [{"path": path} for path in paths]
    for item, scale in zip(items, scales, strict=False):
        item["scale"] = scale
    return [*items, *(numbered[index] for index in sorted(numbered))]


def _loras(value: Any) -> Any:
    """Return LoRAs as a list; a string is parsed as JSON."""
    if isinstance(value, str) and value.strip():
        try:
            value = from_json(value)
        except ValueError as exc:
            raise InvalidRequest(
                'loras must be a JSON list such as [{"path": "my-style", "scale": 0.8}], got '
                f"{value[:60]!r}",
                field="loras",
            ) from exc
    return [value] if isinstance(value, dict) else value


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        # unlike the standard library, it refuses lone surrogates and unbounded nesting
        fields = from_json(body)
    except ValueError as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}", field="body") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object", field="body")
    return fields


def _listed(name: str, value: Any) -> Iterator[str]:
    """Yield the references in a JSON field: one or a list, each a string or `{"image_url": …}`."""
    if not _IMAGE.fullmatch(name):
        return
    for index, item in enumerate(value if isinstance(value, list) else [value]):
        found = item.get("image_url", item.get("url")) if isinstance(item, dict) else item
        if isinstance(found, str):
            if found.strip():
                yield found
        elif item is not None:
            raise InvalidRequest(
                f"{name}/{index} must be a URL, a data URI or base64, or an object with image_url",
                field=name,
            )


def _refuse_mask(fields: dict[str, Any]) -> None:
    if fields.get(_MASK):
        raise InvalidRequest(
            "mask is not supported: the model has no mask input. Leave it out and describe the "
            "change in the prompt.",
            field=_MASK,
        )


def request_body() -> dict[str, Any]:
    """Return the OpenAPI of both body types, which FastAPI cannot derive from one parameter."""
    schema = EditRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["properties"]["loras"]["items"] = LoraItem.model_json_schema()
    schema["properties"]["output_format"] = {"enum": ["jpeg", "png", "webp"], "default": "png"}
    schema["required"] = ["prompt", "image"]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _with_images(schema, {"format": "binary"})},
                JSON: {"schema": _with_images(schema, {})},
            },
        }
    }


def _with_images(schema: dict[str, Any], kind: dict[str, str]) -> dict[str, Any]:
    image = {
        "type": "array",
        "items": {"type": "string", **kind},
        "minItems": 1,
        "maxItems": MAX_REFERENCES,
        "description": (
            f"1–{MAX_REFERENCES} of: file, URL, data URI, base64; as image, image[], url or url[]"
        ),
    }
    return {**schema, "properties": {**schema["properties"], "image": image}}
