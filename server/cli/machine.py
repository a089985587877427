"""This machine: its memory, driver and disk, and the CUDA devices that torch finds."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

REPORT_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device as torch names it."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    capability: str

    @property
    def devices(self) -> set[str]:
        """The values of `--device` that mean this one."""
        return {f"cuda:{self.index}", *(("cuda", "auto") if self.index == 0 else ())}


@dataclass(frozen=True, slots=True)
class TorchReport:
    """The output of `python -m pipelines.engine.devices`; `failure` says why there is none."""

    libraries: dict[str, str]
    cuda_build: str | None
    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the GPUs. `driver` is the version of NVIDIA's, where one is loaded."""

    cores: int
    memory_bytes: int
    available_bytes: int
    driver: str | None


def read_host() -> Host:
    """Return this machine's cores, memory and driver; in a container, the container's."""
    kib = dict(re.findall(r"(\w+): +(\d+) kB", _read("/proc/meminfo")))
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    total, available = (
        min(int(kib[name]) * 1024, int(limit) if limit.isdigit() else sys.maxsize)
        for name in ("MemTotal", "MemAvailable")
    )
    driver = re.search(r"\s(\d+\.\d+[\d.]*)\s", _read("/proc/driver/nvidia/version"))
    return Host(len(os.sched_getaffinity(0)), total, available, driver[1] if driver else None)


def ask_torch() -> TorchReport:
    """Return the libraries and CUDA devices that a process with torch finds."""
    command = [sys.executable, "-m", "pipelines.engine.devices"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=REPORT_TIMEOUT_S, check=True
        )
        return TypeAdapter(TorchReport).validate_json(done.stdout)
    except subprocess.CalledProcessError as exc:
        failure = exc.stderr.strip().rpartition("\n")[2] or str(exc)
    except (subprocess.TimeoutExpired, ValueError) as exc:
        failure = str(exc)
    return TorchReport({}, None, (), (), failure)


def free_disk(folder: Path) -> int:
    """Return the bytes free on the disk of `folder`, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


def is_writable(folder: Path) -> bool:
    """Return whether files can be written into `folder`, which need not exist yet."""
    existing = _existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).is_file() else ""
