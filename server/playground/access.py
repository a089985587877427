"""Access to the page: an API key once, then a cookie; requests of other sites are refused."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from server.errors import TooManyLogins, Unauthorized
from server.playground import plain_pages
from server.playground.login_throttle import LoginThrottle
from server.web.auth import CALLER, KeyCheck
from server.web.origin import OriginRule
from server.web.problem import Problem, problem_of
from server.web.request import base_url, client_address
from server.web.unread_body import admit_body

COOKIE = "qwen_edit_page"
COOKIE_AGE_S = 12 * 3600


@dataclass(frozen=True, slots=True)
class Access:
    """Checks that a request comes from this page and, where keys are set, has a valid cookie."""

    keys: KeyCheck
    origins: OriginRule
    clock: Callable[[], float]
    throttle: LoginThrottle

    def check_origin(self, request: Request) -> None:
        """Raise WrongOrigin for a request, safe ones included, of another site's page."""
        self.origins.check(request.scope)

    def has_access(self, request: Request) -> bool:
        """Return whether no key is needed or the cookie of a valid key came; note its caller."""
        found = self.keys.caller_of_token(request.cookies.get(COOKIE, ""), self.clock())
        if found is not None:
            request.scope.setdefault("state", {})[CALLER] = found
        return found is not None

    def check_cookie(self, request: Request) -> None:
        """Admit the request's body. Raises Unauthorized where a key's cookie is needed."""
        if not self.has_access(request):
            raise Unauthorized("Open the page and log in with a key first.")
        admit_body(request)

    async def log_in(self, request: Request) -> Response:
        """Answer the login form: a cookie for a valid key, the form again for any other."""
        self.check_origin(request)
        address = client_address(request)
        try:
            self.throttle.check(address)
        except TooManyLogins as exc:
            return self.login_page(problem_of(exc))
        async with request.form(max_files=0, max_fields=2) as form:
            key = str(form.get("key", "")).strip()
        if self.keys.caller(key) is None:
            self.throttle.count_wrong(address)
            return self.login_page(problem_of(Unauthorized("This key is not valid.")))
        # ./ and not /: behind a proxy the page may have a prefix
        answer = RedirectResponse("./", 303)
        is_secure = base_url(request).startswith("https://")
        answer.set_cookie(
            COOKIE,
            self.keys.token(key, self.clock() + COOKIE_AGE_S),
            max_age=COOKIE_AGE_S,
            httponly=True,
            secure=is_secure,
            samesite="lax",
        )
        return answer

    def login_page(self, problem: Problem | None = None) -> HTMLResponse:
        """The form that asks for an API key, with what was wrong with the last one."""
        if problem is None:
            return HTMLResponse(plain_pages.login(None), Unauthorized.status)
        return HTMLResponse(plain_pages.login(problem.message), problem.status, problem.headers)
