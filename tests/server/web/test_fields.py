"""Request fields that several contracts share."""

import pytest
from pydantic import ValidationError

from pipelines.api.params import SEED_RANGE, LoraRef
from server.web.fields import LenientModel, LoraItem, lora_refs, seed_or_random


class Body(LenientModel):
    prompt: str
    steps: int = 8


@pytest.mark.parametrize("absent", [{}, {"steps": None}, {"steps": ""}, {"unknown": 1}])
def test_blank_and_unknown_fields_count_as_absent(absent: dict[str, object]) -> None:
    assert Body.model_validate({"prompt": "a", **absent}) == Body(prompt="a", steps=8)


@pytest.mark.parametrize("prompt", [None, 1])
def test_prompt_is_never_dropped(prompt: object) -> None:
    with pytest.raises(ValidationError, match="valid string"):
        Body.model_validate({"prompt": prompt})

    assert Body.model_validate({"prompt": ""}).prompt == ""


def test_body_that_is_not_an_object_is_refused() -> None:
    with pytest.raises(ValidationError, match="valid dictionary"):
        Body.model_validate(["prompt"])


@pytest.mark.parametrize(
    "lora", [{}, {"path": ""}, {"path": "a", "scale": 4.1}, {"path": "a", "scale": float("nan")}]
)
def test_lora_outside_the_limits_is_refused(lora: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoraItem.model_validate(lora)


def test_loras_become_engine_parameters_in_order() -> None:
    items = [LoraItem(path="a"), LoraItem(path="b", scale=0.5)]

    assert lora_refs(items) == (LoraRef("a", 1.0), LoraRef("b", 0.5))


@pytest.mark.parametrize("seed", [0, 7, SEED_RANGE[1]])
def test_given_seed_is_kept(seed: int) -> None:
    assert seed_or_random(seed) == seed


@pytest.mark.parametrize("seed", [None, -1])
def test_absent_seed_is_random_within_the_range(seed: int | None) -> None:
    seeds = {seed_or_random(seed) for _ in range(8)}

    assert len(seeds) > 1
    assert all(SEED_RANGE[0] <= each <= SEED_RANGE[1] for each in seeds)
