"""Both sides of the torch border know the same model families, and agree about each."""

import pytest

from pipelines.api import families as without_torch
from pipelines.engine import families as with_torch

NAMES = sorted(without_torch.FAMILIES)


def test_both_sides_register_the_same_families() -> None:
    assert sorted(with_torch.FAMILIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_of_a_family_agree(name: str) -> None:
    facts, family = without_torch.FAMILIES[name], with_torch.FAMILIES[name]

    assert family.facts is facts
    assert (facts.name, facts.spec.family) == (name, name)
    assert family.pipeline_class.__name__ == facts.pipeline_class
    assert set(facts.weight_stems) == set(facts.parameters)


def test_no_two_families_share_a_pipeline() -> None:
    classes = [family.pipeline_class for family in without_torch.FAMILIES.values()]

    assert len(set(classes)) == len(classes)
