"""The signature of fal's webhooks, and the public key that receivers verify it with.

fal signs with Ed25519 and publishes its keys as a JSON Web Key Set (RFC 7517, RFC 8037).
"""

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from fastapi import APIRouter
from pydantic import BaseModel

from server.secret_file import read_or_create
from server.settings import SettingsError
from server.web.contract import Services

KEY_FILE = "fal_webhook_key.pem"
KEYS_PATH = "/.well-known/jwks.json"


class PublicKey(BaseModel):
    """An Ed25519 public key as a JSON Web Key; `x` is the key in base64url."""

    kty: str
    crv: str
    x: str
    kid: str
    use: str
    alg: str


class PublicKeys(BaseModel):
    """The keys that verify webhooks."""

    keys: list[PublicKey]


class SigningKey:
    """The key pair of this server."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key

    @classmethod
    def of(cls, data_dir: Path) -> "SigningKey":
        """Return the key pair of a data folder, which is created once.

        Raises SettingsError if its file holds something else.
        """
        path = data_dir / KEY_FILE
        try:
            key = load_pem_private_key(read_or_create(path, _new_key), password=None)
        except (ValueError, TypeError) as exc:
            raise SettingsError(_refusal(path)) from exc
        if not isinstance(key, Ed25519PrivateKey):
            raise SettingsError(_refusal(path))
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """The public key. Its ID is its thumbprint (RFC 7638)."""
        members = {
            "crv": "Ed25519",
            "kty": "OKP",
            "x": _base64url(self._private_key.public_key().public_bytes_raw()),
        }
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode()
        kid = _base64url(hashlib.sha256(canonical).digest())
        return PublicKey(**members, kid=kid, use="sig", alg="EdDSA")

    def sign(self, request_id: str, user_id: str, timestamp: int, body: bytes) -> str:
        """Return the signature of a webhook in hexadecimal."""
        digest = hashlib.sha256(body).hexdigest()
        message = "\n".join([request_id, user_id, str(timestamp), digest])
        return self._private_key.sign(message.encode()).hex()


def keys_router(services: Services) -> APIRouter:
    """Return the route of the public key; receivers of webhooks have no API key."""
    routes = APIRouter(tags=["provider queue"])
    keys = PublicKeys(keys=[SigningKey.of(services.settings.data_dir).public])

    @routes.get(KEYS_PATH)
    def get_webhook_keys() -> PublicKeys:
        """Return the public key that verifies fal's webhooks."""
        return keys

    return routes


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refusal(path: Path) -> str:
    return (
        f"{path} does not hold the Ed25519 private key that signs fal's webhooks. Restore it, or "
        f"move it away: the server then creates another, which receivers fetch from {KEYS_PATH}."
    )
