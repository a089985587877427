"""Bad input: the server's own sentence at its field, and nothing typed is lost."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, Route, expect

from tests.live_server import LiveServer
from tests.lora_files import write_raw
from tests.server.playground.browser.conftest import (
    add_image,
    ask,
    choose_lora,
    make_it_long,
    run,
)


def test_missing_prompt_is_said_at_the_prompt(page: Page, image_file: Path) -> None:
    add_image(page, image_file)

    page.locator("#run").click()

    expect(page.locator("#error-prompt")).to_have_text("prompt must not be empty.")
    page.get_by_label("Prompt", exact=True).fill("Make it blue")
    run(page)
    expect(page.locator("#error-prompt")).to_be_hidden()


def test_late_answer_about_an_image_leaves_other_sentences(page: Page, image_file: Path) -> None:
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
    expect(page.locator("#error-prompt")).to_have_text("prompt must not be empty.")
    held[0].continue_()

    expect(page.locator("#error-images")).to_contain_text("'no url'")
    expect(page.locator("#error-prompt")).to_have_text("prompt must not be empty.")


@pytest.mark.parametrize("begins", ["load", "click"])
def test_late_events_of_no_edit_leave_the_next_one_its_result(
    page: Page, page_server: LiveServer, image_file: Path, begins: str
) -> None:
    """What comes after a page is opened, or an edit refused, may come while another runs."""
    late = _last_event_after(page_server, begins)
    held: list[Route] = []

    def is_late(request: Request) -> bool:
        return f'"fn_index":{late},' in (request.post_data or "")

    def hold_the_first(route: Route) -> None:
        if is_late(route.request) and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", hold_the_first)
    with page.expect_request(is_late):
        page.reload()
        if begins == "click":
            page.locator("#run").click()
            expect(page.locator("#error-prompt")).to_be_visible()
    ask(page, image_file)
    make_it_long(page)
    page.locator("#run").click()
    expect(page.locator("#progress .qe-progress")).to_be_visible()
    with page.expect_response(lambda response: is_late(response.request)):
        held[0].continue_()

    page.locator("#cancel").click()
    expect(page.locator("#progress")).to_have_text("Canceled.")


def _last_event_after(server: LiveServer, begins: str) -> int:
    """The third of the events that Run, or opening the page, leads to."""
    config = server.http.get(f"{server.url}/config").json()
    [run] = [each["id"] for each in config["components"] if each["props"].get("elem_id") == "run"]
    after: dict[int | None, int] = {
        event["trigger_after"]: event["id"]
        for event in config["dependencies"]
        if event["trigger_after"] is not None
    }
    for event in config["dependencies"]:
        [component, name] = event["targets"][0] if event["targets"] else (None, None)
        if name == begins and (component == run or begins == "load"):
            third = after.get(after.get(event["id"]))
            if third is not None:
                return third
    raise AssertionError(f"no event of {begins} has two behind it")


def test_missing_image_is_said_at_the_images(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill("Make it blue")

    page.locator("#run").click()

    sentence = "images must have 1 to 3 entries, got 0."
    expect(page.locator("#error-images")).to_have_text(sentence)


def test_unreadable_image_loses_nothing_typed(page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no image")
    page.get_by_label("Prompt", exact=True).fill("Make it blue")

    page.locator("#image-1 input[type=file]").set_input_files(broken)

    expect(page.locator("#error-images")).to_contain_text("images/0")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make it blue")
    page.locator("#run").click()
    expect(page.locator("#error-images")).to_contain_text("images/0")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Make it blue")


def test_lora_that_does_not_fit_is_said_at_its_row(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    write_raw(page_server.weights_dir / "loras" / "broken.safetensors", b"no header")
    ask(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_role("button", name="Look again").click()
    # a choice made while the menu grows could hit its neighbour
    page.get_by_label("LoRA 1").click()
    expect(page.locator("#lora-1").get_by_role("option", name="broken")).to_be_visible()
    choose_lora(page, "sepia", 1)
    choose_lora(page, "broken", 2)

    page.locator("#run").click()

    expect(page.locator("#error-lora_2")).to_contain_text("broken")
    expect(page.get_by_label("LoRA 1")).to_have_value("sepia")
    expect(page.get_by_label("LoRA 2")).to_have_value("broken")
    (page_server.weights_dir / "loras" / "broken.safetensors").unlink()


def test_typed_lora_that_nobody_has_is_said_and_stays(page: Page, image_file: Path) -> None:
    ask(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_label("LoRA 1").fill("nobody-has-this")
    page.get_by_label("LoRA 1").press("Enter")

    page.locator("#run").click()

    expect(page.locator("#error-lora_1")).to_contain_text("There is no LoRA 'nobody-has-this'")
    expect(page.get_by_label("LoRA 1")).to_have_value("nobody-has-this")


def test_field_in_a_fold_is_shown_with_its_sentence(page: Page, image_file: Path) -> None:
    ask(page, image_file)
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("Steps").fill("1")
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_label("Steps")).to_be_hidden()

    page.locator("#run").click()

    sentence = "num_inference_steps must be between 2 and 100, got 1."
    expect(page.locator("#error-num_inference_steps")).to_have_text(sentence)
    expect(page.get_by_label("Steps")).to_be_visible()


def test_url_that_must_not_be_asked_stays_in_its_field(page: Page) -> None:
    page.get_by_label("Image URL").fill("http://10.0.0.1/cat.png")

    page.get_by_role("button", name="Add", exact=True).click()

    expect(page.locator("#error-images")).to_contain_text("10.0.0.1")
    expect(page.get_by_label("Image URL")).to_have_value("http://10.0.0.1/cat.png")


def test_failed_job_says_its_sentence_at_its_field(page: Page, image_file: Path) -> None:
    ask(page, image_file)
    page.get_by_role("button", name="LoRAs").click()
    page.get_by_label("LoRA 1").fill("http://127.0.0.1:9/style.safetensors")
    page.get_by_label("LoRA 1").press("Enter")

    page.locator("#run").click()

    expect(page.locator("#error-lora_1")).to_contain_text("127.0.0.1:9")
    expect(page.locator("#run")).to_be_visible()
    expect(page.locator("#history .qe-entry").first).to_contain_text("127.0.0.1:9")
