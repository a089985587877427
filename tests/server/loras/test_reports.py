"""Reports are made once per version of a file, of the files beside it and of the model."""

import os
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import Linears
from pipelines.files.catalog import Catalog
from pipelines.files.lora_format.report import LoraReport
from server.errors import NotFound
from server.loras.reports import LoraReports
from tests.lora_files import random_pairs, write_lora

LINEARS = {"proj_out": (64, 64)}


class Place:
    """A folder of LoRAs, and the model that is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "loras"
        self.folder.mkdir()
        self.linears: Linears = LINEARS
        self.reports = LoraReports(Catalog(folder), lambda: self.linears)

    def write(self, name: str, *, rank: int = 4, **metadata: str) -> Path:
        pairs = random_pairs(LINEARS, list(LINEARS), rank=rank)
        return write_lora(self.folder / f"{name}.safetensors", pairs, metadata=metadata or None)

    def brief(self, name: str) -> LoraReport:
        return self.reports.brief(self.reports.find(name))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_report_is_kept_while_nothing_changes(place: Place) -> None:
    place.write("a", trigger_word="foo")

    first = place.brief("a")

    assert first.trigger_words == ("foo",)
    assert first.metadata == {}
    assert place.brief("a") is first
    assert place.reports.full(place.reports.find("a")).metadata == {"trigger_word": "foo"}


def test_report_is_made_again_when_the_file_or_a_note_changes(place: Place) -> None:
    path = place.write("a")
    assert place.brief("a").ranks == {4: 1}

    place.write("a", rank=8)
    assert place.brief("a").ranks == {8: 1}
    path.with_suffix(".civitai.info").write_text('{"trainedWords": ["foo"]}')
    assert place.brief("a").trigger_words == ("foo",)
    path.with_suffix(".civitai.info").unlink()
    assert place.brief("a").trigger_words == ()


def test_report_is_made_again_for_another_model(place: Place) -> None:
    place.write("a")
    assert place.brief("a").fits

    place.linears = {"proj_out": (32, 32)}

    assert not place.brief("a").fits


def test_damaged_file_is_listed_with_its_problem_until_it_is_replaced(place: Place) -> None:
    path = place.write("a")
    place.write("b")
    path.write_text("<html>")

    [(a, problem), (b, report)] = place.reports.all()

    assert (a.name, b.name) == ("a.safetensors", "b.safetensors")
    assert "looks like a web page" in str(problem)
    assert isinstance(report, LoraReport)
    for _ in range(2):
        with pytest.raises(LoraInvalid, match="looks like a web page"):
            place.brief("a")
    place.write("a")
    assert place.brief("a").fits


def test_deleted_file_is_forgotten(place: Place) -> None:
    path = place.write("a")
    place.reports.all()
    os.unlink(path)

    assert place.reports.all() == []
    with pytest.raises(NotFound, match="no LoRA 'a' under weights/loras"):
        place.reports.find("a")


@pytest.mark.parametrize("name", ["https://example.org/a.safetensors", "owner/repo", "civitai:1@2"])
def test_reference_to_a_file_elsewhere_is_not_found(place: Place, name: str) -> None:
    with pytest.raises(NotFound):
        place.reports.find(name)


def test_thumbnail_of_a_damaged_file_is_not_found(place: Place) -> None:
    place.write("a").write_text("<html>")

    with pytest.raises(NotFound, match="has no thumbnail"):
        place.reports.thumbnail("a")
