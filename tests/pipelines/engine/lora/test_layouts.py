"""Every layout found in the wild changes the layers exactly as its file defines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.api.load_options import ForwardName
from pipelines.engine import loading
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.lora_format.file import plan_lora
from pipelines.files.lora_format.report import inspect_lora
from tests.lora_files import PREFIXES, SUFFIXES, Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import MODULES, assert_exact, deltas, edit
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read_exactly(linears: Linears, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.safetensors"
    expected = LAYOUTS[layout](path, linears)

    found = deltas(linears, [(path, 1.5)], on_base=layout.startswith(("DoRA", "OFT")))

    # entries of a LoHa or LoKr are products of up to four normal numbers, a LoRA's of small ones
    atol = 1e-5 if layout.startswith(("Lo", "DoRA", "OFT")) else 5e-7
    assert_exact(found, {name: 1.5 * delta for name, delta in expected.items()}, atol)


def test_plan_has_rank_and_multiplier_of_each_layer(linears: Linears, tmp_path: Path) -> None:
    pairs = random_pairs(linears, MODULES[:1], rank=3) | random_pairs(linears, MODULES[1:2], rank=5)
    path = write_lora(tmp_path / "a.safetensors", pairs)

    plan = plan_lora(path, linears)

    assert {name: layer.rank for name, layer in plan.layers.items()} == {
        MODULES[0]: 3,
        MODULES[1]: 5,
    }
    assert all(layer.multiplier == 1.0 for layer in plan.layers.values())


REPORTS = {
    "LoKr of LyCORIS": ("LoKr", "lycoris_*.lokr_w1", {3: 13}),
    "LoKr of ai-toolkit": ("LoKr", "diffusion_model.*.lokr_w1", {}),
    "DoRA of OneTrainer": ("DoRA", "lora_unet_*.dora_scale", {4: 13}),
    "OFT of OneTrainer": ("OFT", "transformer.*.oft_R.weight", {}),
    "whole weights": ("difference", "diffusion_model.*.set_weight", {}),
    "whole differences": ("LoRA and difference", "diffusion_model.*.diff", {4: 3}),
    "fused projections": ("LoRA", "transformer.*.lora_A.weight", {4: 6}),
}


@pytest.mark.parametrize("layout", REPORTS)
def test_report_names_kind_layout_and_ranks(linears: Linears, tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.safetensors"
    LAYOUTS[layout](path, linears)

    report = inspect_lora(path, linears, path.name)

    assert (report.kind, report.layout, report.ranks) == REPORTS[layout]
    assert report.fits


# Layouts that diffusers' own loader reads correctly. It misreads or ignores most others.
READ_RIGHT = (
    ("diffusers", "A and B", None),
    ("ai-toolkit", "A and B", 2.0),
    ("ai-toolkit", "down and up", 2.0),
    ("kohya", "down and up", None),
    ("kohya", "down and up", 2.0),
    ("none", "down and up", 2.0),
)


@pytest.mark.parametrize(("prefix", "suffix", "alpha"), READ_RIGHT)
def test_layout_is_read_as_diffusers_reads_it(
    tiny_model: Path, linears: Linears, tmp_path: Path, prefix: str, suffix: str, alpha: float
) -> None:
    # kohya's top-level layers have no flat names that diffusers knows
    modules = [name for name in MODULES if name.startswith("transformer_blocks")]
    start, flat = PREFIXES[prefix]
    down, up = SUFFIXES[suffix]
    path = write_lora(
        tmp_path / "a.safetensors",
        random_pairs(linears, modules, alpha=alpha),
        prefix=start,
        flat=flat,
        down=down,
        up=up,
    )
    stock = loading.load_model(tiny_model, torch.float32).pipe
    stock.load_lora_weights(str(tmp_path), weight_name=path.name, adapter_name="a")

    theirs = {name: stock.transformer.get_submodule(name) for name in modules}

    assert_exact(
        deltas(linears, [(path, 1.0)]),
        {name: layer.get_delta_weight("a").double() for name, layer in theirs.items()},
        5e-7,
    )


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_image_equals_that_of_the_diffusers_loader(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path
) -> None:
    """The library's own loader as an oracle, for a layout that it reads correctly."""
    files = []
    for index, rank in enumerate((2, 4, 8)):
        pairs = random_pairs(pipeline.linears, MODULES, rank=rank, seed=index)
        files.append((write_lora(tmp_path / f"{index}.safetensors", pairs), 0.4 + index))
    theirs = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    for index, (path, _) in enumerate(files):
        theirs._pipe.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=f"a{index}", use_safetensors=True
        )
    theirs._pipe.set_adapters(["a0", "a1", "a2"], [scale for _, scale in files])

    ours = edit(pipeline, *files)

    assert np.abs(ours - edit(theirs)).max() <= 1
    assert np.abs(ours - edit(pipeline)).max() > 1
