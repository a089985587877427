"""A small file system that outlives the servers on it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MOUNT = 'mount -t tmpfs -o size=$1 tmpfs "$0" && echo mounted && exec sleep infinity'


class SmallDisk:
    """A tmpfs in a user namespace of its own, which a process keeps open."""

    def __init__(self, folder: Path, holder: "subprocess.Popen[str]") -> None:
        self._holder = holder
        # as this namespace sees it
        self.folder = Path(f"/proc/{holder.pid}/root{folder}")
        # runs a command that sees it at `folder`
        target = f"--target={holder.pid}"
        self.launcher = ("nsenter", target, "--user", "--mount", "--preserve-credentials", "--")

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Take all that is free during the block."""
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        try:
            yield
        finally:
            filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a file system at `folder` during the block; skip where that is forbidden."""
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", MOUNT, str(folder), size],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        if holder.stdout.readline().strip() != "mounted":
            why = holder.stderr.read().strip()
            pytest.skip(f"no file system can be mounted in a user namespace: {why}")
        yield SmallDisk(folder, holder)
    finally:
        holder.kill()
        holder.communicate()
