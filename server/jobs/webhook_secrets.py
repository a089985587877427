"""The secrets that sign webhooks, one for each owner."""

import hmac
import secrets
from pathlib import Path

from server.caller import is_name
from server.secret_file import read_or_create

PREFIX = "whsec_"


class WebhookSecrets:
    """Derives an owner's secret from the server's, so that no owner can sign for another."""

    def __init__(self, server_secret: str) -> None:
        self._server_secret = server_secret

    def of(self, owner: str | None) -> str:
        """Return the owner's secret: the server's own where the owner's key has no name."""
        if owner is None or not is_name(owner):
            return self._server_secret
        key, message = self._server_secret.encode(), f"webhooks of {owner}".encode()
        return PREFIX + hmac.digest(key, message, "sha256").hex()


def read_or_create_secret(path: Path) -> str:
    """Return the secret that signs webhooks, created once and readable by its owner only."""
    secret = read_or_create(path, lambda: f"{PREFIX}{secrets.token_hex(32)}\n".encode())
    return secret.decode().strip()
