"""The proxies whose X-Forwarded headers are believed."""

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from server.web.connection_limits import Address, client_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Knows the networks of the proxies; by default there are none."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks

    def trusts(self, address: Address) -> bool:
        """Return whether a proxy may have this address."""
        return any(address in network for network in self._networks)

    def headers(self, scope: Scope) -> Headers:
        """Return the request's headers, without those of any proxy that is not trusted."""
        headers = Headers(scope=scope)
        if self._comes_from_proxy(scope):
            return headers
        kept = [(name, value) for name, value in headers.raw if not _is_forwarded(name)]
        return Headers(raw=kept)

    def client(self, scope: Scope) -> str:
        """Return the address of the client: the last in X-Forwarded-For that is no proxy."""
        host = scope["client"][0] if scope.get("client") else ""
        if not self._comes_from_proxy(scope):
            return host
        for entry in reversed(Headers(scope=scope).get("x-forwarded-for", "").split(",")):
            try:
                address = client_address(entry.strip())
            except ValueError:
                break
            host = str(address)
            if not self.trusts(address):
                break
        return host

    def _comes_from_proxy(self, scope: Scope) -> bool:
        try:
            return self.trusts(client_address(scope["client"][0]))
        except (KeyError, TypeError, ValueError):
            # an application that runs without a socket
            return False


def _is_forwarded(name: bytes) -> bool:
    return name.startswith(b"x-forwarded-")
