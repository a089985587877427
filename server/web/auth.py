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
        if not self.accepts(_offered_key(request)):
            raise Unauthorized

    def accepts(self, key: str) -> bool:
        """Whether this is one of the keys, or none is needed."""
        return self._matches(_digest(key), self._digests)

    def token(self, key: str) -> str:
        """What a browser keeps instead of the key: good for as long as the key is, and no key."""
        return _token(_digest(key)).hex()

    def accepts_token(self, token: str) -> bool:
        """Whether `token` was given for one of the keys, or none is needed."""
        return self._matches(
            token.encode(), [_token(each).hex().encode() for each in self._digests]
        )

    def _matches(self, offered: bytes, known: Sequence[bytes]) -> bool:
        # every key is compared, so that the time says nothing about which one matched
        matches = [hmac.compare_digest(offered, each) for each in known]
        return any(matches) or not self._digests


def _offered_key(request: Request) -> str:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and credentials:
        return credentials.strip()
    return request.headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _token(digest: bytes) -> bytes:
    return hmac.digest(digest, b"qwen-edit-server page", "sha256")
