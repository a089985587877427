"""With LoRAs the model is W + Σ s·(alpha/rank)·B·A, without them the base model, bit for bit."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.load_options import ForwardName, Offload
from pipelines.api.messages import Stage
from pipelines.engine.edit_result import Progress
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.architecture import read_linears
from tests.conftest import gradient
from tests.lora_files import PREFIXES, SUFFIXES, Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import (
    MODULES,
    assert_exact,
    deltas,
    edit,
    edit_params,
    layer_of,
)
from tests.pipelines.engine.lora.corpus_layouts import loha

Stack = list[tuple[Path, float]]
# Prefix, suffix, rank, alpha, which of the modules.
FILES = (
    ("diffusers", "A and B", 2, None, slice(None)),
    ("kohya", "down and up", 8, 3.0, slice(0, 9)),
    ("diffsynth", "default", 5, 5.0, slice(3, None)),
)
SCALES = ((1.0,), (0.0, 2.5), (4.0, 0.3), (0.5, 1.25, 4.0), (4.0, 4.0, 4.0), (0.0, 0.0, 0.1))


def write_files(folder: Path, linears: Linears) -> list[tuple[Path, Mapping[str, torch.Tensor]]]:
    """Three files of different layouts and ranks, with the change of each layer."""
    files = []
    for index, (prefix, suffix, rank, alpha, which) in enumerate(FILES):
        pairs = random_pairs(linears, MODULES[which], rank=rank, alpha=alpha, seed=index)
        start, flat = PREFIXES[prefix]
        down, up = SUFFIXES[suffix]
        path = folder / f"{index}.safetensors"
        write_lora(path, pairs, prefix=start, flat=flat, down=down, up=up)
        files.append((path, {name: pair.delta for name, pair in pairs.items()}))
    return files


def stacked(
    folder: Path, linears: Linears, scales: tuple[float, ...]
) -> tuple[Stack, dict[str, torch.Tensor]]:
    """The first files at these scales, and the sum of their changes."""
    total: dict[str, torch.Tensor] = {}
    stack = []
    for (path, changes), scale in zip(write_files(folder, linears), scales, strict=False):
        stack.append((path, scale))
        for name, delta in changes.items() if scale else ():
            total[name] = total.get(name, 0) + scale * delta
    return stack, total


def forward(pipeline: EditPipeline) -> torch.Tensor:
    """One step of the transformer over fixed noise."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        result: torch.Tensor = pipeline._pipe.transformer(
            hidden_states=torch.randn(1, 48, 64, generator=generator),
            encoder_hidden_states=torch.randn(1, 7, 64, generator=generator),
            encoder_hidden_states_mask=None,
            timestep=torch.tensor([0.5]),
            img_shapes=[[(1, 4, 6), (1, 4, 6)]],
            return_dict=False,
        )[0]
    return result


@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_adapter_is_the_sum_of_its_files(
    linears: Linears, tmp_path: Path, scales: tuple[float, ...]
) -> None:
    stack, total = stacked(tmp_path, linears, scales)
    wanted = [(path, scale) for path, scale in stack if scale]
    assert_exact(deltas(linears, wanted), total, 2e-6)


@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_active_layer_computes_the_changed_weight(
    pipeline: EditPipeline, tmp_path: Path, scales: tuple[float, ...]
) -> None:
    stack, total = stacked(tmp_path, pipeline.linears, scales)
    generator = torch.Generator().manual_seed(0)

    with pipeline._loras.active(stack), torch.no_grad():
        for name in pipeline.linears:
            layer = layer_of(pipeline, name)
            x = torch.randn(2, 3, layer.in_features, generator=generator)
            weight = layer.weight.double() + total.get(name, 0)
            expected = x.double() @ weight.T
            if layer.bias is not None:
                expected += layer.bias.double()

            found = layer(x)

            assert (found - expected).norm() <= 1e-5 * expected.norm(), name


@pytest.mark.parametrize("scales", SCALES[3:], ids=str)
def test_forward_and_image_equal_those_of_merged_weights(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path, scales: tuple[float, ...]
) -> None:
    """To 1e-4 relative: each layer adds its 1e-5. The image is equal to 1 of 255."""
    stack, total = stacked(tmp_path, pipeline.linears, scales)
    merged = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    for name, delta in total.items():
        layer = merged._pipe.transformer.get_submodule(name)
        layer.weight.data = (layer.weight.double() + delta).float()

    with pipeline._loras.active(stack):
        ours = forward(pipeline)

    theirs = forward(merged)
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
    assert (ours - forward(pipeline)).norm() > 1e-2 * theirs.norm()
    assert np.abs(edit(pipeline, *stack) - edit(merged)).max() <= 1


def test_loha_gives_the_image_of_merged_weights(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "loha.safetensors"
    changes = loha(2, 3, 1.0, True, path, pipeline.linears)
    merged = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    for name, delta in changes.items():
        layer = merged._pipe.transformer.get_submodule(name)
        layer.weight.data = (layer.weight.double() + 0.05 * delta).float()

    assert np.abs(edit(pipeline, (path, 0.05)) - edit(merged)).max() <= 1


def test_scale_zero_and_no_lora_are_the_base_model_bit_for_bit(
    pipeline: EditPipeline, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(pipeline.linears, MODULES))
    base = edit(pipeline)

    assert not np.array_equal(base, edit(pipeline, (path, 1.0)))
    assert np.array_equal(base, edit(pipeline, (path, 0.0)))
    assert np.array_equal(base, edit(pipeline, (path, 0.0), (path, 0.0)))
    assert np.array_equal(base, edit(pipeline))


def test_base_model_is_the_same_bit_for_bit_after_100_switches(
    pipeline: EditPipeline, base: np.ndarray, tmp_path: Path
) -> None:
    files = [path for path, _ in write_files(tmp_path, pipeline.linears)]
    before = forward(pipeline)
    state = {name: value.clone() for name, value in pipeline._pipe.transformer.state_dict().items()}

    for turn in range(100):
        stack = [(path, 0.1 + turn % 5) for path in files[: 1 + turn % 3]]
        with pipeline._loras.active(stack):
            assert not torch.equal(before, forward(pipeline))
        with pipeline._loras.active([(files[0], 0.0)]):
            assert torch.equal(before, forward(pipeline))

    assert torch.equal(before, forward(pipeline))
    after = pipeline._pipe.transformer.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())


def test_image_changes_in_proportion_to_the_scale(pipeline: EditPipeline, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(pipeline.linears, MODULES))
    base = edit(pipeline)
    distances = [np.abs(base - edit(pipeline, (path, scale))).mean() for scale in (0.01, 0.1, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_same_file_twice_counts_twice(linears: Linears, tmp_path: Path) -> None:
    pairs = random_pairs(linears, MODULES)
    path = write_lora(tmp_path / "a.safetensors", pairs)
    found = deltas(linears, [(path, 1.0), (path, 1.0)])
    assert_exact(found, {name: 2 * pair.delta for name, pair in pairs.items()}, 1e-6)


class Stop(Exception):
    pass


@pytest.mark.parametrize("offload", [Offload.NONE, Offload.GROUP])
@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.DENOISE, Stage.DECODE])
def test_edit_interrupted_at_a_stage_leaves_no_lora_behind(
    tiny_model: Path, tmp_path: Path, offload: Offload, stage: Stage
) -> None:
    loaded = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32, offload=offload)
    base = edit(loaded)
    stack, _ = stacked(tmp_path, loaded.linears, (1.0, 2.0, 0.5))

    def leave(progress: Progress) -> None:
        if progress.stage is stage and progress.step == (0 if stage is Stage.ENCODE else 3):
            raise Stop

    with pytest.raises(Stop):
        loaded.edit(edit_params(*stack), [gradient()], leave)

    assert np.array_equal(base, edit(loaded))


def test_offloaded_model_gives_the_same_images_with_loras_and_without(
    pipeline: EditPipeline, base: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    offloaded = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, offload=Offload.GROUP
    )
    stack, _ = stacked(tmp_path, pipeline.linears, (1.0, 2.0, 0.5))
    changed = edit(pipeline, *stack)

    assert np.array_equal(changed, edit(offloaded, *stack))
    assert not np.array_equal(changed, base)
    assert np.array_equal(base, edit(offloaded, (stack[0][0], 0.0)))
    assert np.array_equal(base, edit(offloaded))


def test_linears_of_a_configuration_equal_those_of_the_loaded_model(
    pipeline: EditPipeline, tiny_model: Path
) -> None:
    assert read_linears(tiny_model) == pipeline.linears


def test_linears_of_the_published_configuration_equal_those_of_the_model() -> None:
    with torch.device("meta"):
        model = QwenImageTransformer2DModel(
            num_layers=60, attention_head_dim=128, num_attention_heads=24, joint_attention_dim=3584
        )

    expected = {
        name: (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert QWEN_IMAGE_EDIT_PLUS.linears({}) == expected
    assert len(expected) == 846
