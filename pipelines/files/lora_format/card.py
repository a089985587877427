"""What the maker of a LoRA says about it, in its metadata and in the notes beside it."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.api.params import LORA_SCALE_RANGE
from pipelines.files.lora_sidecars import TRIGGER_KEY, read_notes

MAX_TRIGGER_WORDS = 20
# Some are whole prompts.
MAX_TEXT_CHARS = 500
_BASE_MODEL_KEYS = (
    "modelspec.base_model", "ss_base_model_version", "ss_sd_model_name", "base_model",
    "modelspec.architecture",
)  # fmt: skip
_TITLE_KEYS = ("modelspec.title", "ss_output_name", "name")
_HINT_KEY = "modelspec.usage_hint"
# Lists of words, as JSON or with commas between them.
_WORD_KEYS = ("modelspec.trigger_phrase", "trained_words", "trigger_words", "trigger_word")
# Prompts, whose commas separate no words.
_PROMPT_KEYS = ("instance_prompt", TRIGGER_KEY)
_NOTE_WORD_KEYS = ("trainedWords", *_WORD_KEYS)
_SCALE = re.compile(
    r"(?:(?:recommended|suggested)\s+)?(?:lora\s+)?(?:strength|weight|scale)?\s*[:=]?\s*"
    r"([0-9]{1,2}(?:\.[0-9]{1,3})?)\.?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LoraCard:
    """`usage_hint` is the maker's text; `suggested_scale` lies in the range of a request."""

    title: str | None = None
    base_model: str | None = None
    trigger_words: tuple[str, ...] = ()
    usage_hint: str | None = None
    suggested_scale: float | None = None


def read_card(path: Path, metadata: Mapping[str, str]) -> LoraCard:
    """Return the card of the LoRA at `path`, whose own metadata counts more than notes."""
    notes = [each for note in read_notes(path) for each in _levels(note)]
    hint = _text(metadata.get(_HINT_KEY))
    words = _first_words(metadata, _WORD_KEYS) or _note_words(notes) or _captions(metadata)
    return LoraCard(
        title=_first([metadata], _TITLE_KEYS[:1])
        or _first(notes, ("model_name", "title"))
        or _first([metadata], _TITLE_KEYS[1:]),
        base_model=_first([metadata], _BASE_MODEL_KEYS)
        or _first(notes, ("base_model", "baseModel")),
        trigger_words=tuple(words),
        usage_hint=hint,
        suggested_scale=_scale_of_hint(hint) or _note_scale(notes),
    )


def _levels(note: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield a note, and what it repeats of Civitai's description of the version."""
    yield note
    version = note.get("civitai")
    for holder in (note, version if isinstance(version, dict) else {}):
        if holder is version:
            yield holder
        # the version's own name is "v1.0"
        model = holder.get("model")
        if isinstance(model, dict):
            yield {"title": model.get("name")}


def _first_words(holder: Mapping[str, object], keys: Iterable[str]) -> list[str]:
    """Return the words of the first key that has some, then those of a prompt."""
    for key in keys:
        if words := _clean(_items(holder.get(key))):
            return words
    return _clean(holder.get(key) for key in _PROMPT_KEYS)[:1]


def _note_words(notes: Iterable[Mapping[str, object]]) -> list[str]:
    return next((words for note in notes if (words := _first_words(note, _NOTE_WORD_KEYS))), [])


def _items(value: object) -> Iterable[object]:
    """Return the entries of a list, also of one in JSON, or the parts between commas."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", '"'):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass
        else:
            return value if isinstance(value, list) else [value]
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list) else []


def _captions(metadata: Mapping[str, str]) -> list[str]:
    """Return the most frequent captions, where no word is named."""
    tags: Counter[str] = Counter()
    try:
        for frequencies in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            tags.update({str(tag): int(count) for tag, count in frequencies.items()})
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return []
    return _clean(tag for tag, _ in tags.most_common(MAX_TRIGGER_WORDS))


def _clean(values: Iterable[object]) -> list[str]:
    """Return the texts among `values` that are not empty, each once, up to the limit."""
    texts = dict.fromkeys(filter(None, map(_text, values)))
    return list(texts)[:MAX_TRIGGER_WORDS]


def _text(value: object) -> str | None:
    """Return a text on one line, without characters that a terminal would obey, or None."""
    if not isinstance(value, str):
        return None
    printable = "".join(sign if sign.isprintable() else " " for sign in value[: 4 * MAX_TEXT_CHARS])
    return " ".join(printable.split())[:MAX_TEXT_CHARS] or None


def _first(holders: Iterable[Mapping[str, object]], keys: tuple[str, ...]) -> str | None:
    texts = (_text(holder.get(key)) for holder in holders for key in keys)
    return next(filter(None, texts), None)


def _scale_of_hint(hint: str | None) -> float | None:
    """Return the scale in a hint that says nothing else, such as "strength: 0.8"."""
    match = _SCALE.fullmatch(hint or "")
    return _in_range(float(match[1])) if match else None


def _note_scale(notes: Iterable[Mapping[str, object]]) -> float | None:
    for note in notes:
        tips = note.get("usage_tips")
        try:
            tips = json.loads(tips) if isinstance(tips, str) else tips
        except (ValueError, RecursionError):
            tips = None
        strength = tips.get("strength") if isinstance(tips, dict) else None
        for value in (note.get("preferred weight"), strength):
            if scale := _in_range(value):
                return scale
    return None


def _in_range(value: object) -> float | None:
    """Return a scale that a request may have; 0 is what programs write for none."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    low, high = LORA_SCALE_RANGE
    return number if number and low <= number <= high else None
