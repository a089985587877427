"""Sampling profiles: what is allowed, and which source a value comes from."""

import dataclasses
from typing import Any

import pytest

from pipelines.api.errors import InvalidParameter
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.profiles import LoraProfile, RunSampling, Source, resolve
from pipelines.api.sampling import NO_TERMINAL, Sampling, dump_sampling, parse_sampling

SPEC = QWEN_IMAGE_EDIT_PLUS.spec
NONE = Sampling()
LIGHTNING = Sampling(steps=4, true_cfg_scale=1.0, shift=3.0, shift_terminal=NO_TERMINAL)
FAST = LoraProfile("fast.safetensors", LIGHTNING)


def run(
    request: Sampling = NONE,
    preset: Sampling = NONE,
    *loras: LoraProfile,
    model: Sampling = NONE,
) -> RunSampling:
    return resolve(request, preset, loras, dataclasses.replace(SPEC, sampling=model))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"steps": 1}, "steps"),
        ({"steps": 101}, "steps"),
        ({"true_cfg_scale": 21.0}, "true_cfg_scale"),
        ({"true_cfg_scale": float("nan")}, "true_cfg_scale"),
        ({"shift": 0.0}, "shift"),
        ({"shift_terminal": 0.95}, "shift_terminal"),
        ({"sigmas": ()}, "sigmas"),
        ({"sigmas": (1.0, 0.5, 0.0)}, "sigmas"),
        ({"sigmas": (0.5, 0.5)}, "sigmas"),
        ({"sigmas": (1.5, 0.5)}, "sigmas"),
        ({"sigmas": (float("nan"),)}, "sigmas"),
        ({"sigmas": (1.0,), "steps": 4}, "sigmas"),
        ({"sigmas": (1.0,), "shift": 3.0}, "sigmas"),
    ],
)
def test_value_that_no_scheduler_runs_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Sampling(**values)

    assert caught.value.field == field


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": 4, "true_cfg_scale": 1, "shift": 3, "shift_terminal": None},
        {"shift_terminal": 0.02},
        {"sigmas": [1, 0.9, 0.5]},
    ],
)
def test_profile_survives_json(values: dict[str, Any]) -> None:
    assert dump_sampling(parse_sampling(values)) == values


def test_null_means_none_for_the_terminal_and_absent_for_the_rest() -> None:
    assert parse_sampling({"steps": None, "shift_terminal": None}) == Sampling(
        shift_terminal=NO_TERMINAL
    )
    # beside sigmas there is no terminal anyway
    assert parse_sampling({"sigmas": [1], "shift_terminal": None}) == Sampling(sigmas=(1.0,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "an object is expected, got list"),
        ({"step": 4}, "unknown keys: step; allowed are steps, true_cfg_scale, shift"),
        ({"steps": "4"}, "numbers are expected"),
        ({"steps": True}, "numbers are expected"),
        ({"steps": 4.5}, "steps is a whole number, got 4.5"),
        ({"sigmas": 1}, "a list of numbers"),
        ({"sigmas": [1, "a"]}, "a list of numbers"),
    ],
)
def test_malformed_profile_is_named(values: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_sampling(values)


def test_values_come_from_the_first_source_that_has_them() -> None:
    found = run(
        Sampling(true_cfg_scale=2.0),
        Sampling(steps=6),
        FAST,
        model=Sampling(steps=10, shift=5.0),
    )

    assert (found.steps, found.true_cfg_scale) == (6, 2.0)
    assert found.curve == Sampling(shift=3.0, shift_terminal=NO_TERMINAL)
    assert found.sources == {
        "true_cfg_scale": Source.REQUEST,
        "steps": Source.PRESET,
        "shift": Source.LORA,
        "shift_terminal": Source.LORA,
    }


def test_without_any_profile_the_model_decides() -> None:
    found = run()

    assert (found.steps, found.true_cfg_scale, found.curve) == (40, 4.0, NONE)
    assert found.sources == {
        "steps": Source.MODEL,
        "true_cfg_scale": Source.MODEL,
        "shift": Source.SCHEDULER,
        "shift_terminal": Source.SCHEDULER,
    }


SIGMAS = Sampling(sigmas=(1.0, 0.5))


@pytest.mark.parametrize(
    ("request_", "lora", "steps", "curve"),
    [
        # explicit sigmas replace all that shapes a schedule
        (SIGMAS, LIGHTNING, 2, SIGMAS),
        # a number of steps needs another schedule than the LoRA's sigmas
        (Sampling(steps=5), SIGMAS, 5, NONE),
        (Sampling(shift=2.0), SIGMAS, 40, Sampling(shift=2.0)),
        (NONE, SIGMAS, 2, SIGMAS),
    ],
)
def test_sigmas_are_not_mixed_with_what_they_replace(
    request_: Sampling, lora: Sampling, steps: int, curve: Sampling
) -> None:
    found = run(request_, NONE, LoraProfile("fast", lora))

    assert (found.steps, found.curve) == (steps, curve)


def test_contradiction_of_the_request_runs_as_asked_with_a_warning() -> None:
    found = run(Sampling(steps=40, true_cfg_scale=4.0), NONE, FAST)

    assert (found.steps, found.true_cfg_scale) == (40, 4.0)
    assert found.warnings == (
        "fast.safetensors is made for 4 steps; the request asks for 40.",
        "fast.safetensors is made for a true_cfg_scale of 1; the request asks for 4.",
    )


def test_first_of_two_loras_that_contradict_each_other_decides() -> None:
    other = LoraProfile("eight.safetensors", Sampling(steps=8, true_cfg_scale=1.0))

    found = run(NONE, NONE, FAST, other)

    assert found.steps == 4
    assert found.warnings == ("eight.safetensors is made for 8 steps; another LoRA asks for 4.",)


def test_guess_is_said() -> None:
    guess = LoraProfile("x-turbo", Sampling(steps=8, true_cfg_scale=1.0), is_guess=True)

    [warning] = run(NONE, NONE, guess).warnings

    assert warning == (
        "x-turbo is taken for a few-step LoRA by its name: 8 steps, CFG 1, on the model's own "
        "schedule, is a guess."
    )


@pytest.mark.parametrize(
    ("sampling", "text"),
    [
        (LIGHTNING, "4 steps, CFG 1, shift 3, no terminal"),
        (Sampling(steps=8, shift_terminal=0.02), "8 steps, terminal 0.02"),
        (Sampling(sigmas=(1.0, 0.25), true_cfg_scale=1.5), "sigmas 1 0.25, CFG 1.5"),
    ],
)
def test_profile_in_words(sampling: Sampling, text: str) -> None:
    assert str(sampling) == text
