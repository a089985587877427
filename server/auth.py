"""API keys, checked in constant time."""

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request

from server.errors import Unauthorized

_SCHEMES = ("bearer", "key")


class KeyCheck:
    """A FastAPI dependency that lets a request through when it carries one of the keys.

    With no keys configured every request passes: the settings allow that on loopback only, or
    when the operator said --no-auth.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that not even a key's length can be measured.
        self._digests = [_digest(key) for key in keys]

    def __call__(self, request: Request) -> None:
        """Raise Unauthorized unless the request may pass."""
        if not self._digests:
            return
        offered = _digest(_offered_key(request))
        # every key is compared, so that the time says nothing about which one matched
        matches = [hmac.compare_digest(offered, digest) for digest in self._digests]
        if not any(matches):
            raise Unauthorized


def _offered_key(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and credentials:
        return credentials.strip()
    return request.headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
