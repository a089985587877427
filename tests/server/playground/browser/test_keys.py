"""The page of a server with keys: nothing is open without one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from tests.live_server import LiveServer, is_alive
from tests.server.playground.browser.conftest import (
    LONG_STEP,
    TIMEOUT_MS,
    fill_form,
    make_it_long,
    run,
)
from tests.server.playground.conftest import with_page

KEYS = "first-key-for-tests,second-key-for-tests"
# Requests of the page, uploads and the queue included.
CLOSED = (
    ("GET", "/config"),
    ("GET", "/theme.css"),
    ("GET", "/assets/index.js"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/file=page/examples/recolor-1.png"),
    ("GET", "/gradio_api/heartbeat/abc"),
    ("GET", "/gradio_api/queue/data?session_hash=abc"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/upload"),
)


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tiny_model, tmp_path_factory.mktemp("keyed"), PAGE="true", API_KEYS=KEYS)
    try:
        yield with_page(server.start())
    finally:
        server.close()


def test_login_opens_the_page_and_survives_a_reload(
    keyed: LiveServer, browser: Browser, image_file: Path
) -> None:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto(keyed.url)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Open the page").click()
    expect(page.get_by_role("alert")).to_contain_text("not valid")

    page.get_by_label("API key").fill("second-key-for-tests")
    page.keyboard.press("Enter")
    expect(page.locator("#run")).to_be_visible()
    fill_form(page, image_file)
    run(page)
    page.get_by_role("tab", name="As code").click()
    expect(page.locator("#curl")).to_contain_text("Bearer $QWEN_EDIT_KEY")
    expect(page.locator("#history")).to_contain_text("Everyone with a key")
    page.reload()

    expect(page.locator("#history .qe-entry")).to_have_count(1)
    cookie = context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "second-key" not in cookie["value"]
    context.close()


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_request_without_a_key_is_refused(keyed: LiveServer, method: str, path: str) -> None:
    answer = keyed.http.request(method, keyed.url + path)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"


def test_root_shows_the_login_form_without_a_key(keyed: LiveServer) -> None:
    answer = keyed.http.get(keyed.url)

    assert answer.status_code == 401
    assert "API key" in answer.text
    assert "gradio" not in answer.text


def test_forged_cookie_is_refused(keyed: LiveServer) -> None:
    for value in ("", "x", "0" * 64, "first-key"):
        headers = {"Cookie": f"qwen_edit_page={value}"}

        assert keyed.http.get(f"{keyed.url}/config", headers=headers).status_code == 401


def test_server_stops_quickly_while_a_page_is_open(
    start_server: Callable[..., LiveServer], browser: Browser, image_file: Path
) -> None:
    server = with_page(start_server(PAGE="true"))
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#run")).to_be_visible()
    expect(page.locator(".qe-model")).to_be_visible()
    fill_form(page, image_file)
    make_it_long(page)
    page.locator("#run").click()
    expect(page.locator("#progress")).to_contain_text(LONG_STEP)
    workers = server.worker_pids()

    seconds = server.stop()

    context.close()
    # without waiting for the edit or the open stream, which take minutes
    assert seconds < 15
    assert server.process.returncode == 0
    assert not any(map(is_alive, workers))
    assert "Traceback" not in server.log()


def test_requests_of_other_sites_are_refused(page_server: LiveServer) -> None:
    headers = {"Origin": "http://evil.example"}
    answers: list[httpx2.Response] = [
        page_server.http.post(f"{page_server.url}/gradio_api/queue/join", headers=headers, json={}),
        page_server.http.post(f"{page_server.url}/gradio_api/upload", headers=headers),
        page_server.http.get(f"{page_server.url}/config", headers=headers),
        page_server.http.get(f"{page_server.url}/config", headers={"Origin": "null"}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
