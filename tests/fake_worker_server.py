"""The command `qwen-edit` with `tests.fake_worker` in place of the real worker."""

import functools
import sys

from server import cli
from server.cli import serve

if __name__ == "__main__":
    serve.run_server = functools.partial(
        serve.run_server, worker_command=(sys.executable, "-m", "tests.fake_worker")
    )
    cli.main()
