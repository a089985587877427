"""Requests that the pages of other sites make a browser send."""

import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import WrongOrigin
from server.web.middleware import BASE_URL
from server.web.problem import Problem, problem_of
from server.web.unread_body import UnadmittedBody

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_FOREIGN_SITES = ("cross-site", "same-site")
_SHOWN_CHARS = 200


@dataclass(frozen=True, slots=True)
class OriginRule:
    """Refuses requests of other origins than the server's own and the `allowed` ones.

    `*` allows every origin. Clients other than browsers send no `Origin`, and pass.
    """

    allowed: tuple[str, ...]

    def check(self, scope: Scope) -> None:
        """Raise WrongOrigin for a request that a page of another origin makes a browser send.

        A safe request may come from a link on another site, which browsers report in
        `Sec-Fetch-Site`; for the others that header counts too.
        """
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if "*" in self.allowed or origin in self.allowed:
            return
        if origin is not None and _host(origin) not in _own_hosts(scope, headers):
            raise _refusal(repr(origin[:_SHOWN_CHARS]))
        is_unsafe = scope["method"] not in _SAFE_METHODS
        if is_unsafe and headers.get("sec-fetch-site", "").lower() in _FOREIGN_SITES:
            raise _refusal(repr(origin[:_SHOWN_CHARS]) if origin else "of another site")


class CrossSite:
    """Applies the rule to every unsafe request, before any of its body is read.

    A form or script of any page may send multipart and plain text to a server on loopback without
    a preflight; the browser only hides the response.
    """

    def __init__(
        self, app: ASGIApp, rule: OriginRule, render: Callable[[str, Problem], JSONResponse]
    ) -> None:
        """`render` receives the request's path."""
        self._app = app
        self._rule = rule
        self._render = render

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to an unsafe request of another origin."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS:
            try:
                self._rule.check(scope)
            except WrongOrigin as exc:
                refusal = self._render(scope["path"], problem_of(exc))
                await refusal(scope, receive, UnadmittedBody(scope, receive, send).send)
                return
        await self._app(scope, receive, send)


def _own_hosts(scope: Scope, headers: Headers) -> set[str]:
    """The hosts by which the client knows this server: the `Forwarded` middleware knows one."""
    hosts = {headers.get("host", "").lower(), _host(scope["state"][BASE_URL])}
    return hosts - {""}


def _host(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _refusal(origin: str) -> WrongOrigin:
    return WrongOrigin(
        f"Requests from the origin {origin} are refused. QWEN_EDIT_CORS_ORIGINS lists the origins "
        f"whose pages may use this server."
    )
