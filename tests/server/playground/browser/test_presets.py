"""The menu of presets, and what the page says of how an edit was sampled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.playground.browser.conftest import choose_lora, fill_form, run

LAYER = "transformer_blocks.0.attn.to_q"
ANIME = 'title = "Anime, fast"\n[[loras]]\npath = "outline"\n[sampling]\nsteps = 2\nshift = 3\n'
FOUR = "Qwen-Lightning-4steps"


@pytest.fixture
def files(page_server: LiveServer) -> Iterator[None]:
    """A preset and a few-step LoRA, which other tests of the page do not expect."""
    preset = page_server.weights_dir / "presets" / "anime.toml"
    preset.parent.mkdir(exist_ok=True)
    preset.write_text(ANIME)
    lora = page_server.weights_dir / "loras" / f"{FOUR}.safetensors"
    write_lora(lora, random_pairs({LAYER: (64, 64)}, [LAYER]))
    yield
    preset.unlink()
    lora.unlink()


@pytest.mark.usefixtures("files")
def test_preset_is_chosen_from_a_menu_and_comes_back_with_its_edit(
    open_page: Callable[[], Page], page_server: LiveServer, image_file: Path
) -> None:
    page = open_page()
    fill_form(page, image_file)
    page.get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name="Anime, fast").click()
    choose_lora(page, "sepia")

    run(page)

    expect(page.locator("#outputs .qe-meta")).to_contain_text("2 steps, CFG 4, shift 3")
    [job] = page_server.http.get(f"{page_server.url}/v1/edits?limit=1").json()["items"]
    assert (job["preset"], job["sampling"]["source"]["steps"]) == ("anime", "preset")
    page.reload()
    expect(page.get_by_label("Preset", exact=True)).to_have_value("Anime, fast")


@pytest.mark.usefixtures("files")
def test_page_says_how_a_few_step_lora_is_sampled_and_what_contradicts_it(
    open_page: Callable[[], Page], image_file: Path
) -> None:
    page = open_page()
    fill_form(page, image_file)
    choose_lora(page, FOUR)
    run(page)
    expect(page.locator("#outputs .qe-meta")).to_contain_text(
        "4 steps, CFG 1, shift 3, no terminal"
    )

    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Steps").fill("6")
    run(page)

    expect(page.locator("#outputs .qe-notice")).to_contain_text(
        f"{FOUR}.safetensors is made for 4 steps; the request asks for 6."
    )


def test_menu_is_hidden_without_presets(page: Page) -> None:
    expect(page.locator("#preset")).to_be_hidden()
