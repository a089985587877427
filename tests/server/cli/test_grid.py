"""The axes of `--grid`, as the command line names them."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from server.cli.client import EditOptions
from server.cli.grid import MAX_CELLS, lay_out, parse_axes

OPTIONS = EditOptions(
    prompt="a",
    images=(Path("a.png"),),
    loras=(("my-style", 0.8),),
    size=None,
    seed=7,
    num_inference_steps=None,
    true_cfg_scale=None,
    negative_prompt=None,
    output_format="png",
)
TWO_LORAS = replace(OPTIONS, loras=(("a", 1.0), ("https://h/b.safetensors", 0.5)))


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("scale=0,0.25,1", (0, 0.25, 1)),
        ("my-style=0:1.2:0.3", (0, 0.3, 0.6, 0.9, 1.2)),
        ("seed=1:4:1", (1, 2, 3, 4)),
        ("steps=4,8", (4, 8)),
        ("cfg=1:2:0.4", (1, 1.4, 1.8)),
        ("seed=5", (5,)),
        ("scale=.5,1.,2e-1", (0.5, 1, 0.2)),
        ("scale=0:1e-1:.05", (0, 0.05, 0.1)),
    ],
)
def test_parse_axes_reads_a_list_or_a_range_with_both_ends(
    spec: str, values: tuple[float, ...]
) -> None:
    [axis] = parse_axes([spec], OPTIONS)
    assert axis.values == pytest.approx(values)


def test_axis_changes_only_its_own_field() -> None:
    for spec, expected in (
        ("scale=2", replace(OPTIONS, loras=(("my-style", 2.0),))),
        ("seed=2", replace(OPTIONS, seed=2)),
        ("steps=2", replace(OPTIONS, num_inference_steps=2)),
        ("cfg=2", replace(OPTIONS, true_cfg_scale=2.0)),
    ):
        [axis] = parse_axes([spec], OPTIONS)
        assert axis.apply(OPTIONS, 2.0) == expected


def test_parse_axes_finds_a_lora_by_its_name_without_address_and_suffix() -> None:
    [axis] = parse_axes(["b=0,1"], TWO_LORAS)
    assert axis.apply(TWO_LORAS, 0.0).loras == (("a", 1.0), ("https://h/b.safetensors", 0.0))


def test_lay_out_makes_rows_and_columns_of_two_axes() -> None:
    axes = parse_axes(["my-style=0,1", "seed=1,2,3"], OPTIONS)
    rows = lay_out(axes, OPTIONS)

    assert [[cell.label for cell in row] for row in rows] == [
        [("my-style 0", "seed 1"), ("my-style 0", "seed 2"), ("my-style 0", "seed 3")],
        [("my-style 1", "seed 1"), ("my-style 1", "seed 2"), ("my-style 1", "seed 3")],
    ]
    assert rows[1][2].options == replace(OPTIONS, seed=3, loras=(("my-style", 1.0),))


def test_lay_out_wraps_one_axis_into_rows() -> None:
    rows = lay_out(parse_axes(["seed=1:8:1"], OPTIONS), OPTIONS)
    assert [len(row) for row in rows] == [6, 2]


def test_parse_axes_allows_as_many_cells_as_the_limit() -> None:
    axes = parse_axes(["scale=0:1.75:0.25", "seed=1:8:1"], OPTIONS)
    assert sum(map(len, lay_out(axes, OPTIONS))) == MAX_CELLS


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["scale"], "'scale' must be NAME=VALUES, such as scale=0,0.5,1"),
        (["scale="], "'scale=' must be NAME=VALUES"),
        (["scale=a"], "'a' must be numbers as 0,0.5,1 or a range as 0:1:0.25"),
        (["scale=1,,2"], "must be numbers"),
        (["scale=0:1"], "must be numbers as 0,0.5,1 or a range"),
        (["scale=0:1:0"], "a range is FROM:TO:STEP, upwards in steps above 0"),
        (["scale=1:0:0.5"], "a range is FROM:TO:STEP"),
        (["scale=0,5"], "'scale=0,5': scale must be between 0.0 and 4.0, got 5"),
        (["seed=-1"], "seed must be between 0 and 2147483647, got -1"),
        (["seed=1.5"], "seed must be a whole number, got 1.5"),
        (["steps=1"], "steps must be between 2 and 100, got 1"),
        (["cfg=21"], "cfg must be between 0.0 and 20.0, got 21"),
        (["sedd=1,2"], "'sedd' is none of scale, seed, steps and cfg, and no LoRA given with"),
        (["seed=1:65:1"], "has too many values; at most 64 cells"),
        (["seed=1:1e999:1"], "at most 64 cells"),
        (["seed=1e999:1e999:1"], "at most 64 cells"),
        (["cfg=1e999"], "cfg must be between 0.0 and 20.0, got inf"),
        (["cfg=nan"], "'nan' must be numbers"),
        (["seed=0:1000000000:0.0000001"], "at most 64 cells"),
        (["seed=1:9:1", "scale=0:4:0.5"], "9 x 9 are 81 cells; at most 64 are allowed"),
        (["seed=1,2", "seed=3"], "names seed twice"),
        (["scale=1", "my-style=0"], "names my-style twice"),
        (["seed=1", "cfg=1", "steps=2"], "was given 3 times; a sheet has 2 axes"),
    ],
)
def test_parse_axes_refuses_with_the_value_and_the_allowed_ones(
    specs: list[str], message: str
) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        parse_axes(specs, OPTIONS)

    assert message in caught.value.message
    assert caught.value.param_hint == "--grid"


@pytest.mark.parametrize(
    ("loras", "message"),
    [
        ((), "--lora names none: add --lora NAME"),
        (TWO_LORAS.loras, "--lora names a, https://h/b.safetensors: name one, as NAME=0,0.5,1"),
    ],
)
def test_parse_axes_refuses_scale_unless_there_is_one_lora(
    loras: tuple[tuple[str, float], ...], message: str
) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        parse_axes(["scale=1"], replace(OPTIONS, loras=loras))

    assert message in caught.value.message
