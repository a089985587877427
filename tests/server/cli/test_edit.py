"""`qwen-edit edit` over a live server."""

from pathlib import Path

import PIL.Image
import pytest

from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import QwenEdit, run

NO_SERVER = ("--server", "http://127.0.0.1:9")


def test_edit_saves_the_image_of_the_real_model_and_prints_its_times(
    server: LiveServer, image: Path, tmp_path: Path
) -> None:
    linears = {"proj_out": (64, 64)}
    path = server.weights_dir / "loras" / "cli.safetensors"
    write_lora(path, random_pairs(linears, list(linears)))
    output = tmp_path / "out.jpg"

    done = run(
        *("edit", str(image), str(image), "-p", "make it blue", "--lora", "cli:0.5"),
        *("--size", "300*256", "--seed", "4", "-o", str(output), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    with PIL.Image.open(output) as saved:
        assert (saved.size, saved.format) == ((300, 256), "JPEG")
    assert "seed 4" in done.stdout
    assert "denoise" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "1*1"), "size must have sides of 256–1536 pixels, got '1*1'"),
        (("--size", "5x"), "size must be width*height in pixels, each 256–1536"),
        (("--lora", "nothing"), "loras/0/path: There is no LoRA 'nothing'"),
        (("--lora", "../x"), "loras.path must be a file name under"),
        (("--lora", "a:9"), "loras/0/scale: Input should be less than or equal to 4, got 9"),
    ],
)
def test_edit_prints_the_servers_message_with_its_field_once(
    server: LiveServer, image: Path, qwen_edit: QwenEdit, arguments: tuple[str, ...], message: str
) -> None:
    done = qwen_edit("edit", str(image), "-p", "a", *arguments, "--server", server.url)

    assert done.returncode == 1
    assert f"error: {message}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-p", ""), "Invalid value for --prompt: must not be empty"),
        (("-p", " \n"), "Invalid value for --prompt: must not be empty"),
        (("-p", "a", "--cfg", "nan"), "for --cfg: must be between 0 and 20, got nan"),
        (("-p", "a", "--cfg", "21"), "for --cfg: must be between 0 and 20, got 21"),
        (("-p", "a", "--steps", "1"), "for --steps: must be between 2 and 100, got 1"),
        (("-p", "a", "--seed", "-2"), "for --seed: must be between 0 and 2147483647, got -2"),
        (("-p", "a", "--seed", "abc"), "Invalid value for '--seed': "),
        (("-p", "a", "--cfg", "abc"), "Invalid value for '--cfg': "),
        ((), "Missing option '-p' / '--prompt'."),
        (("-p", "a", "--nope"), "No such option: --nope"),
        (("-p", "a", "--grid", "scale=0,1"), "add --lora NAME"),
        (("-p", "a", "--grid", "seed=1", "--compare", "b.png"), "Invalid value for --compare"),
        (("-p", "a", "--keep-cells", "cells"), "is for the images of a grid: add --grid"),
        (("-p", "a", "--compare", "a.gif"), "a.gif must end in one of .png"),
        (("-p", "a", "x.png"), "Invalid value for 'images': file 'x.png' does not exist."),
    ],
)
def test_edit_refuses_a_wrong_command_line_before_anything_is_sent(
    image: Path, qwen_edit: QwenEdit, arguments: tuple[str, ...], message: str
) -> None:
    done = qwen_edit("edit", str(image), *arguments, *NO_SERVER)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_edit_refuses_more_images_than_a_model_takes(image: Path, qwen_edit: QwenEdit) -> None:
    done = qwen_edit("edit", *[str(image)] * 4, "-p", "a", *NO_SERVER)

    assert done.returncode == 2
    assert "an edit takes up to 3 images, got 4" in done.stderr


def test_edit_draws_a_seed_for_seed_minus_1(
    server: LiveServer, image: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    done = qwen_edit(
        *("edit", str(image), "-p", "a", "--seed", "-1", "--size", "256*256"),
        *("-o", str(tmp_path / "out.png"), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    assert "seed -1" not in done.stdout


def test_edit_names_the_file_that_is_no_image(
    server: LiveServer, image: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    path = tmp_path / "x.png"
    path.write_text("hello")

    done = qwen_edit("edit", str(image), str(path), "-p", "a", "--server", server.url)

    assert done.returncode == 1
    assert f"error: {path} is not an image that can be read" in done.stderr


def test_edit_refuses_a_folder_in_place_of_an_image(tmp_path: Path, qwen_edit: QwenEdit) -> None:
    done = qwen_edit("edit", str(tmp_path), "-p", "a", *NO_SERVER)

    assert done.returncode == 2
    assert "is a directory" in done.stderr
