"""The cells of a grid."""

import pytest

from pipelines.api.errors import InvalidParameter
from server.playground.form import Form, LoraField
from server.playground.grid import Vary, cells

FORM = Form(
    prompt="a", num_outputs=3, loras=(LoraField(), LoraField("x/sepia.safetensors", 1), LoraField())
)


def test_cells_vary_the_scale_of_the_first_lora_alone() -> None:
    found = cells(FORM, Vary.LORA_SCALE, "0, .5;1.25", None, 7)

    assert [cell.label for cell in found] == ["sepia × 0", "sepia × 0.5", "sepia × 1.25"]
    assert [cell.form.loras[1].scale for cell in found] == [0, 0.5, 1.25]
    assert {cell.form.params(lambda: 1).seed for cell in found} == {7}
    assert {cell.form.num_outputs for cell in found} == {1}


def test_cells_count_seeds_up_from_the_first() -> None:
    found = cells(FORM, Vary.SEED, "", 3, 2**31 - 2)

    seeds = [cell.form.params(lambda: 1).seed for cell in found]
    assert seeds == [2**31 - 2, 2**31 - 1, 0]
    assert found[0].label == "seed 2147483646"


@pytest.mark.parametrize("scales", ["", "1", "1,x", "1,-1", "1,5", "1,nan", "1 " * 13])
def test_cells_refuse_wrong_scales(scales: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        cells(FORM, Vary.LORA_SCALE, scales, None, 1)

    assert refused.value.field == "grid"


@pytest.mark.parametrize("count", [None, 1, 13, 2.5])
def test_cells_refuse_a_wrong_count_of_seeds(count: float | None) -> None:
    with pytest.raises(InvalidParameter, match="2 to 12 seeds"):
        cells(FORM, Vary.SEED, "", count, 1)


def test_cells_need_a_lora_to_vary_its_scale() -> None:
    with pytest.raises(InvalidParameter, match="needs a LoRA"):
        cells(Form(prompt="a"), Vary.LORA_SCALE, "0,1", None, 1)
