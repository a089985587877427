"""An edit on the page: from the image to the download."""

import base64
import io
import re
from collections.abc import Callable
from pathlib import Path

import PIL.Image
from playwright.sync_api import Page, expect

from server.playground.examples import EXAMPLES
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.server.playground.browser.conftest import (
    LONG_STEP,
    PHONE,
    add_image,
    choose_lora,
    fill_form,
    make_it_long,
    run,
)

# The data of a browser's drag or paste, with a file in it.
TRANSFER = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: 'image/png'}));
  return transfer;
}"""


def transfer(page: Page, path: Path) -> object:
    return page.evaluate_handle(TRANSFER, [path.name, base64.b64encode(path.read_bytes()).decode()])


def test_edit_runs_from_drop_to_download(page: Page, image_file: Path) -> None:
    # into a slot, and elsewhere on the page
    dropped = {"dataTransfer": transfer(page, image_file)}
    page.locator("#image-1 button.upload-container").dispatch_event("drop", dropped)
    expect(page.locator("#image-1 img")).to_be_visible()
    page.locator("#prompt").dispatch_event("drop", dropped)
    expect(page.locator("#image-2 img")).to_be_visible()
    page.get_by_label("Prompt", exact=True).fill("Make it blue")

    run(page)

    expect(page.locator("#compare img")).to_have_count(2)
    with page.expect_download() as waiting:
        page.locator("#outputs").get_by_role("link", name="Download").click()
    assert re.fullmatch(r"edit-\d+\.png", waiting.value.suggested_filename)
    assert PIL.Image.open(io.BytesIO(waiting.value.path().read_bytes())).size == (256, 256)


def test_pasted_images_fill_the_first_empty_slots(page: Page, image_file: Path) -> None:
    add_image(page, image_file)

    # the second before the first is uploaded
    page.evaluate(
        "(data) => [1, 2].forEach(() => document.body.dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: data, bubbles: true})))",
        transfer(page, image_file),
    )

    expect(page.locator("#image-2 img")).to_be_visible()
    expect(page.locator("#image-3 img")).to_be_visible()


def test_result_opens_on_after_and_shows_before_by_key_or_while_held(
    page: Page, image_file: Path
) -> None:
    fill_form(page, image_file)
    run(page)
    before = page.locator("#compare .qe-overlay")
    hidden_share = "element => getComputedStyle(element).clipPath.match(/[0-9.]+%/)?.[0] ?? '0%'"
    assert before.evaluate(hidden_share) == "100%"

    page.get_by_role("slider", name="Before and after").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert before.evaluate(hidden_share) == "90%"

    page.get_by_role("button", name="Hold to compare").hover()
    page.mouse.down()
    assert before.evaluate(hidden_share) == "0%"
    page.mouse.up()
    assert before.evaluate(hidden_share) == "90%"
    # both have loaded from this server in full size
    for name in ("before", "after"):
        width = f"document.querySelector('#compare .qe-{name}').naturalWidth"
        page.wait_for_function(f"{width} === 256")


def test_url_adds_an_image(page: Page, file_host: tuple[str, Path]) -> None:
    url, folder = file_host
    (folder / "cat.png").write_bytes(encoded(gradient(320, 256)))

    page.get_by_label("Image URL").fill(f"{url}/cat.png")
    page.get_by_label("Image URL").press("Enter")

    expect(page.locator("#image-1 img")).to_be_visible()
    expect(page.get_by_label("Image URL")).to_have_value("")


def test_example_fills_in_image_and_prompt(page: Page) -> None:
    page.get_by_role("button", name="Make the circle green", exact=True).click()

    expect(page.locator("#image-1 img")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make the circle green")


def test_run_passes_all_settings_to_the_engine(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_form(page, image_file, "Make it “blue” & <b>bold</b>")
    add_image(page, image_file, 3)
    choose_lora(page, "sepia", 1)
    choose_lora(page, "outline", 2)
    page.locator("#scale-2 input[type=number]").fill("0.35")
    page.get_by_label("Size", exact=True).click()
    page.get_by_role("option", name="Custom").click()
    page.locator("#width input[type=number]").fill("272")
    page.locator("#height input[type=number]").fill("256")
    page.get_by_label("Outputs").fill("2")
    page.get_by_label("Seed", exact=True).fill("77")
    expect(page.get_by_label("Lock")).to_be_checked()
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Negative prompt").fill("red")
    page.get_by_label("Steps").fill("2")
    page.get_by_label("CFG scale").fill("3")
    page.get_by_label("WEBP").check()

    run(page)

    expect(page.locator("#outputs .qe-output")).to_have_count(2)
    job = page_server.http.get(f"{page_server.url}/v1/edits?limit=1").json()["items"][0]
    assert (job["contract"], job["prompt"]) == ("page", "Make it “blue” & <b>bold</b>")
    assert [output["seed"] for output in job["outputs"]] == [77, 78]
    assert {output["content_type"] for output in job["outputs"]} == {"image/webp"}
    assert {(output["width"], output["height"]) for output in job["outputs"]} == {(272, 256)}
    assert job["steps"] == 4
    entry = page.locator("#history .qe-entry").first
    expect(entry).to_contain_text("sepia × 1")
    expect(entry).to_contain_text("outline × 0.35")
    expect(entry).to_contain_text("Make it “blue” & <b>bold</b>")


def test_typed_seed_is_locked_and_used(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_label("Seed", exact=True).press_sequentially("42")
    expect(page.get_by_label("Lock")).to_be_checked()

    run(page)

    expect(page.locator("#outputs")).to_contain_text("seed 42")
    page.get_by_label("Seed", exact=True).fill("")
    expect(page.get_by_label("Lock")).not_to_be_checked()


def test_seed_changes_with_every_run_unless_it_is_locked(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    seed = page.get_by_label("Seed", exact=True)
    run(page)
    first = seed.input_value()
    run(page)
    expect(seed).not_to_have_value(first)
    second = seed.input_value()

    page.get_by_label("Lock").check()
    run(page)

    assert first != second == seed.input_value()


def test_cancel_ends_the_running_job(page: Page, page_server: LiveServer, image_file: Path) -> None:
    fill_form(page, image_file)
    make_it_long(page)
    page.get_by_role("tab", name="As code").click()
    page.locator("#run").click()
    # Run selects the tab with the progress
    expect(page.locator("#progress")).to_be_visible()
    expect(page.locator("#progress")).to_contain_text(LONG_STEP)
    expect(page.locator("#empty-result")).to_be_hidden()

    page.locator("#cancel").click()

    expect(page.locator("#progress")).to_contain_text("Canceled")
    expect(page.locator("#run")).to_be_visible()
    job = page_server.http.get(f"{page_server.url}/v1/edits?limit=1").json()["items"][0]
    assert job["status"] == "canceled"


def test_waiting_edit_shows_its_place_and_can_be_canceled(
    open_page: Callable[..., Page], image_file: Path
) -> None:
    pages = [open_page() for _ in range(2)]
    for each in pages:
        fill_form(each, image_file)
        make_it_long(each)
        each.locator("#run").click()
        expect(each.locator("#progress .qe-progress")).to_be_visible()

    expect(pages[1].locator("#progress")).to_contain_text("next in line")

    for each in reversed(pages):
        each.locator("#cancel").click()
        expect(each.locator("#progress")).to_contain_text("Canceled")


def test_keyboard_alone_runs_an_edit(page: Page) -> None:
    page.get_by_role("button", name="Make the circle green", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#image-1 img")).to_be_visible()
    for _ in EXAMPLES:
        page.keyboard.press("Tab")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"

    page.keyboard.press("Control+Enter")

    expect(page.locator("#outputs .qe-output")).to_be_visible()


def test_phone_does_not_scroll_sideways(open_page: Callable[..., Page], image_file: Path) -> None:
    page = open_page(viewport=PHONE)
    fill_form(page, image_file, "A word without spaces: " + "x" * 200)
    choose_lora(page, "sepia")
    run(page)
    expect(page.locator("#compare")).to_be_in_viewport()
    widths = []
    for tab in ("Result", "Grid", "As code"):
        page.get_by_role("tab", name=tab).click()
        widths.append(page.evaluate("document.documentElement.scrollWidth"))

    assert widths == [PHONE["width"]] * 3
