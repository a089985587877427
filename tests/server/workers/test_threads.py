"""The OpenMP settings of a worker."""

import os
from pathlib import Path

import pytest

from server.workers.threads import thread_settings

CPUS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "threads"),
    [
        ("100000 100000", "1"),
        ("50000 100000", "1"),
        ("6400000 100000", str(min(CPUS, 64))),
    ],
)
def test_threads_are_capped_by_the_quota_of_a_container(
    tmp_path: Path, quota: str, threads: str
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(f"{quota}\n")

    assert thread_settings({}, file) == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": threads}


def test_threads_are_left_to_torch_without_a_quota(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    without_file = thread_settings({}, file)
    file.write_text("max 100000\n")

    assert without_file == thread_settings({}, file) == {"OMP_WAIT_POLICY": "passive"}


def test_settings_of_the_user_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text("100000 100000\n")

    assert thread_settings({"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "active"}, file) == {}
