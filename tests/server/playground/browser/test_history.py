"""Reloading the page, and the buttons of the history."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.live_server import LiveServer
from tests.server.playground.browser.conftest import (
    LONG_STEP,
    add_image,
    choose_lora,
    fill_form,
    make_it_long,
    run,
)

NAMES = ("before", "after")


def test_reload_restores_the_last_edit_and_the_history(page: Page, image_file: Path) -> None:
    fill_form(page, image_file, "Make it survive")
    run(page)

    page.reload()

    expect(page.locator("#history .qe-entry").first).to_contain_text("Make it survive")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make it survive")
    expect(page.locator("#image-1 img")).to_be_visible()
    expect(page.locator("#compare img")).to_have_count(2)


def test_reload_restores_the_fields(page: Page, image_file: Path) -> None:
    fill_form(page, image_file, "The one that was run")
    run(page)
    page.get_by_label("Prompt", exact=True).fill("The one being written")
    page.get_by_label("Seed", exact=True).fill("4711")
    expect(page.get_by_label("Lock")).to_be_checked()
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_label("LoRA 1").fill("https://example.com/mine.safetensors")
    page.get_by_label("LoRA 1").press("Enter")
    add_image(page, image_file, slot=2)
    page.get_by_role("tab", name="As code").click()
    # the server has seen the fields, and the browser has stored the form
    expect(page.locator("#curl")).to_contain_text("mine.safetensors")
    expect(page.locator("#curl").get_by_text("my ball.png")).to_have_count(2)

    page.reload()

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("The one being written")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4711")
    expect(page.get_by_label("Lock")).to_be_checked()
    expect(page.get_by_label("LoRA 1")).to_have_value("https://example.com/mine.safetensors")
    expect(page.locator("#image-2 img")).to_be_visible()
    expect(page.locator("#compare img")).to_have_count(2)


def test_shown_result_keeps_cancel_of_the_running_edit(page: Page, image_file: Path) -> None:
    fill_form(page, image_file, "Shown meanwhile")
    run(page)
    make_it_long(page)
    page.locator("#run").click()
    expect(page.locator("#progress")).to_contain_text(LONG_STEP)
    # the last result stays, dimmed
    expect(page.locator("#compare")).to_have_css("opacity", "0.4")

    page.get_by_role("button", name="Show: Shown meanwhile").first.click()

    expect(page.locator("#compare img")).to_have_count(2)
    expect(page.locator("#run")).to_be_hidden()
    page.locator("#cancel").click()
    expect(page.locator("#progress")).to_contain_text("Canceled")
    expect(page.locator("#compare")).to_have_css("opacity", "1")


def test_reload_follows_the_running_edit(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    make_it_long(page)
    page.locator("#run").click()
    expect(page.locator("#progress")).to_contain_text(LONG_STEP)

    page.reload()

    expect(page.locator("#progress")).to_contain_text(LONG_STEP)
    page.locator("#cancel").click()
    expect(page.locator("#progress")).to_contain_text("Canceled")


def test_settings_of_an_edit_come_back_with_its_images(page: Page, image_file: Path) -> None:
    fill_form(page, image_file, "The first")
    choose_lora(page, "outline")
    page.locator("#scale-1 input[type=number]").fill("0.8")
    page.get_by_label("Seed", exact=True).fill("4711")
    expect(page.get_by_label("Lock")).to_be_checked()
    run(page)
    expect(page.locator("#history .qe-entry").first).to_contain_text("The first")
    page.get_by_role("button", name="Make the circle green", exact=True).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make the circle green")
    page.get_by_label("Seed", exact=True).fill("1")

    page.get_by_role("button", name="Use settings").first.click()

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("The first")
    expect(page.get_by_label("Seed", exact=True)).to_have_value("4711")
    expect(page.get_by_label("LoRA 1")).to_have_value("outline")
    expect(page.locator("#scale-1 input[type=number]")).to_have_value("0.8")
    expect(page.locator("#image-1 img")).to_be_visible()
    run(page)


def test_settings_of_an_edit_come_back_without_expired_images(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_form(page, image_file, "Expired")
    run(page)
    for upload in (page_server.data_dir / "uploads").iterdir():
        upload.unlink(missing_ok=True)
    page.get_by_label("Prompt", exact=True).fill("Something else")

    page.get_by_role("button", name="Use settings").first.click()

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Expired")
    expect(page.locator("#notice")).to_contain_text("no longer kept")
    page.get_by_role("button", name="Show: Expired").first.click()
    expect(page.locator("#compare")).to_contain_text("no longer kept")
    expect(page.locator("#compare img")).to_have_count(1)


def test_output_becomes_the_input(page: Page, page_server: LiveServer, image_file: Path) -> None:
    fill_form(page, image_file)
    run(page)
    first = page_server.http.get(f"{page_server.url}/v1/edits?limit=1").json()["items"][0]
    name = first["outputs"][0]["url"].rpartition("/")[2]

    page.locator("#outputs").get_by_role("button", name="Use as input").click()

    expect(page.locator(f'#image-1 img[src*="{name}"]')).to_be_visible()
    run(page)


def test_delete_removes_the_edit_and_its_output(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_form(page, image_file, "Delete me")
    run(page)
    entry = page.locator("#history .qe-entry", has_text="Delete me")

    shown = [page.locator(f"#compare .qe-{name}").get_attribute("src") for name in NAMES]
    assert [page.request.get(f"{page_server.url}/{each}").status for each in shown] == [200, 200]

    entry.get_by_role("button", name="Delete", exact=True).click()

    expect(entry).to_have_count(0)
    expect(page.locator("#compare img")).to_have_count(0)
    # the input is kept for other edits of it
    assert [page.request.get(f"{page_server.url}/{each}").status for each in shown] == [200, 404]
    jobs = page_server.http.get(f"{page_server.url}/v1/edits?limit=100").json()["items"]
    assert "Delete me" not in {job["prompt"] for job in jobs}
