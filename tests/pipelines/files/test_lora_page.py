"""docs/loras.md names what the engine applies."""

import re
from pathlib import Path

from pipelines.engine.lora.kinds import BUILDERS
from pipelines.files.lora_format.kinds import COMPANIONS, KINDS
from pipelines.files.lora_format.prefixes import WORDS

PAGE = (Path(__file__).parents[3] / "docs" / "loras.md").read_text()


def rows() -> dict[str, str]:
    """The rows of the page's table of kinds by their first cells."""
    table = PAGE.split("## Kinds")[1].split("\n## ")[0]
    return {line.split("|")[1].strip(): line for line in table.splitlines() if line[:2] == "| "}


def test_page_has_each_kind_with_its_tensors() -> None:
    suffixes = [(kind.name, pattern) for kind in KINDS for pattern, _ in kind.suffixes]
    suffixes += [(c.name, pattern) for c in COMPANIONS for pattern in c.suffixes if c.name]
    for kind, pattern in suffixes:
        literal = re.sub(r"\(.*?\)\*|\\\.weight\$|\$|\\", "", pattern.pattern).strip(".")
        assert f"`{literal}" in rows()[kind]


def test_page_has_each_word_before_a_layer() -> None:
    assert [word for word in WORDS if f"`{word}`" not in PAGE] == []


def test_both_halves_know_the_same_kinds() -> None:
    assert set(BUILDERS) == {kind.name for kind in KINDS}
