"""The form: from a browser's values to an edit, and back."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.api.errors import InvalidParameter
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds
from server.job import OutputFormat
from server.playground.form import (
    AUTO_SIZE,
    CUSTOM_SIZE,
    FIELDS,
    NAMED_SIZES,
    Form,
    LoraField,
    SlotImage,
    as_offered,
    form_of_job,
    form_of_values,
    random_seed,
    sizes_within,
    values_of_form,
)
from tests.make_job import make_job

FULL = Form(
    images=(SlotImage("/a/one.png", "one.png"), None, None),
    prompt="Make it blue",
    negative_prompt="red",
    size=CUSTOM_SIZE,
    width=300,
    height=400,
    loras=(LoraField("a", 0.5), LoraField(), LoraField("b", 2)),
    seed=7,
    is_seed_locked=True,
    num_inference_steps=5,
    true_cfg_scale=2.5,
    output_format=OutputFormat.WEBP,
    num_outputs=2,
)


def sent(form: Form) -> list[Any]:
    """The values that a browser sends for a form."""
    values = values_of_form(form)
    images = [
        {"path": image.path, "orig_name": image.name} if image else None for image in form.images
    ]
    return [*images, *values[3:]]


def refusal(**fields: Any) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as refused:
        Form(**{"prompt": "a", **fields}).params(lambda: 1)
    return refused.value


def test_params_have_all_values_of_a_full_form() -> None:
    assert FULL.params(lambda: 1) == EditParams(
        prompt="Make it blue",
        seed=7,
        negative_prompt="red",
        size=(300, 400),
        num_inference_steps=5,
        true_cfg_scale=2.5,
        num_outputs=2,
        loras=(LoraRef("a", 0.5), LoraRef("b", 2)),
    )


def test_params_leave_empty_fields_to_the_model() -> None:
    params = Form(prompt="a").params(lambda: 1)

    assert params == EditParams(prompt="a", seed=1)


def test_params_draw_a_seed_unless_it_is_locked() -> None:
    assert Form(prompt="a", seed=5).params(lambda: 9).seed == 9
    assert Form(prompt="a", seed=5, is_seed_locked=True).params(lambda: 9).seed == 5
    assert refusal(seed=None, is_seed_locked=True).field == "seed"


@pytest.mark.parametrize("size", [value for _, value in NAMED_SIZES if "*" in value])
def test_named_size_is_allowed(size: str) -> None:
    assert Form(prompt="a", size=size).params(lambda: 1).size


def test_named_sizes_leave_out_sizes_beyond_the_bounds() -> None:
    offered = [value for _, value in sizes_within(SizeBounds(256, 512))]

    assert offered == [AUTO_SIZE, "256*256", "512*512", CUSTOM_SIZE]
    assert sizes_within(SizeBounds()) == list(NAMED_SIZES)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ("512*512", ("512*512", 512, 512)),
        ("1152*864", (CUSTOM_SIZE, 1152, 864)),
        ("large", (AUTO_SIZE, 512, 512)),
        (None, (AUTO_SIZE, 512, 512)),
    ],
)
def test_named_size_that_is_not_offered_becomes_a_custom_size(
    size: object, shown: tuple[object, ...]
) -> None:
    values = sent(Form())
    values[FIELDS.index("size")] = size

    offered = as_offered(values, SizeBounds(256, 512))

    assert (offered["size"], offered["width"], offered["height"]) == shown
    assert list(offered) == list(FIELDS)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"size": CUSTOM_SIZE, "width": 255, "height": 512}, "size"),
        ({"size": CUSTOM_SIZE, "width": 5000, "height": 5000}, "size"),
        ({"size": CUSTOM_SIZE, "width": float("inf"), "height": 512}, "size"),
        ({"size": CUSTOM_SIZE, "width": 512.5, "height": 512}, "size"),
        ({"size": CUSTOM_SIZE, "width": None}, "size"),
        ({"size": "large"}, "size"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"num_inference_steps": float("nan")}, "num_inference_steps"),
        ({"num_inference_steps": float("inf")}, "num_inference_steps"),
        ({"true_cfg_scale": float("nan")}, "true_cfg_scale"),
        ({"num_outputs": 7}, "num_outputs"),
        ({"num_outputs": 0}, "num_outputs"),
        ({"seed": -1, "is_seed_locked": True}, "seed"),
        ({"prompt": "  "}, "prompt"),
        ({"loras": (LoraField(), LoraField(), LoraField("c", 9))}, "loras.2.scale"),
    ],
)
def test_params_name_the_field_when_they_refuse_it(fields: dict[str, Any], field: str) -> None:
    assert refusal(**fields).field == field


def test_form_survives_a_round_trip_through_the_browser() -> None:
    assert form_of_values(sent(FULL)) == FULL
    assert form_of_values(sent(Form())) == Form()


def test_form_reads_numbers_from_text() -> None:
    values = sent(Form(prompt="a"))
    first = FIELDS.index("seed")
    values[first : first + 4] = ["12", True, " 4 ", "2.5"]

    params = form_of_values(values).params(lambda: 1)

    assert (params.seed, params.num_inference_steps, params.true_cfg_scale) == (12, 4, 2.5)


def test_form_refuses_a_word_in_a_number_field() -> None:
    values = sent(Form())
    values[FIELDS.index("num_inference_steps")] = "many"

    with pytest.raises(InvalidParameter) as refused:
        form_of_values(values)

    assert str(refused.value) == "num_inference_steps must be a number, got 'many'"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside),
    max_leaves=4,
)


@given(st.lists(ANYTHING, min_size=len(FIELDS), max_size=len(FIELDS)))
def test_form_reads_or_refuses_any_values(values: list[Any]) -> None:
    with contextlib.suppress(InvalidParameter):
        form_of_values(values).params(random_seed)


def test_form_of_a_job_repeats_the_job() -> None:
    params = FULL.params(lambda: 1)
    job = make_job(contract="page", params=params, output_format=OutputFormat.WEBP)

    form = form_of_job(job, [SlotImage("/kept/one.png", "one.png")])

    assert form.params(lambda: 1) == params
    assert form.is_seed_locked
    assert form.images[0] == SlotImage("/kept/one.png", "one.png")
    assert form_of_job(make_job(contract="page"), []).size == AUTO_SIZE
