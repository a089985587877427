"""Whether a process that loads a model still gets anywhere."""

import asyncio
from collections.abc import Awaitable, Callable

import psutil

# Reading weights costs CPU time at any speed of the disk. A process without any for this long
# waits for something that does not come: a dead network file system, a driver, a debugger.
SILENCE_S = 120.0
CHECK_S = 5.0
# What threads that only wait may use meanwhile.
IDLE_CPU_S = 0.1


async def hangs(
    pid: int,
    silence_s: float = SILENCE_S,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> bool:
    """Return True once the process has used no CPU time for `silence_s`, False once it is gone."""
    check_s = min(CHECK_S, silence_s)
    used_s, silent_s = 0.0, 0.0
    while silent_s < silence_s:
        await sleep(check_s)
        silent_s += check_s
        now_s = _cpu_s(pid)
        if now_s is None:
            return False
        if now_s - used_s > IDLE_CPU_S:
            used_s, silent_s = now_s, 0.0
    return True


def _cpu_s(pid: int) -> float | None:
    """The CPU time of all threads so far, or None for a process that cannot be seen."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)
