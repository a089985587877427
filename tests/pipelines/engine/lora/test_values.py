"""Files that change nothing are found, and values that the model's numbers cannot hold refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.api.errors import LoraOverflow
from pipelines.engine.lora import compose, read_lora
from pipelines.engine.pipeline import EditPipeline
from tests.lora_files import Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import CPU, MODULES, edit
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS

FIRST = f"transformer.{MODULES[0]}"


def changed(change: Callable[[str, torch.Tensor], torch.Tensor], alpha: float = 2.0):
    """Write a LoRA on two layers, each tensor of it changed."""

    def write(path: Path, linears: Linears) -> Path:
        write_lora(path, random_pairs(linears, MODULES[:2], alpha=alpha))
        save_file({key: change(key, value) for key, value in load_file(path).items()}, path)
        return path

    return write


def zero(part: str) -> Callable[[str, torch.Tensor], torch.Tensor]:
    return lambda key, value: value * 0 if part in key else value


IDLE = {
    "up of zeros": (changed(zero("lora_B")), True),
    "down of zeros": (changed(zero("lora_A")), True),
    "alpha 0": (changed(zero("nothing"), alpha=0.0), True),
    "one layer of zeros": (changed(zero(f"{MODULES[0]}.lora_B")), False),
    "rows whose sum is zero": (
        changed(lambda key, value: value - value.mean() if "lora_B" in key else value),
        False,
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_file_that_changes_nothing_is_found(linears: Linears, tmp_path: Path, case: str) -> None:
    write, is_idle = IDLE[case]
    assert read_lora(write(tmp_path / "a.safetensors", linears), linears).is_idle is is_idle


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "alpha None" not in name])
def test_file_of_each_layout_changes_something(
    linears: Linears, tmp_path: Path, layout: str
) -> None:
    path = tmp_path / "a.safetensors"
    LAYOUTS[layout](path, linears)
    assert not read_lora(path, linears).is_idle


@pytest.mark.parametrize(
    ("part", "is_idle"), [("diff", True), ("diff_b", True), ("set_weight", False)]
)
def test_differences_of_zeros_change_nothing_and_weights_of_zeros_do(
    linears: Linears, tmp_path: Path, part: str, is_idle: bool
) -> None:
    path = tmp_path / "a.safetensors"
    shape = linears[MODULES[0]][:1] if part == "diff_b" else linears[MODULES[0]]
    save_file({f"{FIRST}.{part}": torch.zeros(shape)}, path)
    assert read_lora(path, linears).is_idle is is_idle


def test_magnitudes_beside_a_lora_of_zeros_may_change_something(
    linears: Linears, tmp_path: Path
) -> None:
    path = changed(zero("lora_B"))(tmp_path / "a.safetensors", linears)
    magnitude = torch.ones(linears[MODULES[0]][0], 1)
    save_file({**load_file(path), f"{FIRST}.dora_scale": magnitude}, path)
    assert not read_lora(path, linears).is_idle


def test_engine_lists_the_files_of_a_stack_that_change_nothing(
    pipeline: EditPipeline, tmp_path: Path
) -> None:
    none = changed(zero("lora_B"))(tmp_path / "none.safetensors", pipeline.linears)
    some = changed(zero("nothing"))(tmp_path / "some.safetensors", pipeline.linears)

    assert pipeline._loras.idle([(some, 1.0), (none, 0.5)]) == [none]
    assert pipeline._loras.idle([(some, 1.0), (none, 0.0)]) == []


@pytest.mark.parametrize(
    ("largest", "dtype", "scale"), [(3e38, torch.float32, 4.0), (2e5, torch.float16, 1.0)]
)
def test_values_beyond_the_number_format_are_refused_with_file_and_layer(
    linears: Linears, tmp_path: Path, largest: float, dtype: torch.dtype, scale: float
) -> None:
    huge = changed(
        lambda key, value: value.clamp_min(largest) if f"{MODULES[0]}.lora_B" in key else value
    )
    path = huge(tmp_path / "huge.safetensors", linears)
    good = write_lora(tmp_path / "good.safetensors", random_pairs(linears, MODULES[1:2]))
    stack = [(read_lora(path, linears), scale), (read_lora(good, linears), 1.0)]
    words = str(dtype).removeprefix("torch.")

    with pytest.raises(
        LoraOverflow,
        match=rf"^huge.safetensors at scale {scale:g} makes .* {MODULES[0]} that {words}",
    ):
        compose(stack, lambda name: torch.zeros(linears[name]), CPU, dtype)


def test_edit_with_an_overflow_fails_and_leaves_no_lora_behind(
    pipeline: EditPipeline, base: object, tmp_path: Path
) -> None:
    huge = changed(lambda key, value: value.clamp_min(3e38) if "lora_B" in key else value)
    path = huge(tmp_path / "huge.safetensors", pipeline.linears)

    with pytest.raises(LoraOverflow):
        edit(pipeline, (path, 4.0))
