"""What is done to every request and response, as plain ASGI.

Starlette's function middleware would stand between an event stream and its client.
"""

import ipaddress
import urllib.parse
from collections.abc import Callable

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import PayloadTooLarge, WrongHost
from server.web.problem import Problem, problem_of


class ModelHeader:
    """Whatever model id a provider's path names, `x-qwen-edit-model` says which model answers."""

    def __init__(self, app: ASGIApp, model_name: Callable[[], str]) -> None:
        self._app = app
        self._model_name = model_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header to the start of every HTTP response."""

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-qwen-edit-model"] = self._model_name()
            await send(message)

        await self._app(scope, receive, send_named if scope["type"] == "http" else send)


class OwnHost:
    """Answers on this machine's own names alone, where nobody needs a key.

    A web page may have its own name lead to 127.0.0.1; the browser then takes this server for the
    page's, and the page could read and send whatever it likes (DNS rebinding). An address cannot
    be made to lead elsewhere, so all addresses pass.
    """

    def __init__(
        self,
        app: ASGIApp,
        public_url: str | None,
        render: Callable[[str, Problem], JSONResponse],
    ) -> None:
        """The host of `public_url` is one of the names. `render` is asked with the path."""
        self._app = app
        self._public_host = urllib.parse.urlsplit(public_url or "").hostname
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 where the Host header has a foreign name."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        if not host or self._is_own(host):
            await self._app(scope, receive, send)
            return
        error = WrongHost(
            f"This server does not answer as {host[:80]!r}. Ask for it by its address, or set "
            f"QWEN_EDIT_PUBLIC_URL to the URL that a proxy gives it."
        )
        await self._render(scope["path"], problem_of(error))(scope, receive, send)

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
    """Refuses a body that is too large, in the shape of the contract it is for.

    FastAPI has such a limit too, but answers a declared length in plain text.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: Callable[[str], int],
        render: Callable[[str, Problem], JSONResponse],
    ) -> None:
        """`max_bytes` and `render` are asked with the request's path."""
        self._app = app
        self._max_bytes = max_bytes
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 before the body is read where its length is declared, else when it is met."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        received, allowed = 0, self._max_bytes(scope["path"])

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > allowed:
                # FastAPI lets an HTTPException through its parsing of the body, and no other
                raise HTTPException(PayloadTooLarge.status, _sentence("more", allowed))
            return message

        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > allowed:
            came = f"{int(declared) / 2**20:.0f} MiB"
            error = PayloadTooLarge(_sentence(came, allowed))
            await self._render(scope["path"], problem_of(error))(scope, receive, send)
        else:
            await self._app(scope, receive_counted, send)


def _sentence(came: str, allowed: int) -> str:
    return f"The request has {came}; at most {allowed / 2**20:.0f} MiB are allowed."
