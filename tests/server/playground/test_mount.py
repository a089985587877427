"""The page at `/`: what replaces it, what it forwards, and what it leaves to the API."""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI, Request, Response
from starlette.testclient import TestClient

from server.caller import parse_key
from server.errors import ServerError
from server.playground import PageContext, Playground
from server.settings import Settings
from server.web.auth import KeyCheck
from server.web.middleware import Forwarded
from server.web.problem import problem_of
from server.web.proxies import TrustedProxies
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer, until


def client_of(keys: tuple[str, ...] = (), public_url: str | None = None) -> TestClient:
    """The page's routes alone, before Gradio is imported."""
    check = KeyCheck([parse_key(key) for key in keys])
    context = cast(PageContext, FakeContext(Settings(), check))
    app = FastAPI()
    app.add_middleware(Forwarded, public_url=public_url, proxies=TrustedProxies([]))
    app.router.routes.extend(Playground(context).routes())

    @app.exception_handler(ServerError)
    async def render(request: Request, exc: Exception) -> Response:
        return Response(status_code=problem_of(exc).status)

    return TestClient(app, base_url="http://here:8000", follow_redirects=False)


class FakeContext:
    def __init__(self, settings: Settings, keys: KeyCheck) -> None:
        self.settings = settings
        self.keys = keys


def test_root_reloads_itself_while_the_page_starts() -> None:
    answer = client_of().get("/")

    assert answer.status_code == 200
    assert "Starting" in answer.text
    assert 'http-equiv="refresh"' in answer.text
    assert client_of().get("/config").status_code == 503


def test_root_says_how_to_install_the_page_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    answer = client_of().get("/")

    assert answer.status_code == 200
    assert "pip install" in answer.text
    assert "[page]" in answer.text


def test_root_refuses_other_methods_than_get() -> None:
    assert client_of().post("/").status_code == 405


def test_login_sets_a_cookie_for_a_valid_key() -> None:
    client = client_of(("right-key-for-tests",))
    assert client.get("/").status_code == 401
    assert client.post("/login", data={"key": "wrong"}).status_code == 401
    assert client.post("/login", data={}).status_code == 401

    answer = client.post("/login", data={"key": " right-key-for-tests "})

    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert "right-key-for-tests" not in cookie
    assert "Starting" in client.get("/").text


def test_cookie_of_a_removed_key_is_refused() -> None:
    token = KeyCheck([parse_key("old-key-for-tests")]).token("old-key-for-tests", time.time() + 60)

    answer = client_of(("new-key-for-tests",)).get(
        "/config", headers={"Cookie": f"qwen_edit_page={token}"}
    )

    assert answer.status_code == 401


def test_cookie_is_secure_when_the_page_is_page_server_over_https() -> None:
    client = client_of(("right-key-for-tests",), public_url="https://images.example/edit")

    answer = client.post("/login", data={"key": "right-key-for-tests"})

    assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://here:8000", 200),
        ("https://images.example", 200),
        ("http://here:9000", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_requests_of_other_sites_are_refused(origin: str, status: int) -> None:
    client = client_of(public_url="https://images.example/edit")

    assert client.get("/", headers={"Origin": origin}).status_code == status


def test_api_keeps_its_errors_beside_the_page(page_server: LiveServer) -> None:
    get: Callable[[str], Any] = lambda path: page_server.http.get(page_server.url + path)  # noqa: E731

    for path in ("/nothing", "/v1/nothing", "/gradio", "/login", "/monitoring"):
        assert set(get(path).json()["error"]) == {"code", "message", "field"}, path
    assert get("/api/v3/nothing").json()["code"] == 404
    assert page_server.http.put(f"{page_server.url}/v1/edits").status_code == 405
    assert page_server.http.post(page_server.url).status_code == 405
    assert get("/docs").status_code == 200
    assert get("/").headers["x-qwen-edit-model"] == "tiny"


def test_page_refuses_files_that_are_not_its_own(page_server: LiveServer) -> None:
    for path in (Path(__file__), page_server.data_dir / "jobs.sqlite3", Path("/etc/passwd")):
        answer = page_server.http.get(f"{page_server.url}/gradio_api/file={path}")

        assert answer.status_code == 403, path


def test_page_downloads_nothing_for_a_browser(page_server: LiveServer) -> None:
    join(page_server, {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}})

    until(lambda: "the page downloads nothing" in page_server.log())


def join(page_server: LiveServer, image: dict[str, Any]) -> None:
    """Send what a browser sends after `image` was put into the first slot."""
    config = page_server.http.get(f"{page_server.url}/config").json()
    slot = next(each for each in config["components"] if each["type"] == "image")
    event = next(each for each in config["dependencies"] if each["inputs"][:1] == [slot["id"]])
    body = {
        "data": [image, *[None] * (len(event["inputs"]) - 1)],
        "fn_index": event["id"],
        "session_hash": "abc",
    }
    page_server.http.post(f"{page_server.url}/gradio_api/queue/join", json=body).raise_for_status()


def test_page_refuses_a_local_path_as_an_upload(page_server: LiveServer) -> None:
    secret = page_server.folder / "secret.txt"
    secret.write_text("the password")

    join(page_server, {"path": str(secret), "meta": {"_type": "gradio.FileData"}})

    until(lambda: "was not uploaded by a user" in page_server.log())
    assert not list((page_server.data_dir / "page" / "cache").rglob("secret.txt"))


@pytest.mark.parametrize(
    "path",
    [
        "file=http://127.0.0.1:9/a.png",
        "file=HTTPS://example.com/a.png",
        "file/http://example.com/a.png",
        "proxy=https://a.hf.space/",
        "deep_link?session_hash=abc",
        "run/predict",
        "call/predict",
        "api/predict",
    ],
)
def test_other_paths_of_gradio_are_not_page_server(page_server: LiveServer, path: str) -> None:
    for method in ("GET", "POST"):
        answer = page_server.http.request(method, f"{page_server.url}/gradio_api/{path}")

        assert answer.status_code in (404, 405), method
        assert "Gradio" not in answer.text


def test_uploaded_script_is_sandboxed(page_server: LiveServer) -> None:
    uploads = f"{page_server.url}/gradio_api/upload"
    for name in ("evil.html", "evil.svg"):
        script = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
        path = page_server.http.post(uploads, files={"files": (name, script)}).json()[0]

        answer = page_server.http.get(f"{page_server.url}/gradio_api/file={path}")

        assert answer.status_code == 200
        assert answer.headers["content-security-policy"] == "sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment")


def test_gradio_telemetry_is_off(page_server: LiveServer) -> None:
    config = page_server.http.get(f"{page_server.url}/config").json()

    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["footer_links"] == []


def test_thumbnail_on_the_page_needs_its_cookie_and_comes_from_no_other_site() -> None:
    path = "/lora-thumbnails/style.safetensors"
    foreign = {"Origin": "http://evil.example"}

    assert client_of(("admin:me=a-key-of-sixteen",)).get(path).status_code == 401
    assert client_of().get(path, headers=foreign).status_code == 403


def test_thumbnail_on_the_page_is_served_as_an_image(page_server: LiveServer) -> None:
    png = encoded(gradient())
    (page_server.weights_dir / "loras" / "sepia.preview.png").write_bytes(png)

    image = page_server.http.get(f"{page_server.url}/lora-thumbnails/sepia.safetensors")
    none = page_server.http.get(f"{page_server.url}/lora-thumbnails/outline.safetensors")

    assert (image.status_code, image.content) == (200, png)
    assert image.headers["content-type"] == "image/png"
    assert image.headers["x-content-type-options"] == "nosniff"
    assert none.status_code == 404
