"""Plain ASGI middleware for every request and response.

Starlette's function middleware would buffer between an event stream and its client.
"""

import ipaddress
import json
import string
import urllib.parse
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import PayloadTooLarge, WrongHost
from server.web.problem import Problem, problem_of
from server.web.proxies import TrustedProxies
from server.web.unread_body import UnadmittedBody

# Keys in the state of a request's scope.
BASE_URL = "base_url"
CLIENT_ADDRESS = "client_address"
WARNINGS = "warnings"
# Clients refuse longer heads.
MAX_WARNINGS = 6
_SAFE = string.punctuation.replace("%", "")


class Forwarded:
    """Resolves what a proxy may hide: the server's URL as the client knows it, and its address.

    `base_url(request)` and `client_address(request)` read them. A configured public URL wins; else
    a trusted proxy's X-Forwarded headers, else the Host header.
    """

    def __init__(self, app: ASGIApp, public_url: str | None, proxies: TrustedProxies) -> None:
        self._app = app
        self._public_url = public_url
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store both in the request's state."""
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            state[BASE_URL] = self._public_url or self._seen_url(scope)
            state[CLIENT_ADDRESS] = self._proxies.client(scope)
        await self._app(scope, receive, send)

    def _seen_url(self, scope: Scope) -> str:
        headers = self._proxies.headers(scope)
        scheme = _first(headers.get("x-forwarded-proto")) or scope["scheme"]
        host = _first(headers.get("x-forwarded-host")) or headers.get("host", "")
        prefix = _first(headers.get("x-forwarded-prefix")) or ""
        return f"{scheme}://{host}{prefix}".rstrip("/")


def _first(header: str | None) -> str | None:
    """Return the first value of a header that each proxy on the way appends to."""
    return header.split(",")[0].strip() if header else None


class AnswerHeaders:
    """Names the loaded model in `x-qwen-edit-model`, whichever model id the request named.

    Headers hold printable ASCII only: the rest of a name, spaces and `%` are percent-encoded.
    `x-qwen-edit-warnings` is a JSON list of sentences, for bodies without a field of their own;
    `note_warnings` sets them.
    """

    def __init__(self, app: ASGIApp, model_name: Callable[[], str]) -> None:
        self._app = app
        self._model_name = model_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers to the start of every HTTP response."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                name = urllib.parse.quote(self._model_name(), _SAFE, errors="surrogateescape")
                headers = MutableHeaders(scope=message)
                headers["x-qwen-edit-model"] = name
                if warnings := scope.get("state", {}).get(WARNINGS):
                    headers["x-qwen-edit-warnings"] = json.dumps(warnings)
            await send(message)

        await self._app(scope, receive, send_named if scope["type"] == "http" else send)


class OwnHost:
    """Refuses foreign Host headers where no key is needed.

    A web page may point its own name at 127.0.0.1; the browser then takes this server for the
    page's own, and the page could read and send anything (DNS rebinding). An IP address cannot be
    pointed elsewhere, so every address passes.
    """

    def __init__(
        self,
        app: ASGIApp,
        public_url: str | None,
        render: Callable[[str, Problem], JSONResponse],
    ) -> None:
        """Accept the host of `public_url` as well. `render` receives the request's path."""
        self._app = app
        self._public_host = urllib.parse.urlsplit(public_url or "").hostname
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 when the Host header is a foreign name."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if not host or self._is_own(host):
            await self._app(scope, receive, send)
            return
        error = WrongHost(
            f"This server does not answer to the host {host[:80]!r}. Use its IP address, or set "
            f"QWEN_EDIT_PUBLIC_URL to the URL that its proxy serves."
        )
        refusal = self._render(scope["path"], problem_of(error))
        await refusal(scope, receive, UnadmittedBody(scope, receive, send).send)

    def _is_own(self, host: str) -> bool:
        try:
            name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name.endswith(".localhost") or name == self._public_host:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class BodyLimit:
    """Refuses a body that is too large, in the shape of the path's contract.

    FastAPI has such a limit too, but answers a declared length in plain text.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: Callable[[str], int],
        render: Callable[[str, Problem], JSONResponse],
    ) -> None:
        """`max_bytes` and `render` receive the request's path."""
        self._app = app
        self._max_bytes = max_bytes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413: before the body is read if its length is declared, else while it arrives."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, allowed = 0, self._max_bytes(scope["path"])

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > allowed:
                # the only exception that FastAPI lets through its parsing of the body
                raise HTTPException(PayloadTooLarge.status, _refusal("more", allowed))
            return message

        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > allowed:
            error = PayloadTooLarge(_refusal(f"{int(declared) / 2**20:.0f} MiB", allowed))
            await self._render(scope["path"], problem_of(error))(scope, receive, send)
        else:
            await self._app(scope, receive_counted, send)


def _refusal(received: str, allowed: int) -> str:
    return f"The request has {received}; at most {allowed / 2**20:.0f} MiB are allowed."
