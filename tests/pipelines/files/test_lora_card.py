"""What LoRA files and the notes beside them say: titles, trigger words, scales, thumbnails."""

import base64
import json
import os
from pathlib import Path

import pytest

from pipelines.files.lora_format.card import MAX_TEXT_CHARS, MAX_TRIGGER_WORDS, read_card
from pipelines.files.lora_format.report import LoraReport, inspect_lora
from pipelines.files.lora_format.thumbnail import (
    MAX_THUMBNAIL_BYTES,
    Thumbnail,
    embedded_thumbnail,
    read_preview,
)
from pipelines.files.lora_sidecars import MAX_NOTE_BYTES
from pipelines.files.safetensors_header import read_header
from tests.conftest import encoded, gradient
from tests.lora_files import random_pairs, write_lora

LINEARS = {"proj_out": (64, 64)}
PNG, JPEG, WEBP = (encoded(gradient(), kind) for kind in ("PNG", "JPEG", "WEBP"))


def make_lora(folder: Path, **metadata: str) -> Path:
    path = folder / "my.style.safetensors"
    named = {key.replace("modelspec_", "modelspec."): text for key, text in metadata.items()}
    return write_lora(path, random_pairs(LINEARS, list(LINEARS)), metadata=named or None)


def report_of(path: Path) -> LoraReport:
    return inspect_lora(path, LINEARS, path.name)


def note(path: Path, suffix: str, content: object) -> None:
    path.with_suffix(suffix).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"trained_words": '["foo", "bar, baz"]'}, ("foo", "bar, baz")),
        ({"trigger_words": "foo, bar baz,, foo"}, ("foo", "bar baz")),
        ({"trigger_word": '"one, two"'}, ("one, two",)),
        ({"modelspec_trigger_phrase": '["unclosed, list'}, ('["unclosed', "list")),
        ({"trained_words": "[1, null, {}]", "trigger_word": "foo"}, ("foo",)),
        ({"instance_prompt": "a photo of TOK, in oil"}, ("a photo of TOK, in oil",)),
        ({"trigger_word": "foo", "ss_tag_frequency": '{"1": {"cat": 9}}'}, ("foo",)),
        ({"ss_tag_frequency": '{"1": {"cat": 3, " dog ": 9}}'}, ("dog", "cat")),
        ({"ss_tag_frequency": "[" * 10_000}, ()),
        ({"trained_words": "[" * 10_000}, ("[" * MAX_TEXT_CHARS,)),
        ({"trigger_word": "red\x1b[31m\nline"}, ("red [31m line",)),
    ],
)
def test_trigger_words_are_read_from_the_metadata(
    tmp_path: Path, metadata: dict[str, str], words: tuple[str, ...]
) -> None:
    assert report_of(make_lora(tmp_path, **metadata)).trigger_words == words


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".civitai.info", {"trainedWords": ["foo, bar", "baz"]}, ("foo, bar", "baz")),
        (".metadata.json", {"civitai": {"trainedWords": ["foo"]}}, ("foo",)),
        (".json", {"activation text": "foo, bar"}, ("foo, bar",)),
        (".json", {"activation text": "", "trained_words": ["bar"]}, ("bar",)),
    ],
)
def test_trigger_words_are_read_from_notes_beside_the_file(
    tmp_path: Path, suffix: str, content: object, words: tuple[str, ...]
) -> None:
    path = make_lora(tmp_path, ss_tag_frequency='{"1": {"cat": 9}}')
    note(path, suffix, content)

    assert report_of(path).trigger_words == words


def test_words_of_the_file_count_more_than_those_of_notes(tmp_path: Path) -> None:
    path = make_lora(tmp_path, trigger_word="own")
    note(path, ".civitai.info", {"trainedWords": ["other"]})

    assert report_of(path).trigger_words == ("own",)


def test_number_and_length_of_trigger_words_are_bounded(tmp_path: Path) -> None:
    path = make_lora(tmp_path)
    note(path, ".civitai.info", {"trainedWords": [f"{n}" * 2000 for n in range(100)]})

    words = report_of(path).trigger_words

    assert len(words) == MAX_TRIGGER_WORDS
    assert max(map(len, words)) == MAX_TEXT_CHARS


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".civitai.info", {"model": {"name": "Oil"}, "name": "v1", "baseModel": "Qwen"}),
        (".metadata.json", {"model_name": "Oil", "base_model": "Qwen"}),
        (".metadata.json", {"civitai": {"model": {"name": "Oil"}}, "base_model": "Qwen"}),
    ],
)
def test_title_and_base_model_come_from_notes(tmp_path: Path, suffix: str, content: object) -> None:
    path = make_lora(tmp_path, ss_output_name="run-7-final")
    note(path, suffix, content)

    card = read_card(path, read_header(path).metadata)

    assert (card.title, card.base_model) == ("Oil", "Qwen")


def test_title_of_the_file_counts_more_than_that_of_notes(tmp_path: Path) -> None:
    path = make_lora(tmp_path, modelspec_title="Own", ss_output_name="run")
    note(path, ".metadata.json", {"model_name": "Other"})

    assert report_of(path).title == "Own"


@pytest.mark.parametrize(
    ("hint", "scale"),
    [
        ("0.8", 0.8),
        ("Strength: 0.9.", 0.9),
        ("recommended LoRA weight 1.25", 1.25),
        ("Use 0.5 to 0.8", None),
        ("strength 99", None),
        ("0", None),
    ],
)
def test_scale_is_taken_from_a_hint_that_says_nothing_else(
    tmp_path: Path, hint: str, scale: float | None
) -> None:
    report = report_of(make_lora(tmp_path, modelspec_usage_hint=hint))

    assert (report.usage_hint, report.suggested_scale) == (hint, scale)


@pytest.mark.parametrize(
    ("suffix", "content", "scale"),
    [
        (".json", {"preferred weight": 0.7}, 0.7),
        (".json", {"preferred weight": "0.7"}, 0.7),
        (".json", {"preferred weight": 0}, None),
        (".json", {"preferred weight": "NaN"}, None),
        (".json", {"preferred weight": [1]}, None),
        (".metadata.json", {"usage_tips": '{"strength": 0.6}'}, 0.6),
        (".metadata.json", {"usage_tips": "{"}, None),
    ],
)
def test_scale_is_taken_from_notes(
    tmp_path: Path, suffix: str, content: object, scale: float | None
) -> None:
    path = make_lora(tmp_path)
    note(path, suffix, content)

    assert report_of(path).suggested_scale == scale


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"trainedWords": ["' + b"a" * MAX_NOTE_BYTES],
    ids=["broken", "list", "no text", "nested", "too large"],
)
def test_unreadable_note_counts_as_absent(tmp_path: Path, data: bytes) -> None:
    path = make_lora(tmp_path)
    for suffix in (".civitai.info", ".metadata.json"):
        path.with_suffix(suffix).write_bytes(data)

    report = report_of(path)

    assert report.fits
    assert report.trigger_words == ()


@pytest.mark.parametrize(
    ("suffix", "data", "media_type"),
    [
        (".png", PNG, "image/png"),
        (".preview.png", JPEG, "image/jpeg"),
        (".preview.webp", WEBP, "image/webp"),
        (".jpg", JPEG, "image/jpeg"),
    ],
)
def test_image_beside_the_file_is_its_thumbnail(
    tmp_path: Path, suffix: str, data: bytes, media_type: str
) -> None:
    path = make_lora(tmp_path)
    path.with_suffix(suffix).write_bytes(data)

    assert report_of(path).has_thumbnail
    assert read_preview(path) == Thumbnail(media_type, data)


@pytest.mark.parametrize(
    "data",
    [b"", b"<svg onload='x'/>", b"GIF89a", b"RIFF\0\0\0\0WAVE", PNG + bytes(MAX_THUMBNAIL_BYTES)],
    ids=["empty", "svg", "gif", "sound", "too large"],
)
def test_other_file_beside_the_lora_is_no_thumbnail(tmp_path: Path, data: bytes) -> None:
    path = make_lora(tmp_path)
    path.with_suffix(".png").write_bytes(data)

    assert not report_of(path).has_thumbnail
    assert read_preview(path) is None
    # the next place is looked at
    path.with_suffix(".preview.png").write_bytes(PNG)
    assert read_preview(path) == Thumbnail("image/png", PNG)


def test_pipe_and_folder_beside_the_lora_are_not_opened(tmp_path: Path) -> None:
    path = make_lora(tmp_path)
    for suffix in (".png", ".civitai.info", ".metadata.json"):
        os.mkfifo(path.with_suffix(suffix))
    path.with_suffix(".jpg").mkdir()

    assert not report_of(path).has_thumbnail


def test_thumbnail_in_the_metadata_is_decoded_and_not_returned_with_it(tmp_path: Path) -> None:
    uri = f"data:image/gif;base64,{base64.b64encode(JPEG).decode()}"
    path = make_lora(tmp_path, modelspec_thumbnail=uri, cover="DATA:image/png;base64,x", author="A")

    report = report_of(path)

    assert report.has_thumbnail
    assert report.metadata == {"author": "A"}
    # by its bytes, not by what the URI says
    found = embedded_thumbnail(read_header(path).metadata)
    assert found == Thumbnail("image/jpeg", JPEG)


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,!!!",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(),
        "data:text/html,<script>",
        "https://example.org/a.png",
        "data:image/png;base64,aéa",
    ],
)
def test_other_thumbnail_in_the_metadata_counts_as_absent(tmp_path: Path, uri: str) -> None:
    report = report_of(make_lora(tmp_path, modelspec_thumbnail=uri))

    assert not report.has_thumbnail
    assert report.metadata == {}
