"""What this machine has: memory, cores, disk, driver, ports; and what a process with torch says."""

import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPORT_TIMEOUT_S = 120
# 0 is any free one.
PORTS = range(65536)
# Where the kernel says what it has, and what a container may have of it.
_MEMINFO = Path("/proc/meminfo")
_CGROUP_MAX = Path("/sys/fs/cgroup/memory.max")
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A CUDA device as torch names it; sizes in bytes."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    capability: str


@dataclass(frozen=True, slots=True)
class TorchReport:
    """What `python -m pipelines.engine.devices` says; `failure` says why it could not."""

    libraries: dict[str, str | None]
    cuda_build: str | None
    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...]
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine around the devices; sizes in bytes. `driver` is NVIDIA's, where one is loaded."""

    cores: int
    memory_bytes: int
    available_bytes: int
    driver: str | None


def read_host() -> Host:
    """This machine; in a container, what the container may have."""
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    total, available = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    if _CGROUP_MAX.is_file() and (limit := _CGROUP_MAX.read_text().strip()).isdigit():
        total, available = min(total, int(limit)), min(available, int(limit))
    found = re.search(r"\s(\d+\.\d+[\d.]*)\s", _DRIVER.read_text()) if _DRIVER.is_file() else None
    return Host(len(os.sched_getaffinity(0)), total, available, found[1] if found else None)


def ask_torch() -> TorchReport:
    """The libraries and CUDA devices, from a process that imports torch."""
    asked = subprocess.run(
        [sys.executable, "-m", "pipelines.engine.devices"],
        capture_output=True,
        text=True,
        timeout=REPORT_TIMEOUT_S,
        check=False,
    )
    try:
        report: dict[str, Any] = json.loads(asked.stdout)
    except ValueError:
        last = asked.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return TorchReport({}, None, (), (), failure=last[0])
    gpus = tuple(Gpu(**device) for device in report["devices"])
    return TorchReport(report["libraries"], report["cuda_build"], gpus, tuple(report["problems"]))


def free_disk(folder: Path) -> int:
    """Bytes free on the disk where `folder` lies or would lie."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(existing).free


def is_writable(folder: Path) -> bool:
    """Whether files can be written into `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def lock_holder(data_dir: Path) -> str | None:
    """The process id of the server that works on this data folder; None when none does."""
    path = data_dir / "lock"
    if not path.is_file() or not os.access(path, os.R_OK):
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None


def port_problem(host: str, port: int) -> str | None:
    """Why a server cannot listen there, in the system's words; None when it can."""
    if port not in PORTS:
        return f"a port is a number from 0 to {PORTS[-1]}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as exc:
            return exc.strerror or str(exc)
    return None
