"""The memory of the device that a model runs on."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes in use on a device by all processes, at most by this one so far, and in all.

    On a CPU: of this process, at most so far, and of the machine.
    """

    used_bytes: int
    peak_bytes: int
    total_bytes: int


def read_memory(device: torch.device) -> DeviceMemory:
    """Return the memory of a CUDA device, or of this process for a CPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total - free, torch.cuda.max_memory_reserved(device), total)
    page = os.sysconf("SC_PAGE_SIZE")
    used = int(Path("/proc/self/statm").read_text().split()[1]) * page
    # in KiB, and it may lag behind
    peak = max(used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return DeviceMemory(used, peak, os.sysconf("SC_PHYS_PAGES") * page)
