"""Who may use the page: a key once, then a cookie; and never another web page."""

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
    """Lets the requests of the page's own browser through, where keys are set with a cookie."""

    keys: KeyCheck

    def check_origin(self, request: Request) -> None:
        """Refuse what another web page has a browser send. Raises HTTPException."""
        origin = request.headers.get("origin")
        if origin is None:
            return
        own = {request.headers.get("host", ""), _host(base_url(request))}
        if _host(origin) not in own:
            raise HTTPException(403, f"This page takes no requests from {origin[:200]}.")

    def is_let_in(self, request: Request) -> bool:
        """Whether no key is needed, or the browser has shown one before."""
        return self.keys.accepts_token(request.cookies.get(COOKIE, ""))

    def check_cookie(self, request: Request) -> None:
        """Raise Unauthorized unless the browser has shown a key before."""
        if not self.is_let_in(request):
            raise Unauthorized("Open the page and give a key first.")

    async def let_in(self, request: Request) -> Response:
        """Look at the key in the form; the right one is answered with a cookie."""
        self.check_origin(request)
        async with request.form(max_files=0, max_fields=2) as form:
            key = str(form.get("key", "")).strip()
        if not self.keys.accepts(key):
            return self.ask(wrong=True)
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

    def ask(self, *, wrong: bool = False) -> HTMLResponse:
        """The form for a key."""
        return HTMLResponse(plain_pages.login(wrong=wrong), 401)


def _host(origin: str) -> str:
    try:
        return urllib.parse.urlsplit(origin).netloc
    except ValueError:
        return ""
