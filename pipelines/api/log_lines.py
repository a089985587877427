"""Log records as lines of text or JSON.

Both escape control characters: what a client sent can neither begin a line nor steer a terminal.
Of URLs they show scheme and host: user info, paths and queries hold passwords, tokens, signatures.
"""

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime

# Fields that a record may have by its `extra`, beside time, level, logger and message.
FIELDS = ("job", "owner", "status", "stage", "seconds", "worker")
# Control characters, separators of lines, overrides of the direction of text, halves of pairs.
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

_URL = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)://([^\s'\"<>`]*)")
_HOST_END = re.compile(r"[/?#\\]")


def without_secrets(text: str) -> str:
    """Return the text with its URLs cut after the host, and without user info."""
    return _URL.sub(_cut, text)


def _cut(match: re.Match[str]) -> str:
    whole = match[2]
    # user info may hold a slash that its sender forgot to encode
    authority = _HOST_END.split(whole.rpartition("@")[2] if "@" in whole else whole, maxsplit=1)[0]
    is_bare = whole in (authority, f"{authority}/")
    return match[0] if is_bare else f"{match[1]}://{authority}/…"


def escaped(text: str) -> str:
    """Return the text on one line, each unprintable character as Python would write it."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class TextLines(logging.Formatter):
    """Lines for people: time, level, message, and the owner, which no message names.

    An owner whose key has no name, `#…`, is left out. A traceback is indented below.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and more of them for an exception."""
        owner = str(vars(record).get("owner") or "#")
        head = f"{self.formatTime(record)} {record.levelname} {_message(record)}"
        lines = [head if owner.startswith("#") else f"{head} ({escaped(owner)})"]
        if exception := _exception(self, record):
            lines += [f"    {escaped(line)}" for line in exception.splitlines()]
        return "\n".join(lines)


class JsonLines(logging.Formatter):
    """One object per line, in ASCII: `time`, `level`, `logger`, `message`, FIELDS, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record; fields that it does not have are left out."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": without_secrets(record.getMessage()),
        }
        for name in FIELDS:
            if (value := vars(record).get(name)) is not None:
                line[name] = value
        if exception := _exception(self, record):
            line["exception"] = exception
        return json.dumps(line, default=str)


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str | None:
    """Return the traceback: text where the record comes from another process."""
    if record.exc_text or not record.exc_info:
        return record.exc_text and without_secrets(record.exc_text)
    return without_secrets(formatter.formatException(record.exc_info))


def _message(record: logging.LogRecord) -> str:
    return escaped(without_secrets(record.getMessage()))


def log_to_stderr(formatter: logging.Formatter) -> None:
    """Write this process' records from INFO on, and Python's warnings, to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)


def parse_json_line(line: str) -> logging.LogRecord | None:
    """Return the record that JsonLines wrote as this line, or None for any other line."""
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    if not isinstance(fields, Mapping) or not {"time", "level", "logger", "message"} <= set(fields):
        return None
    try:
        created = datetime.fromisoformat(fields["time"]).timestamp()
        level = logging.getLevelNamesMapping()[fields["level"]]
    except (KeyError, TypeError, ValueError):
        return None
    known = {name: fields[name] for name in FIELDS if name in fields}
    return logging.makeLogRecord(
        {
            "name": str(fields["logger"]),
            "levelname": fields["level"],
            "levelno": level,
            "msg": str(fields["message"]),
            "created": created,
            "msecs": created % 1 * 1000,
            "exc_text": fields.get("exception"),
            **known,
        }
    )
