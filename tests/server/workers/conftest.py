"""Workers without a model: see `scripted_worker`."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.api.messages import LoraFile, Run
from pipelines.api.params import EditParams
from server.workers.local_process import WorkerOptions

COMMAND = (sys.executable, "-m", "tests.server.workers.scripted_worker")
PARAMS = EditParams("make it blue", 5)
RUN = Run("mine", PARAMS, (b"image",))
LORAS = (LoraFile("style.safetensors", "0" * 64, "/loras/style.safetensors", 0.5),)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The messages that workers have received, one per line."""
    return tmp_path / "received"


@pytest.fixture
def options(log: Path) -> Callable[[str], WorkerOptions]:
    """The options of a worker that behaves as named."""

    def make(behavior: str) -> WorkerOptions:
        return WorkerOptions(
            model=log, device=behavior, dtype="auto", offload="none", command=COMMAND
        )

    return make
