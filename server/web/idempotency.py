"""The header Idempotency-Key: a repeated submit gets the job of the first one."""

import asyncio
import hashlib
import json
import string
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import BaseModel

from server.errors import InvalidRequest
from server.store.idempotency import KeyedRequest
from server.web.auth import caller

HEADER = "Idempotency-Key"
MAX_CHARS = 255
# Hashed as images: they may come as files of a form too, and are long.
IMAGE_FIELDS = {"image", "images", "image_url", "image_urls"}
RANDOM_SEED = -1
_PRINTABLE = frozenset(string.printable) - frozenset(string.whitespace) | {" "}


def _read_header(
    idempotency_key: Annotated[
        str | None,
        Header(description="A repeat within 24 hours with the same key gets the same job"),
    ] = None,
) -> str | None:
    """Return the key, or None. Raises InvalidRequest."""
    if idempotency_key is None:
        return None
    if not 1 <= len(idempotency_key) <= MAX_CHARS or not _PRINTABLE.issuperset(idempotency_key):
        raise InvalidRequest(
            f"{HEADER} must have 1 to {MAX_CHARS} printable ASCII characters, got "
            f"{len(idempotency_key)} characters: {idempotency_key[:40]!r}"
        )
    return idempotency_key


# The type of a route's parameter.
IdempotencyKey = Annotated[str | None, Depends(_read_header)]


async def keyed_request(
    request: Request,
    key: str | None,
    body: BaseModel,
    images: Sequence[str | bytes],
    *,
    webhook: str | None = None,
    answers_outcome: bool = False,
) -> KeyedRequest | None:
    """Return what identifies a request with a key, None for one without.

    `images` are references, or the bytes of files.
    """
    if key is None:
        return None
    # a field that a newer version adds does not change the fingerprint of those without it
    fields = body.model_dump(mode="json", exclude_defaults=True, exclude=IMAGE_FIELDS)
    if fields.get("seed") == RANDOM_SEED:
        del fields["seed"]
    text = json.dumps([fields, webhook], sort_keys=True)
    fingerprint = await asyncio.to_thread(_fingerprint, text, images)
    owner, path = caller(request).owner, request.url.path
    return KeyedRequest(owner, path, key, fingerprint, answers_outcome)


def _fingerprint(fields: str, images: Sequence[str | bytes]) -> str:
    digests = [hashlib.sha256(fields.encode())]
    for image in images:
        data = image.encode() if isinstance(image, str) else image
        digests.append(hashlib.sha256(data))
    return hashlib.sha256(b"".join(each.digest() for each in digests)).hexdigest()
