"""The command line over a live server, each command in a process of its own."""

from pathlib import Path

import PIL.Image
import pytest

from pipelines.files.catalog import SHIPPED_DEMO
from server.cli.client import parse_lora
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", 1.0)),
        ("a:0.5", ("a", 0.5)),
        ("a.safetensors:2", ("a.safetensors", 2.0)),
        ("https://h:8000/a", ("https://h:8000/a", 1.0)),
        ("https://h:8000/a:1.25", ("https://h:8000/a", 1.25)),
        ("https://h:8000", ("https://h", 8000.0)),
        ("https://h:8000/a:.5", ("https://h:8000/a", 0.5)),
        ("a:-1", ("a", -1.0)),
        ("a:.5", ("a", 0.5)),
        ("a:1.", ("a", 1.0)),
        ("a:+1e-1", ("a", 0.1)),
        ("C:/loras/a:5E-1", ("C:/loras/a", 0.5)),
        (r"C:\loras\.5", (r"C:\loras\.5", 1.0)),
        ("a:b", ("a:b", 1.0)),
        ("a:.", ("a:.", 1.0)),
        ("a:nan", ("a:nan", 1.0)),
        ("a:1e999", ("a:1e999", 1.0)),
    ],
)
def test_lora_is_split_at_the_last_colon_when_a_finite_number_follows(
    text: str, expected: tuple[str, float]
) -> None:
    assert parse_lora(text) == expected


def test_edit_saves_the_image_and_says_how_long_it_took(
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
    ("arguments", "sentence"),
    [
        (("--size", "1*1"), "size must have sides of 256–1536 pixels, got '1*1'"),
        (("--lora", "nothing"), "loras/0/path: There is no LoRA 'nothing'"),
        (("--lora", "../x"), "loras.path must be a file name under"),
        (("--lora", "a:9"), "loras/0/scale: Input should be less than or equal to 4, got 9"),
        (("-p", ""), "prompt: String should have at least 1 character, got ''"),
    ],
)
def test_edit_says_the_servers_sentence_with_its_field_once_and_fails(
    server: LiveServer, image: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run("edit", str(image), "-p", "a", *arguments, "--server", server.url)
    assert done.returncode == 1
    assert f"error: {sentence}" in done.stderr
    assert "Traceback" not in done.stderr


def test_edit_of_a_file_that_is_no_image_fails_with_a_sentence(
    server: LiveServer, tmp_path: Path
) -> None:
    path = tmp_path / "x.png"
    path.write_text("hello")
    done = run("edit", str(path), "-p", "a", "--server", server.url)
    assert done.returncode == 1
    assert "images/0 is not an image that can be read" in done.stderr


def test_edit_without_a_server_says_how_to_start_one(image: Path) -> None:
    done = run("edit", str(image), "-p", "a", "--server", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "qwen-edit serve" in done.stderr


def test_jobs_and_loras_are_listed(server: LiveServer, image_base64: str) -> None:
    """Of a job that has waited for another, the time that it ran is said."""
    (server.weights_dir / "loras" / "listed.safetensors").write_bytes(b"\0" * 2_000_000)
    body = {"images": [image_base64], "size": "256*256"}
    edits = f"{server.url}/v1/edits"
    server.http.post(edits, json={**body, "prompt": "before", "num_inference_steps": 100})
    job = server.http.post(edits, json={**body, "prompt": "a listed prompt"}).json()
    job = until(lambda: (j := server.http.get(f"{edits}/{job['id']}").json())["outputs"] and j)

    jobs = run("jobs", "--limit", "1", QWEN_EDIT_SERVER=server.url)
    loras = run("loras", QWEN_EDIT_SERVER=server.url)

    [row] = [line.split() for line in jobs.stdout.splitlines() if job["id"] in line]
    ran = f"{job['finished_at'] - job['started_at']:.1f}"
    assert row == [job["id"], "succeeded", "native", "3/3", ran, "a", "listed", "prompt"]
    assert "listed.safetensors" in loras.stdout
    assert "2.0" in loras.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (("--host", "0.0.0.0"), {}, "can be reached by others: set QWEN_EDIT_API_KEYS"),
        ((), {"QWEN_EDIT_PROT": "1"}, "Unknown setting QWEN_EDIT_PROT"),
        ((), {"QWEN_EDIT_PORT": "x"}, "QWEN_EDIT_PORT='x'"),
        (("--model", "nothing"), {}, "No model 'nothing'"),
    ],
)
def test_serve_refuses_to_start_with_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    done = run("serve", "--data-dir", str(tmp_path), *arguments, **environment)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_says_that_the_port_is_taken(server: LiveServer, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    done = run("serve", "--data-dir", str(tmp_path), "--port", port)
    assert done.returncode == 2
    assert "Address already in use" in done.stderr


def test_loras_inspect_knows_the_loras_of_the_demo_model(tmp_path: Path) -> None:
    path = SHIPPED_DEMO.parent / "loras" / "demo-mosaic.safetensors"

    done = run("loras", "inspect", str(path), "--weights-dir", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "fits demo: yes" in done.stdout


def test_loras_inspect_says_what_a_file_is_and_whether_it_fits(
    tiny_model: Path, tmp_path: Path
) -> None:
    linears = {"transformer_blocks.0.attn.to_q": (64, 64)}
    path = write_lora(tmp_path / "a.safetensors", random_pairs(linears, list(linears), rank=16))

    fits = run("loras", "inspect", str(path), "--model", str(tiny_model))
    other = run("loras", "inspect", str(path), "--weights-dir", str(tmp_path))
    path.write_text("<html>")
    page = run("loras", "inspect", str(path))

    assert fits.returncode == 0, fits.stderr
    assert "16 (1)" in fits.stdout
    assert "fits tiny: yes" in fits.stdout
    assert other.returncode == 1
    assert "fits Qwen-Image-Edit-Plus: no: a.safetensors does not fit" in other.stdout
    assert page.returncode == 1
    assert "looks like a web page" in page.stderr
