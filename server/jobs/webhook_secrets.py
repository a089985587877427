"""The secrets that sign webhooks, one for each owner."""

import hmac

from server.caller import is_name

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
