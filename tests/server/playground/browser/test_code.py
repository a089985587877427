"""The request shown as code runs as it is."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.live_server import LiveServer
from tests.server.playground.browser.conftest import choose_lora, fill_form, run

PROMPT = 'Make it "blue", it\'s $HOME; @5 <b>\nand “bold”'


def shown(page: Page, which: str) -> str:
    """The code as it would be copied."""
    return "\n".join(page.locator(f"#{which} .cm-line").all_text_contents())


def fill_whole_form(page: Page, image_file: Path) -> None:
    fill_form(page, image_file, PROMPT)
    choose_lora(page, "sepia")
    page.get_by_label("Seed", exact=True).fill("12")
    expect(page.get_by_label("Lock")).to_be_checked()
    page.get_by_label("Outputs").fill("2")
    page.get_by_role("tab", name="As code").click()
    expect(page.locator("#curl")).to_contain_text("my ball.png")
    expect(page.locator("#curl")).to_contain_text("n=2")
    expect(page.locator("#python")).to_contain_text('"n": 2')


def last_job(server: LiveServer) -> tuple[object, ...]:
    job = server.http.get(f"{server.url}/v1/edits?limit=1").json()["items"][0]
    seeds = [output["seed"] for output in job["outputs"]]
    return job["contract"], job["status"], job["prompt"], seeds


def test_curl_command_runs_in_the_folder_of_the_image(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_whole_form(page, image_file)
    assert shutil.which("curl")

    ran = subprocess.run(
        ["bash", "-c", shown(page, "curl")],
        cwd=image_file.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(ran.stdout)["status"] == "succeeded"
    assert last_job(page_server) == ("native", "succeeded", PROMPT, [12, 13])


def test_python_runs_in_the_folder_of_the_image(
    page: Page, page_server: LiveServer, image_file: Path
) -> None:
    fill_whole_form(page, image_file)

    ran = subprocess.run(
        [sys.executable, "-c", shown(page, "python")],
        cwd=image_file.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ran.stdout.startswith("succeeded")
    assert last_job(page_server) == ("native", "succeeded", PROMPT, [12, 13])


def test_code_is_empty_when_a_field_is_not_valid(page: Page, image_file: Path) -> None:
    fill_form(page, image_file)
    page.get_by_role("tab", name="As code").click()
    expect(page.locator("#curl .cm-line", has_text="Make it blue")).to_have_count(1)

    page.get_by_label("Seed", exact=True).fill("abc")

    expect(page.locator("#code-note")).to_contain_text("Seed must be a number")
    for which in ("curl", "python"):
        expect(page.locator(f"#{which} .cm-line", has_text="Make it blue")).to_have_count(0)


def test_code_names_an_output_used_as_input_by_its_url(
    page: Page, page_server: LiveServer, image_file: Path, tmp_path: Path
) -> None:
    fill_form(page, image_file)
    run(page)
    page.locator("#outputs").get_by_role("button", name="Use as input").click()
    page.get_by_role("tab", name="As code").click()
    expect(page.locator("#curl")).to_contain_text(f"images={page_server.url}/outputs/")

    ran = subprocess.run(
        ["bash", "-c", shown(page, "curl")],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(ran.stdout)["status"] == "succeeded"
