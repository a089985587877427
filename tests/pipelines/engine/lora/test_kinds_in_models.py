"""Kinds other than LoRA in a whole model: images, offloading, compilation, and back to the base."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipelines.api.load_options import ForwardName, Offload
from pipelines.engine.lora import LoraEngine
from pipelines.engine.pipeline import EditPipeline
from tests.lora_files import Linears
from tests.pipelines.engine.lora.conftest import CPU, edit
from tests.pipelines.engine.lora.corpus_dora import DORAS, decomposed
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS, Writer, loha
from tests.pipelines.engine.lora.corpus_lokr import LOKRS
from tests.pipelines.engine.lora.corpus_oft import OFTS
from tests.pipelines.engine.lora.test_compile import (
    CountingBackend,
    build,
    dynamo,  # noqa: F401
    forward,
)

STACKS: dict[str, tuple[tuple[Writer, float], ...]] = {
    "LoKr": ((LOKRS["LoKr of LyCORIS"], 0.05),),
    "LoKr, recomposed": ((LOKRS["LoKr of OneTrainer, bare"], 0.05),),
    "DoRA of rows": ((DORAS["DoRA of PEFT"], 0.5),),
    "DoRA of columns": ((DORAS["DoRA of OneTrainer"], 0.5),),
    "OFT": ((OFTS["OFT of LyCORIS"], 1.0),),
    "LoHa of rank 20": ((partial(loha, 20, 20, 1.0, True), 0.05),),
    "three kinds": (
        (LOKRS["LoKr of kohya"], 0.05),
        (DORAS["DoRA of ai-toolkit"], 0.5),
        (LAYOUTS["fp32"], 1.0),
    ),
}


def written(stack: str, folder: Path, linears: Linears) -> list[tuple[Path, float]]:
    files = []
    for index, (write, scale) in enumerate(STACKS[stack]):
        path = folder / f"{index}.safetensors"
        write(path, linears)
        files.append((path, scale))
    return files


@pytest.fixture(scope="module")
def offloaded(tiny_model: Path) -> EditPipeline:
    return EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32, offload=Offload.GROUP)


@pytest.mark.parametrize("stack", STACKS)
def test_offloaded_model_gives_the_same_image(
    pipeline: EditPipeline, offloaded: EditPipeline, base: np.ndarray, tmp_path: Path, stack: str
) -> None:
    files = written(stack, tmp_path, pipeline.linears)
    changed = edit(pipeline, *files)

    assert np.array_equal(changed, edit(offloaded, *files))
    assert not np.array_equal(changed, base)
    assert np.array_equal(base, edit(offloaded))


def test_dora_gives_the_image_of_merged_weights(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path
) -> None:
    """The norms are those of the model's own weights."""
    path = tmp_path / "dora.safetensors"
    DORAS["DoRA of LyCORIS"](path, pipeline.linears)
    tensors = load_file(path)
    merged = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    flat = {name.replace(".", "_"): name for name in pipeline.linears}
    for key in [key for key in tensors if key.endswith(".dora_scale")]:
        stem = key.removesuffix(".dora_scale")
        layer = merged._pipe.transformer.get_submodule(flat[stem.removeprefix("lycoris_")])
        up, down = (tensors[f"{stem}.lora_{part}.weight"].double() for part in ("up", "down"))
        delta = up @ down * (float(tensors[f"{stem}.alpha"]) / len(down))
        change = decomposed(layer.weight, delta, tensors[key], "out 1")
        layer.weight.data = (layer.weight.double() + 0.5 * change).float()

    assert np.abs(edit(pipeline, (path, 0.5)) - edit(merged)).max() <= 1


@pytest.mark.usefixtures("dynamo")
def test_compiled_blocks_are_traced_once_for_each_structure(tmp_path: Path) -> None:
    """Other scales, texts and sizes reuse the graphs of the first edit with these kinds."""
    compiled, eager, backend = build(), build(), CountingBackend()
    engines = [LoraEngine(model, CPU, torch.float32) for model in (compiled, eager)]
    compiled.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)
    counts = {}

    for stack in ("LoKr", "DoRA of rows", "DoRA of columns", "OFT"):
        folder = tmp_path / stack
        folder.mkdir()
        files = written(stack, folder, engines[0].linears)
        for turn, scale in enumerate((1.0, 0.5, 2.0)):
            scaled = [(path, scale * value) for path, value in files]
            with engines[0].active(scaled), engines[1].active(scaled):
                ours, theirs = forward(compiled, turn), forward(eager, turn)
            assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
            counts[stack, turn] = len(backend.graphs)

    assert all(counts[stack, 1] == counts[stack, 2] for stack, _ in counts)
