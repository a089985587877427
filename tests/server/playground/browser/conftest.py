"""One browser for all tests of the page; each test opens its own page."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect, sync_playwright

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer

TIMEOUT_MS = 90_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# An edit that still runs when Cancel is pressed, on any machine.
LONG = {"steps": "100", "outputs": "6", "size": "Square · 1024 × 1024"}
LONG_STEP = re.compile(r"Step \d+ of 600")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium of this machine, closed after this package: async tests cannot run beside it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        message = "The page's tests need Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        # its sandbox does not start as root in a container
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


class Visit:
    """An open page, its requests and its errors."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.missing: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("response", self._note_missing)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note_missing(self, response: Response) -> None:
        # Gradio asks for the progress of an upload that may not have started
        if response.status in (404, 405) and "/upload_progress" not in response.url:
            self.missing.append(response.url)

    def foreign(self) -> list[str]:
        """The requests to other hosts than the page's."""
        own = urlsplit(self.url).netloc
        found = [each for each in self.requests if each.startswith(("http", "ws"))]
        return [each for each in found if urlsplit(each).netloc != own]


@pytest.fixture
def open_page(browser: Browser, page_server: LiveServer) -> Iterator[Callable[..., Page]]:
    """Open the page in a fresh browser profile. Fails if a request leaves the machine."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def visit(*, viewport: dict[str, int] | None = None, server: LiveServer = page_server) -> Page:
        context = browser.new_context(viewport=viewport or DESKTOP, accept_downloads=True)
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        visits.append(Visit(context.new_page(), server.url))
        page = visits[-1].page
        page.goto(server.url)
        expect(page.locator("#run")).to_be_visible()
        # the load events have been answered
        expect(page.locator(".qe-model")).to_be_visible()
        return page

    yield visit
    for context in contexts:
        context.close()
    # the next test finds an idle server and an empty history
    page_server.forget_edits()
    for seen in visits:
        assert seen.foreign() == []
        assert seen.errors == []
        assert seen.missing == []


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The page on a desktop screen."""
    return open_page()


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image on the user's disk."""
    path = tmp_path_factory.mktemp("images") / "my ball.png"
    path.write_bytes(encoded(gradient(256, 256)))
    return path


def add_image(page: Page, path: Path, slot: int = 1) -> None:
    """Choose a file for a slot."""
    page.locator(f"#image-{slot} input[type=file]").set_input_files(path)
    expect(page.locator(f"#image-{slot} img")).to_be_visible()


def fill_form(page: Page, path: Path, prompt: str = "Make it blue") -> None:
    """Fill in the image and the prompt."""
    add_image(page, path)
    page.get_by_label("Prompt", exact=True).fill(prompt)


def make_it_long(page: Page) -> None:
    """Fill in values for an edit that takes minutes."""
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Steps").fill(LONG["steps"])
    page.get_by_label("Outputs").fill(LONG["outputs"])
    page.get_by_label("Size", exact=True).click()
    page.get_by_role("option", name=LONG["size"]).click()


def choose_lora(page: Page, name: str, row: int = 1) -> None:
    """Choose a LoRA in a row."""
    if not page.locator("#lora-1").is_visible():
        page.get_by_role("button", name="LoRAs").click()
    page.get_by_label(f"LoRA {row}").click()
    page.locator(f"#lora-{row}").get_by_role("option", name=name).click()


def run(page: Page) -> None:
    """Press Run and wait for the result of this run."""
    shown = page.locator("#outputs .qe-outputs")
    before = shown.get_attribute("data-job") if shown.count() else "none"
    page.locator("#run").click()
    expect(page.locator(f'#outputs .qe-outputs:not([data-job="{before}"])')).to_be_visible()
    expect(page.locator("#run")).to_be_visible()
