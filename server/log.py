"""The log of the server, its workers included: one format on stderr."""

import logging
import sys
from collections.abc import Mapping
from enum import StrEnum
from types import TracebackType

from pipelines.api.log_lines import JsonLines, TextLines, log_to_stderr

logger = logging.getLogger(__name__)


class LogFormat(StrEnum):
    """The form of each line of the log."""

    TEXT = "text"
    JSON = "json"


_FORMATTERS: Mapping[LogFormat, type[logging.Formatter]] = {
    LogFormat.TEXT: TextLines,
    LogFormat.JSON: JsonLines,
}


def start_logging(log_format: LogFormat) -> None:
    """Write every record of this process to stderr; also warnings and what nobody catches."""
    log_to_stderr(_FORMATTERS[log_format]())
    sys.excepthook = _log_uncaught


def _log_uncaught(
    kind: type[BaseException], exc: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, exc, traceback)
    else:
        logger.critical("the server ends", exc_info=(kind, exc, traceback))
