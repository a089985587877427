"""Access to the page: an API key once, then a cookie; requests of other sites are refused."""

import urllib.parse
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from server.errors import Unauthorized
from server.playground import plain_pages
from server.web.auth import KeyCheck
from server.web.request import base_url

COOKIE = "qwen_edit_page"
COOKIE_AGE_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Access:
    """Checks that a request comes from this page and, where keys are set, has a valid cookie."""

    keys: KeyCheck

    def check_origin(self, request: Request) -> None:
        """Raise HTTPException (403) for a request that another site makes a browser send."""
        origin = request.headers.get("origin")
        if origin is None:
            return
        own = {request.headers.get("host", ""), _host(base_url(request))}
        if _host(origin) not in own:
            raise HTTPException(403, f"Requests from {origin[:200]} are refused.")

    def has_access(self, request: Request) -> bool:
        """Return whether no key is needed or the cookie of a valid key came."""
        return self.keys.accepts_token(request.cookies.get(COOKIE, ""))

    def check_cookie(self, request: Request) -> None:
        """Raise Unauthorized unless no key is needed or the cookie of a valid key came."""
        if not self.has_access(request):
            raise Unauthorized("Open the page and log in with a key first.")

    async def log_in(self, request: Request) -> Response:
        """Answer the login form: a cookie for a valid key, the form again for any other."""
        self.check_origin(request)
        async with request.form(max_files=0, max_fields=2) as form:
            key = str(form.get("key", "")).strip()
        if not self.keys.accepts(key):
            return self.login_page(wrong=True)
        # ./ and not /: behind a proxy the page may have a prefix
        answer = RedirectResponse("./", 303)
        is_secure = base_url(request).startswith("https://")
        answer.set_cookie(
            COOKIE,
            self.keys.token(key),
            max_age=COOKIE_AGE_S,
            httponly=True,
            secure=is_secure,
            samesite="lax",
        )
        return answer

    def login_page(self, *, wrong: bool = False) -> HTMLResponse:
        """The form that asks for an API key."""
        return HTMLResponse(plain_pages.login(wrong=wrong), 401)


def _host(origin: str) -> str:
    try:
        return urllib.parse.urlsplit(origin).netloc
    except ValueError:
        return ""
