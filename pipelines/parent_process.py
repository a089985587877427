"""The tie of a worker to its server, which holds even while the worker is stopped or hangs."""

import ctypes
import signal
import sys

# prctl(2)
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends.

    A worker that lives otherwise exits as its socket closes, which one that is stopped, or held by
    its driver, does not notice: it would keep the memory of the device. Linux alone has this.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
