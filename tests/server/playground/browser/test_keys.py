"""The page of a server with keys: nothing is open without one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.live_server import LiveServer, is_alive
from tests.server.playground.browser.conftest import (
    LONG_STEP,
    TIMEOUT_MS,
    fill_form,
    make_it_long,
    run,
)
from tests.server.playground.conftest import with_page

ALICE, BOB = "alice-key-for-tests", "bob-key-for-tests"
KEYS = f"first-key-for-tests,second-key-for-tests,alice={ALICE},bob={BOB}"
_WRITE_STORAGE = "(values) => Object.assign(localStorage, values)"
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
    expect(page.locator("#history")).to_contain_text("you see the edits of every key")
    page.reload()

    expect(page.locator("#history .qe-entry")).to_have_count(1)
    cookie = context.cookies()[0]
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    assert "second-key" not in cookie["value"]
    context.close()


def log_in(browser: Browser, url: str, key: str) -> Page:
    page = browser.new_context().new_page()
    page.context.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.locator(".qe-model")).to_be_visible()
    return page


def test_page_shows_each_key_its_own_edits_alone(
    keyed: LiveServer, browser: Browser, image_file: Path
) -> None:
    alice, bob = (log_in(browser, keyed.url, key) for key in (ALICE, BOB))
    for page, prompt in ((alice, "Make it red"), (bob, "Make it green")):
        fill_form(page, image_file, prompt)
        run(page)
    entries = alice.locator("#history .qe-entry")
    expect(entries).to_have_count(1)
    expect(entries).to_contain_text("Make it red")

    # the last edit that bob's browser remembers is alice's
    bob.evaluate(_WRITE_STORAGE, alice.evaluate("() => ({...localStorage})"))
    alice.reload()
    expect(alice.locator("#outputs .qe-outputs")).to_be_visible()
    bob.reload()
    expect(bob.locator("#history .qe-entry")).to_have_count(1)
    expect(bob.locator("#history")).to_contain_text("Make it green")
    expect(bob.locator("#history")).not_to_contain_text("you see the edits of every key")
    assert bob.locator("#outputs .qe-outputs").count() == 0

    for page in (alice, bob):
        page.context.close()


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

    seconds = server.stop(signal.SIGINT)

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
