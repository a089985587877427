"""The output of a worker process, as records of the server's log."""

import logging
from typing import BinaryIO

from pipelines.api.log_lines import parse_json_line

# For what libraries print; workers themselves write JSON.
logger = logging.getLogger("worker")

MAX_LINE_BYTES = 64 * 1024


def log_output(stream: BinaryIO, pid: int) -> None:
    """Log the lines of a worker's stdout and stderr until it is closed; close it then.

    A longer line is logged in parts: nothing that a worker prints may fill the server's memory.
    """
    with stream:
        while line := stream.readline(MAX_LINE_BYTES):
            text = line.decode(errors="replace").rstrip()
            if not text:
                continue
            record = parse_json_line(text)
            if record is None:
                logger.info("worker %d: %s", pid, text, extra={"worker": pid})
            else:
                vars(record).update(msg=f"worker {pid}: {record.msg}", worker=pid)
                logging.getLogger(record.name).handle(record)
