"""The grid: one edit at several LoRA scales or with several seeds."""

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer
from tests.server.playground.browser.conftest import choose_lora, fill_form


def test_grid_varies_the_scale_of_a_lora(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_form(page, image_file)
    choose_lora(page, "sepia")
    page.get_by_role("tab", name="Grid").click()
    page.get_by_label("Scales of the first LoRA").fill("0, 0.5, 1.5")

    page.get_by_role("button", name="Run the grid").click()

    expect(page.locator("#grid .qe-cell img")).to_have_count(3)
    labels = page.locator("#grid figcaption").all_inner_texts()
    assert labels == ["sepia × 0", "sepia × 0.5", "sepia × 1.5"]
    expect(page.get_by_role("button", name="Run the grid")).to_be_visible()
    jobs = page_server.http.get(f"{page_server.url}/v1/edits?limit=3").json()["items"]
    assert len({job["seed"] for job in jobs}) == 1
    page.locator("#grid").get_by_role("button", name="Use settings").nth(1).click()
    expect(page.locator("#scale-1 input[type=number]")).to_have_value("0.5")
    expect(page.get_by_label("Lock")).to_be_checked()


def test_grid_varies_the_seed_and_cancel_ends_all_cells(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    # keeps the cells waiting: a cell that is being decoded can no longer be canceled
    ahead = encoded(gradient())
    busy = page_server.http.post(
        f"{page_server.url}/v1/edits",
        json={"prompt": "x", "images": [as_base64(ahead)], "n": 6, "size": "1024*1024",
              "num_inference_steps": 100},
    )  # fmt: skip
    assert busy.status_code == 201
    fill_form(page, image_file)
    page.get_by_label("Seed", exact=True).fill("500")
    # the seed in the field is the first, locked or not
    page.get_by_label("Lock").uncheck()
    page.get_by_role("tab", name="Grid").click()
    page.locator("#vary").get_by_label("Seed").check()
    page.locator("#grid-seeds input[type=number]").fill("3")

    page.get_by_role("button", name="Run the grid").click()
    expect(page.locator("#grid figcaption")).to_have_count(3)
    assert page.locator("#grid figcaption").all_inner_texts() == [
        "seed 500", "seed 501", "seed 502",
    ]  # fmt: skip
    page.reload()
    page.get_by_role("tab", name="Grid").click()
    expect(page.locator("#grid figcaption")).to_have_count(3)
    page.get_by_role("button", name="Cancel all").click()

    expect(page.get_by_role("button", name="Run the grid")).to_be_visible()
    expect(page.locator("#grid").get_by_text("Canceled")).to_have_count(3)
    jobs = page_server.http.get(f"{page_server.url}/v1/edits?limit=3").json()["items"]
    assert [job["status"] for job in jobs] == ["canceled"] * 3


def test_grid_asks_for_a_lora_when_none_is_chosen(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_role("tab", name="Grid").click()

    page.get_by_role("button", name="Run the grid").click()

    expect(page.locator("#error-grid")).to_contain_text("needs a LoRA")
