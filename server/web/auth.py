"""API keys, checked in constant time and before the body of a request is read."""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from server.caller import EVERYBODY, ApiKey, Caller
from server.errors import Forbidden, Unauthorized
from server.web.problem import Problem, problem_of
from server.web.unread_body import UnadmittedBody

# Key in the state of a request's scope.
CALLER = "caller"
_SCHEMES = ("bearer", "key")


class KeyCheck:
    """Knows the keys, as digests, and their callers.

    Without keys every request is EVERYBODY's: the settings allow that on loopback only, or with
    --no-auth.
    """

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        # Digests have one length, so that timing does not reveal a key's length.
        self._callers = {_digest(key.secret): key.caller for key in keys}

    @property
    def has_keys(self) -> bool:
        """True when clients need a key."""
        return bool(self._callers)

    def caller(self, key: str) -> Caller | None:
        """Return the caller with this key, or None if it is no key."""
        return self._match(_digest(key), self._callers)

    def token(self, key: str, expires_at: float) -> str:
        """Return a token for a cookie: valid as long as the key and until `expires_at`.

        It does not reveal the key. `expires_at` is in Unix seconds.
        """
        return f"{expires_at:.0f}.{_sign(_digest(key), f'{expires_at:.0f}').hex()}"

    def caller_of_token(self, token: str, now: float) -> Caller | None:
        """Return the caller whose key `token` was made with, or None once it has expired."""
        expires, _, signature = token.partition(".")
        signed = {
            _sign(digest, expires).hex().encode(): caller
            for digest, caller in self._callers.items()
        }
        found = self._match(signature.encode(), signed)
        if found is None or not self.has_keys:
            return found
        # signed here, so it is a number
        return found if now < float(expires) else None

    def _match(self, offered: bytes, callers: Mapping[bytes, Caller]) -> Caller | None:
        if not self.has_keys:
            return EVERYBODY
        found = None
        # every key is compared, so that timing does not reveal which one matched
        for known, caller in callers.items():
            if hmac.compare_digest(offered, known):
                found = caller
        return found


def caller(request: Request) -> Caller:
    """Return who sends a request to a route that needs a key."""
    found: Caller = request.scope["state"][CALLER]
    return found


def require_admin(request: Request) -> None:
    """Raise Forbidden unless an admin sends the request."""
    if not caller(request).is_admin:
        raise Forbidden(
            "This needs an admin's key: QWEN_EDIT_API_KEYS has it as `admin:name=key`, or without "
            "a name."
        )


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
        """Answer 401 to a request that needs a key and has no valid one; else name its caller."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (found := self._keys.caller(_offered_key(Headers(scope=scope)))) is not None:
            scope.setdefault("state", {})[CALLER] = found
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
    # `api-key` is sent by OpenAI's clients for Azure
    return headers.get("x-api-key", headers.get("api-key", "")).strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _sign(digest: bytes, expires: str) -> bytes:
    return hmac.digest(digest, f"qwen-edit-server page {expires}".encode(), "sha256")
