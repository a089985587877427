"""`qwen-edit loras` over a live server, and `loras inspect` without one."""

from pathlib import Path

from pipelines.files.installation import SHIPPED_WEIGHTS
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import QwenEdit

LINEARS = {"transformer_blocks.0.attn.to_q": (64, 64)}


def test_loras_lists_names_and_sizes(server: LiveServer, qwen_edit: QwenEdit) -> None:
    (server.weights_dir / "loras" / "listed.safetensors").write_bytes(b"\0" * 2_000_000)

    done = qwen_edit("loras", "--server", server.url)

    [line] = [line for line in done.stdout.splitlines() if "listed" in line]
    assert line.split() == ["listed.safetensors", "2.0", "MB"]


def test_loras_lists_kind_rank_and_trigger_words(server: LiveServer, qwen_edit: QwenEdit) -> None:
    path = server.weights_dir / "loras" / "told.safetensors"
    write_lora(
        path, random_pairs(LINEARS, list(LINEARS)), metadata={"trained_words": '["a b", "c"]'}
    )

    done = qwen_edit("loras", "--server", server.url)

    [line] = [line for line in done.stdout.splitlines() if "told" in line]
    assert line.split()[3:] == ["LoRA", "4", "a", "b,", "c"]


def test_loras_remove_deletes_the_file_of_the_server(
    server: LiveServer, qwen_edit: QwenEdit
) -> None:
    path = server.weights_dir / "loras" / "styles" / "a b.safetensors"
    path.parent.mkdir(exist_ok=True)
    write_lora(path, random_pairs(LINEARS, list(LINEARS)))

    done = qwen_edit("loras", "remove", "styles/a b", "--yes", "--server", server.url)
    again = qwen_edit("loras", "remove", "styles/a b", "--yes", "--server", server.url)

    assert done.returncode == 0, done.stderr
    assert "removed styles/a b" in done.stdout
    assert not path.exists()
    assert again.returncode == 1
    assert "error: There is no LoRA 'styles/a b'" in again.stderr


def test_loras_inspect_fits_a_demo_lora_to_the_demo_model(
    tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    path = SHIPPED_WEIGHTS / "loras" / "demo-mosaic.safetensors"

    done = qwen_edit("loras", "inspect", str(path), "--weights-dir", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "fits demo: yes" in done.stdout


def test_loras_inspect_reads_the_notes_beside_the_file(
    tiny_model: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    metadata = {"modelspec.usage_hint": "best on portraits"}
    path = write_lora(
        tmp_path / "a.safetensors", random_pairs(LINEARS, list(LINEARS)), metadata=metadata
    )
    path.with_suffix(".civitai.info").write_text('{"trainedWords": ["oil, thick"]}')
    path.with_suffix(".json").write_text('{"preferred weight": 0.8}')
    path.with_suffix(".preview.png").write_bytes(encoded(gradient()))

    done = qwen_edit("loras", "inspect", str(path), "--model", str(tiny_model))

    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["trigger"] == "words oil, thick"
    assert rows["scale"] == "0.8; best on portraits"
    assert rows["thumbnail"] == "yes"


def test_loras_inspect_describes_a_file_and_whether_it_fits(
    tiny_model: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(LINEARS, list(LINEARS), rank=16))

    fits = qwen_edit("loras", "inspect", str(path), "--model", str(tiny_model))
    other = qwen_edit("loras", "inspect", str(path), "--weights-dir", str(tmp_path))
    path.write_text("<html>")
    page = qwen_edit("loras", "inspect", str(path))

    assert fits.returncode == 0, fits.stderr
    assert "16 (1)" in fits.stdout
    assert "fits tiny: yes" in fits.stdout
    assert other.returncode == 1
    assert "fits Qwen-Image-Edit-Plus: no: a.safetensors does not fit" in other.stdout
    assert page.returncode == 1
    assert page.stderr.startswith("error: ")
    assert "looks like a web page" in page.stderr
