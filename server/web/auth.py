"""API keys, checked in constant time and before the body of a request is read."""

import hashlib
import hmac
from collections.abc import Callable, Sequence

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Unauthorized
from server.web.problem import Problem, problem_of
from server.web.unread_body import UnadmittedBody

_SCHEMES = ("bearer", "key")


class KeyCheck:
    """Knows the keys, as digests.

    Without keys every request passes: the settings allow that on loopback only, or with
    --no-auth.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        # Digests have one length, so that timing does not reveal a key's length.
        self._digests = [_digest(key) for key in keys]

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


class RequireKey:
    """Requires a key for every route except the public ones, before any of the body is read.

    A client without a key may send UNADMITTED_BYTES to a public route, which asks for more with
    `admit_body` once it has checked a token or a cookie. An unknown path needs no key: its 404
    reveals nothing.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyCheck,
        routes: Sequence[BaseRoute],
        public_routes: Sequence[BaseRoute],
        render: Callable[[str, Problem], JSONResponse],
    ) -> None:
        """`routes` are all of the application; `render` receives the request's path."""
        self._app = app
        self._keys = keys
        self._routes = routes
        self._public_routes = public_routes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 to a request that needs a key and has no valid one."""
        if scope["type"] != "http" or self._keys.accepts(_offered_key(Headers(scope=scope))):
            await self._app(scope, receive, send)
            return
        body = UnadmittedBody(scope, receive, send)
        if self._needs_key(scope):
            refusal = self._render(scope["path"], problem_of(Unauthorized()))
            await refusal(scope, receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)

    def _needs_key(self, scope: Scope) -> bool:
        """Return whether the route that the router will choose, the first match, is not public."""
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return not any(route is public for public in self._public_routes)
        return False


def _offered_key(headers: Headers) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES and credentials:
        return credentials.strip()
    return headers.get("x-api-key", "").strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _token(digest: bytes) -> bytes:
    return hmac.digest(digest, b"qwen-edit-server page", "sha256")
