"""The page with the demo model, as a newcomer finds it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.live_server import LiveServer
from tests.server.playground.browser.conftest import run
from tests.server.playground.conftest import with_page


@pytest.fixture
def demo_page(start_server: Callable[..., LiveServer], open_page: Callable[..., Page]) -> Page:
    server = with_page(start_server(model=Path("demo"), worker="real", PAGE="true"))
    return open_page(server=server)


def test_demo_model_runs_an_example_and_offers_only_its_sizes(demo_page: Page) -> None:
    expect(demo_page.locator(".qe-banner")).to_contain_text("demo model")
    demo_page.get_by_label("Size", exact=True).click()
    expect(demo_page.get_by_role("option")).to_have_count(4)
    options = [text.strip("✓\n ") for text in demo_page.get_by_role("option").all_inner_texts()]
    assert options == [
        "Like the last image", "Small square · 256 × 256", "Square · 512 × 512", "Custom…",
    ]  # fmt: skip
    demo_page.keyboard.press("Escape")
    demo_page.get_by_role("button", name="Move the circle to the left", exact=True).click()
    expect(demo_page.locator("#image-1 img")).to_be_visible()

    run(demo_page)

    expect(demo_page.locator("#compare img")).to_have_count(2)
