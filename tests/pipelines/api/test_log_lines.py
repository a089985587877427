"""Log records as lines: nothing that a client sends can begin a line of its own."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.api.log_lines import (
    FIELDS,
    JsonLines,
    TextLines,
    escaped,
    parse_json_line,
    without_secrets,
)

FORGED = "http://a/\n2026-11-26 19:00:00,000 ERROR forged\r\x1b[2J\u2028\u202e\x85\ud800"
Lines = Callable[..., list[str]]


@pytest.fixture
def log() -> Iterator[Callable[[logging.Formatter], tuple[logging.Logger, Lines]]]:
    """Make a logger with a formatter, and a function that returns its lines so far."""
    logger = logging.getLogger("tests.log_lines")
    logger.propagate = False

    def make(formatter: logging.Formatter) -> tuple[logging.Logger, Lines]:
        # as stderr is: it takes no halves of surrogate pairs
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)

        def lines() -> list[str]:
            stream.seek(0)
            return stream.read().splitlines()

        return logger, lines

    yield make
    logger.handlers = []
    logger.propagate = True


Make = Callable[[logging.Formatter], tuple[logging.Logger, Lines]]


def fail(message: str) -> None:
    raise ValueError(message)


def log_failure(logger: logging.Logger, message: str) -> None:
    try:
        fail(message)
    except ValueError:
        logger.exception("it failed", extra={"job": "j1"})


def test_text_has_time_level_message_and_owner(log: Make) -> None:
    logger, lines = log(TextLines())
    logger.info("job %s started", "j1", extra={"job": "j1", "owner": "alice", "seconds": 1.5})
    logger.warning("nobody's", extra={"owner": "#everybody"})

    first, second = lines()
    time, rest = first[:23], first[23:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", time)
    assert rest == " INFO job j1 started (alice)"
    assert second.endswith(" WARNING nobody's")


def test_json_is_one_object_with_the_fields_of_the_record(log: Make) -> None:
    logger, lines = log(JsonLines())
    fields = {"job": "j1", "owner": "alice", "status": "running", "stage": None, "seconds": 1.5}
    logger.info("job %s started", "j1", extra=fields)

    (line,) = lines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {
        "level": "INFO",
        "logger": "tests.log_lines",
        "message": "job j1 started",
        "job": "j1",
        "owner": "alice",
        "status": "running",
        "seconds": 1.5,
    }


def test_text_of_a_client_cannot_begin_a_line(log: Make) -> None:
    logger, lines = log(TextLines())
    logger.info("fetching %s", FORGED)
    log_failure(logger, FORGED)

    starts = [line for line in lines() if not line.startswith("    ")]
    assert len(starts) == 2
    assert r"fetching http://a/\n2026-11-26" in starts[0]
    assert lines()[-1].startswith(r"    ")
    assert "\x1b" not in "".join(lines())


def test_json_of_a_client_stays_one_line_of_ascii(log: Make) -> None:
    logger, lines = log(JsonLines())
    logger.info("fetching %s", FORGED, extra={"owner": FORGED})
    log_failure(logger, FORGED)

    plain, failure = lines()
    assert (plain + failure).isascii()
    assert json.loads(plain)["message"] == f"fetching {FORGED}"
    assert json.loads(failure)["message"] == "it failed"
    assert json.loads(failure)["exception"].endswith(f"ValueError: {FORGED}")
    assert "in fail\n" in json.loads(failure)["exception"]


@given(st.text())
def test_escaped_text_is_one_line(text: str) -> None:
    assert escaped(text).splitlines() in ([], [escaped(text)])
    assert escaped(text).isprintable() or not text.isprintable()


def test_json_line_is_parsed_to_an_equal_record(log: Make) -> None:
    logger, lines = log(JsonLines())
    log_failure(logger, "too 100% bad")
    written = json.loads(lines()[0])

    record = parse_json_line(lines()[0])

    assert record is not None
    assert (record.name, record.levelno) == ("tests.log_lines", logging.ERROR)
    assert JsonLines().format(record) == json.dumps(written)
    assert TextLines().format(record).endswith("\n    ValueError: too 100% bad")


@pytest.mark.parametrize(
    "line",
    [
        "Loading checkpoint shards: 100%",
        "",
        "[1, 2]",
        "3",
        "{}",
        '{"time": 1, "level": "INFO", "logger": "a", "message": "b"}',
        '{"time": "2026-11-26T19:00:00Z", "level": "LOUD", "logger": "a", "message": "b"}',
        '{"time": "2026-11-26T19:00:00Z", "level": [], "logger": "a", "message": "b"}',
    ],
)
def test_other_lines_are_no_records(line: str) -> None:
    assert parse_json_line(line) is None


def test_fields_do_not_collide_with_those_of_a_record() -> None:
    assert not set(FIELDS) & set(vars(logging.makeLogRecord({})))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a.example:8000", "http://a.example:8000"),
        ("at http://a.example/ now", "at http://a.example/ now"),
        ("image https://a.example/b?c=d: 404.", "image https://a.example/… 404."),
        ("http://user:pw@a.example:81/b", "http://a.example:81/…"),
        ("http://user:p/w@a.example", "http://a.example/…"),
        ("'https://a.example?sig=1', \"ftp://u@b/c\"", "'https://a.example/…', \"ftp://b/…\""),
        ("HTTPS://A.example#x <http://[::1]:80/a>", "HTTPS://A.example/… <http://[::1]:80/…>"),
        ("a://", "a://"),
        ("POST /v1/edits", "POST /v1/edits"),
    ],
)
def test_urls_are_cut_after_the_host(text: str, expected: str) -> None:
    assert without_secrets(text) == expected


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_both_formats_cut_urls_also_in_tracebacks(log: Make, formatter: logging.Formatter) -> None:
    logger, lines = log(formatter)
    logger.info("fetching %s", "http://user:secret@a.example/secret?x=secret")
    log_failure(logger, "http://user:secret@a.example/secret?x=secret")

    text = "\n".join(lines())
    assert "secret" not in text
    assert text.count("http://a.example/") == 2


def test_message_of_another_process_is_cut_too(log: Make) -> None:
    logger, lines = log(TextLines())
    line = {"time": "2026-11-26T19:00:00Z", "level": "ERROR", "logger": "a", "message": "b"}
    record = parse_json_line(json.dumps({**line, "exception": "at http://a.example/secret"}))
    assert record is not None
    logger.handle(record)

    assert "secret" not in "".join(lines())
