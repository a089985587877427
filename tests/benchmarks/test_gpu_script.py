"""`benchmarks/gpu.py` on the small configuration: correctness, not speed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.comparison import Comparison, compare
from benchmarks.random_model import (
    PUBLISHED,
    SMALL,
    build,
    count_parameters,
)
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS

CPU = torch.device("cpu")
STEPS = 2


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(SMALL, CPU, torch.float32, STEPS)


def test_both_loops_make_the_same_image(comparison: Comparison) -> None:
    assert comparison.latents_difference < 1e-4
    assert comparison.image_difference <= 1
    assert comparison.ours.latents.shape == (1, 16, 1, 32, 32)
    assert comparison.ours.image.size == (256, 256)
    assert comparison.ours.latents.std() > 0


def test_comparison_tells_different_images_apart(comparison: Comparison) -> None:
    other = replace(comparison.ours, latents=comparison.ours.latents + 1.0)
    assert replace(comparison, ours=other).latents_difference > 0.01


def test_stages_add_up_to_the_whole(comparison: Comparison) -> None:
    for measured in (comparison.ours, comparison.stock):
        assert list(measured.seconds) == ["encode", "denoise", "decode"]
        assert sum(measured.seconds.values()) == pytest.approx(measured.total_s)


def test_report_has_every_row(comparison: Comparison) -> None:
    rows = gpu.report(comparison, SMALL, CPU).splitlines()
    names = {row.split("|")[1].strip() for row in rows if row.startswith("|")}
    assert names >= {
        "Run", "Date", "Card", "Driver", "torch", "diffusers", "transformers", "Layers",
        "zero_cond_t", "Parameters, transformer", "Parameters, text_encoder", "Parameters, vae",
        "Weights", "Edit", "Largest difference of the latents",
        "Largest difference of the images", "Seconds per forward", "Encode, s", "Denoise, s",
        "Decode, s", "Total, s", "Peak device memory, GB",
    }  # fmt: skip


def test_published_architecture_has_the_published_number_of_parameters() -> None:
    published = QWEN_IMAGE_EDIT_PLUS.parameters
    pipe = build(PUBLISHED, torch.device("meta"), torch.bfloat16).pipe
    counts = {name: count_parameters(getattr(pipe, name)) for name in published}

    assert counts["transformer"] == published["transformer"]
    assert counts["text_encoder"] == published["text_encoder"]
    assert counts["vae"] == pytest.approx(published["vae"], rel=1e-3)
    assert 2 * sum(counts.values()) == pytest.approx(57.7e9, rel=1e-3)
    assert pipe.transformer.dtype is torch.bfloat16
    assert len(pipe.tokenizer) <= PUBLISHED.vocabulary


@pytest.mark.parametrize(("text_layers", "full_attention"), [(9, (7,)), (4, ())])
def test_with_depths_keeps_the_widths(text_layers: int, full_attention: tuple[int, ...]) -> None:
    scaled = PUBLISHED.with_depths(2, text_layers)
    assert (scaled.layers, scaled.text_layers, scaled.vision_layers) == (2, *[text_layers] * 2)
    assert scaled.vision_full_attention == full_attention
    assert scaled.heads == PUBLISHED.heads
    assert PUBLISHED.with_depths(None, None) == PUBLISHED


def test_build_leaves_the_default_dtype_as_it_was() -> None:
    build(SMALL, torch.device("meta"), torch.bfloat16)
    assert torch.get_default_dtype() is torch.float32


def test_write_table_replaces_the_text_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{gpu.TABLE_START}\nold\n{gpu.TABLE_END}\nbelow\n")

    gpu.write_table(page, "new")
    gpu.write_table(page, "newer")

    assert page.read_text() == f"above\n{gpu.TABLE_START}\nnewer\n{gpu.TABLE_END}\nbelow\n"


def test_write_table_refuses_a_page_without_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no place for the table"):
        gpu.write_table(page, "new")


def test_main_prints_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--device", "cpu", "--layers", "1", "--steps", "2", "--no-zero-cond-t"])
    printed = capsys.readouterr().out
    assert "1 transformer, 2 text, 2 vision" in printed
    assert "Seconds per forward" in printed


def test_main_refuses_to_write_a_table_of_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu", "--write", str(tmp_path / "page.md")])


def test_performance_page_has_the_markers_of_the_table() -> None:
    page = (Path(gpu.__file__).parents[1] / "docs" / "performance.md").read_text()
    assert page.index(gpu.TABLE_START) < page.index(gpu.TABLE_END)
