"""Takes the screenshot of the page in README.md: starts a server, runs an example, saves a PNG."""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1280, "height": 940}
# A larger file is saved again with 256 colours.
MAX_BYTES = 300_000
START_TIMEOUT_S = 60.0
# Includes loading the model.
EDIT_TIMEOUT_MS = 180_000


def main() -> None:
    """Write the screenshot to the given path."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG to write")
    parser.add_argument("--model", default="demo", help="name, directory or cached hub id [demo]")
    parser.add_argument("--example", default="Make the circle green", help="the example to run")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: chromium not found. On Debian and Ubuntu: apt install chromium")
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(args.model, Path(folder)) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(url)
        png = run_example(page, args.example)
        browser.close()
    image = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    image.save(args.path, optimize=True)
    if args.path.stat().st_size > MAX_BYTES:
        image.quantize(256).save(args.path, optimize=True)
    print(f"{args.path}: {args.path.stat().st_size / 1000:.0f} kB")


def run_example(page: Page, example: str) -> bytes:
    """Run an example and return a screenshot of its result as PNG."""
    expect(page.locator("#run")).to_be_visible(timeout=EDIT_TIMEOUT_MS)
    page.get_by_role("button", name=example, exact=True).click()
    expect(page.locator("#image-1 img")).to_be_visible()
    page.locator("#run").click()
    expect(page.locator("#outputs .qe-output")).to_be_visible(timeout=EDIT_TIMEOUT_MS)
    expect(page.locator("#compare img")).to_have_count(2)
    expect(page.locator(".qe-ready")).to_be_visible()
    page.wait_for_function(
        "[...document.querySelectorAll('#compare img')].every((image) => image.complete)"
    )
    page.locator("h1").click()  # takes the focus out of the fields
    return page.screenshot()


@contextmanager
def serving(model: str, folder: Path) -> Iterator[str]:
    """Start a server with this repository's weights and yield its address."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "server.cli", "serve", "--port", "0", "--model", model]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--data-dir", str(folder / "data")],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        yield address(log)
    finally:
        server.terminate()
        server.wait()


def address(log: Path) -> str:
    """Wait until the page is ready, and return the server's address."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        text = log.read_text()
        found = re.search(r"listens on (https?://\S+)", text)
        if found and "the page is ready" in text:
            return found[1]
        time.sleep(0.1)
    sys.exit(f"error: the page did not start:\n{log.read_text()}")


if __name__ == "__main__":
    main()
