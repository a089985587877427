"""LoRAs on the page: their facts where people choose, and one click to use them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pipelines.files.architecture import read_linears
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.playground.browser.conftest import PHONE, choose_lora


@pytest.fixture
def told(page_server: LiveServer, tiny_model: Path) -> Iterator[Path]:
    """A LoRA that says everything about itself."""
    linears = read_linears(tiny_model)
    metadata = {
        "modelspec.title": "Oil <b>& Canvas</b>",
        "modelspec.usage_hint": "best on portraits",
        "trained_words": json.dumps(["<sks> oil", "impasto"]),
    }
    path = write_lora(
        page_server.weights_dir / "loras" / "told-lightning-4steps.safetensors",
        random_pairs(linears, list(linears)[:4], rank=16),
        metadata=metadata,
    )
    path.with_suffix(".json").write_text('{"preferred weight": 0.8}')
    path.with_suffix(".preview.png").write_bytes(encoded(gradient()))
    yield path
    for made in page_server.weights_dir.glob("loras/told-*"):
        made.unlink()


def test_chosen_lora_shows_its_facts_and_thumbnail(told: Path, page: Page) -> None:
    choose_lora(page, told.stem)

    about = page.locator("#lora-about-1")
    expect(about.locator(".qe-lora-title")).to_have_text("Oil <b>& Canvas</b>")
    expect(about).to_contain_text("LoRA · rank 16")
    expect(about).to_contain_text("4 steps, CFG 1")
    expect(about).to_contain_text("best on portraits")
    expect(about.locator("img")).to_have_js_property("naturalWidth", 96)


def test_one_click_puts_a_trigger_word_into_the_prompt(told: Path, page: Page) -> None:
    choose_lora(page, told.stem)
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("Make it blue")

    word = page.get_by_role("button", name="<sks> oil")
    word.click()
    expect(prompt).to_have_value("Make it blue, <sks> oil")
    page.get_by_role("button", name="impasto").click()
    expect(prompt).to_have_value("Make it blue, <sks> oil, impasto")
    word.click()
    # a word that is there already is not added again
    page.locator("#lora-about-1").get_by_role("button", name="0.8").click()
    expect(page.locator("#scale-1 input[type=number]")).to_have_value("0.8")
    expect(prompt).to_have_value("Make it blue, <sks> oil, impasto")


def test_facts_follow_the_menu_and_come_back_after_a_reload(told: Path, page: Page) -> None:
    choose_lora(page, told.stem)
    expect(page.locator("#lora-about-1")).to_contain_text("rank 16")
    choose_lora(page, "outline", row=2)
    expect(page.locator("#lora-about-2")).to_contain_text("rank 4")

    page.reload()

    expect(page.locator("#lora-about-1")).to_contain_text("rank 16")
    expect(page.locator("#lora-about-2")).to_contain_text("rank 4")
    page.get_by_label("LoRA 1").fill("owner/repo@v1")
    page.get_by_label("LoRA 1").press("Enter")
    expect(page.locator("#lora-about-1")).to_be_hidden()


def test_file_that_is_no_lora_says_so_when_it_is_chosen(
    told: Path, open_page: Callable[..., Page]
) -> None:
    told.with_name("told-page.safetensors").write_text("<html>")
    page = open_page(viewport=PHONE)

    choose_lora(page, "told-page")

    expect(page.locator("#lora-about-1")).to_contain_text("looks like a web page")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
