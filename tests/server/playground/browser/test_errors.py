"""Bad input: an error at its field, and nothing typed is lost."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.live_server import LiveServer
from tests.lora_files import write_raw
from tests.server.playground.browser.conftest import (
    add_image,
    choose_lora,
    fill_form,
    make_it_long,
    run,
)


def test_missing_prompt_is_reported_at_the_prompt(page: Page, image_file: Path) -> None:
    add_image(page, image_file)

    page.locator("#run").click()

    expect(page.locator("#error-prompt")).to_have_text("Prompt must not be empty.")
    page.get_by_label("Prompt", exact=True).fill("Make it blue")
    run(page)
    expect(page.locator("#error-prompt")).to_be_hidden()


def test_late_image_error_keeps_other_errors(page: Page, image_file: Path) -> None:
    add_image(page, image_file)
    held: list[Route] = []

    def is_of_url(request: Request) -> bool:
        return "no url" in (request.post_data or "")

    page.route(
        "**/queue/join*",
        lambda route: held.append(route) if is_of_url(route.request) else route.continue_(),
    )
    page.get_by_label("Image URL").fill("no url")
    with page.expect_request(is_of_url):
        page.locator("#add-url").click()

    page.locator("#run").click()
    expect(page.locator("#error-prompt")).to_have_text("Prompt must not be empty.")
    held[0].continue_()

    expect(page.locator("#error-images")).to_contain_text("'no url'")
    expect(page.locator("#error-prompt")).to_have_text("Prompt must not be empty.")


@pytest.mark.parametrize("trigger", ["load", "click"])
def test_late_events_of_no_edit_keep_the_next_result(
    page: Page, page_server: LiveServer, image_file: Path, trigger: str
) -> None:
    """Events after a page load or a refused edit may arrive while another edit runs."""
    late = _last_event_after(page_server, trigger)
    held: list[Route] = []

    def is_late(request: Request) -> bool:
        return f'"fn_index":{late},' in (request.post_data or "")

    def hold_the_first(route: Route) -> None:
        if is_late(route.request) and not held:
            held.append(route)
        else:
            route.continue_()

    # on a busy machine the open page may still send this event, and nobody would get its answer
    page.goto("about:blank")
    page.route("**/queue/join*", hold_the_first)
    with page.expect_request(is_late):
        page.goto(page_server.url)
        if trigger == "click":
            page.locator("#run").click()
            expect(page.locator("#error-prompt")).to_be_visible()
    fill_form(page, image_file)
    make_it_long(page)
    page.locator("#run").click()
    expect(page.locator("#progress .qe-progress")).to_be_visible()
    with page.expect_response(lambda response: is_late(response.request)):
        held[0].continue_()

    page.locator("#cancel").click()
    expect(page.locator("#progress")).to_have_text("Canceled.")


def _last_event_after(server: LiveServer, trigger: str) -> int:
    """The third of the chained events of Run or of a page load."""
    config = server.http.get(f"{server.url}/config").json()
    [run] = [each["id"] for each in config["components"] if each["props"].get("elem_id") == "run"]
    after: dict[int | None, int] = {
        event["trigger_after"]: event["id"]
        for event in config["dependencies"]
        if event["trigger_after"] is not None
    }
    for event in config["dependencies"]:
        [component, name] = event["targets"][0] if event["targets"] else (None, None)
        if name == trigger and (component == run or trigger == "load"):
            third = after.get(after.get(event["id"]))
            if third is not None:
                return third
    raise AssertionError(f"no event of {trigger} has two chained events")


def test_missing_image_is_reported_at_the_images(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("Make it blue")

    page.locator("#run").click()

    expect(page.locator("#error-images")).to_have_text("Add an image first.")


def test_unreadable_image_keeps_what_was_typed(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    page.get_by_label("Prompt", exact=True).fill("Make it blue")

    page.locator("#image-1 input[type=file]").set_input_files(broken)

    expect(page.locator("#error-images")).to_contain_text("Image 1")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make it blue")
    page.locator("#run").click()
    expect(page.locator("#error-images")).to_contain_text("Image 1")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make it blue")


def test_unfit_lora_is_reported_at_its_row(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    write_raw(page_server.weights_dir / "loras" / "broken.safetensors", b"no header")
    fill_form(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_role("button", name="Refresh the list").click()
    # a click while the menu grows may hit another option
    page.get_by_label("LoRA 1").click()
    expect(page.locator("#lora-1").get_by_role("option", name="broken")).to_be_visible()
    choose_lora(page, "sepia", 1)
    choose_lora(page, "broken", 2)

    page.locator("#run").click()

    expect(page.locator("#error-lora_2")).to_contain_text("broken")
    expect(page.get_by_label("LoRA 1")).to_have_value("sepia")
    expect(page.get_by_label("LoRA 2")).to_have_value("broken")
    (page_server.weights_dir / "loras" / "broken.safetensors").unlink()


def test_unknown_lora_is_reported_and_kept(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_label("LoRA 1").fill("no-such-lora")
    page.get_by_label("LoRA 1").press("Enter")

    page.locator("#run").click()

    expect(page.locator("#error-lora_1")).to_contain_text("There is no LoRA 'no-such-lora'")
    expect(page.get_by_label("LoRA 1")).to_have_value("no-such-lora")


def test_error_opens_the_accordion_of_its_field(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Steps").fill("1")
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_label("Steps")).to_be_hidden()

    page.locator("#run").click()

    message = "Steps must be between 2 and 100, got 1."
    expect(page.locator("#error-num_inference_steps")).to_have_text(message)
    expect(page.get_by_label("Steps")).to_be_visible()


def test_typed_size_out_of_bounds_is_refused_and_kept(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_label("Size", exact=True).click()
    page.get_by_role("option", name="Custom").click()
    page.get_by_label("Width").fill("5000")
    page.get_by_label("Height").fill("5000")

    page.locator("#run").click()

    message = "Size must be 256–1536 pixels a side, got 5000 × 5000."
    expect(page.locator("#error-size")).to_have_text(message)
    expect(page.get_by_label("Width")).to_have_value("5000")


def test_refused_url_is_kept_in_its_field(page: Page) -> None:
    page.get_by_label("Image URL").fill("http://10.0.0.1/cat.png")

    page.get_by_role("button", name="Add", exact=True).click()

    expect(page.locator("#error-images")).to_contain_text("10.0.0.1")
    expect(page.get_by_label("Image URL")).to_have_value("http://10.0.0.1/cat.png")


def test_error_of_a_failed_job_is_reported_at_its_field(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_label("LoRA 1").fill("http://127.0.0.1:9/style.safetensors")
    page.get_by_label("LoRA 1").press("Enter")

    page.locator("#run").click()

    expect(page.locator("#error-lora_1")).to_contain_text("127.0.0.1:9")
    expect(page.locator("#run")).to_be_visible()
    expect(page.locator("#history .qe-entry").first).to_contain_text("127.0.0.1:9")
