"""API keys, checked in constant time."""

import hashlib
import hmac
from collections.abc import Sequence

from fastapi import Request

from server.errors import Unauthorized

_SCHEMES = ("bearer", "key")


class KeyCheck:
    """A FastAPI dependency that requires one of the keys.

    Without keys every request passes: the settings allow that on loopback only, or with
    --no-auth.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that timing does not reveal a key's length.
        self._digests = [_digest(key) for key in keys]

    def __call__(self, request: Request) -> None:
        """Raise Unauthorized unless the request has one of the keys."""
        if not self.accepts(_offered_key(request)):
            raise Unauthorized

    def accepts(self, key: str) -> bool:
        """Return whether this is one of the keys, or none is needed."""
        return self._matches(_digest(key), self._digests)

    def token(self, key: str) -> str:
        """Return a token for a cookie: valid as long as the key, without revealing it."""
        return _token(_digest(key)).hex()

    def accepts_token(self, token: str) -> bool:
        """Return whether `token` belongs to one of the keys, or none is needed."""
        return self._matches(
            token.encode(), [_token(each).hex().encode() for each in self._digests]
        )

    def _matches(self, offered: bytes, known: Sequence[bytes]) -> bool:
        # every key is compared, so that timing does not reveal which one matched
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
