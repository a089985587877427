"""HTML of what the page tells about a chosen LoRA."""

import html
import urllib.parse
from collections.abc import Iterator

from pipelines.files.lora_format.report import LoraReport
from server.playground.views import button, notice

# On the page's own path, where its cookie stands in for a key.
THUMBNAILS = "/lora-thumbnails"


def about(report: LoraReport, row: int) -> str:
    """The facts of the LoRA in a row, with buttons for its trigger words and its scale."""
    image = ""
    if report.has_thumbnail:
        url = f".{THUMBNAILS}/{urllib.parse.quote(report.name)}"
        image = f'<img src="{url}" alt="" width="72" height="72">'
    return f'<div class="qe-lora">{image}<div>{"".join(_lines(report, row))}</div></div>'


def unusable(problem: str) -> str:
    """What is wrong with a file that is no LoRA."""
    return f'<div class="qe-lora">{notice(problem)}</div>'


def _lines(report: LoraReport, row: int) -> Iterator[str]:
    if report.title:
        yield f'<p class="qe-lora-title">{html.escape(report.title)}</p>'
    yield f'<p class="qe-meta">{html.escape(" · ".join(_facts(report)))}</p>'
    if report.trigger_words:
        words = "".join(map(_word, report.trigger_words))
        yield f'<p class="qe-words"><span>Add to the prompt:</span>{words}</p>'
    if report.suggested_scale is not None:
        scale = f"{report.suggested_scale:g}"
        yield (
            f'<p class="qe-words"><span>Suggested scale:</span>'
            f"{button('scale', f'{row}:{scale}', scale)}</p>"
        )
    if report.usage_hint:
        yield notice(f"Maker's hint: {report.usage_hint}")
    if report.problem:
        yield notice(report.problem)
    yield from map(notice, report.warnings)


def _facts(report: LoraReport) -> Iterator[str]:
    if report.fits:
        yield report.kind
    if report.ranks:
        ranks = ", ".join(map(str, report.ranks))
        yield f"rank {ranks}" if len(report.ranks) == 1 else f"ranks {ranks}"
    yield f"{report.size_bytes / 1e6:.1f} MB"
    if report.profile:
        guess = " (a guess by its name)" if report.profile.is_guess else ""
        yield f"{report.profile.sampling}{guess}"


def _word(word: str) -> str:
    escaped = html.escape(word)
    return button("word", escaped, escaped)
