"""The memory that each way to keep a model's weights needs, and whether it fits.

The figures beside the weights are estimates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.load_options import Dtype, Offload

GIB = 2**30
# The memory of an edit of 1024×1024 beside the weights: 59.7 GiB were reported at the peak for
# Qwen-Image-Edit-2509 in bfloat16, of which 53.7 GiB are weights.
WORKING_BYTES = 6 * GIB
_MEASURED_PARAMETERS = sum(QWEN_IMAGE_EDIT_PLUS.parameters.values())
# With one layer at a time on the device: the largest layers, and those being copied.
LAYERS_BYTES = 2 * GIB
# The worker itself, and the file that it is reading.
HOST_BYTES = 4 * GIB


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to keep the weights, the bytes that it needs, and whether they are available."""

    offload: Offload
    device_needs: int
    host_needs: int
    fits: bool


def find_fits(
    parameters: Mapping[str, int], dtype: Dtype, device_bytes: Sequence[int], host_bytes: int
) -> tuple[Fit, ...]:
    """Return all ways, the fastest first; on the CPU there is one, which offloads nothing.

    `parameters` counts each component's numbers. `device_bytes` has one entry for each GPU, whose
    worker has its own copy of the model, and none for the CPU.
    """
    is_wide = dtype is Dtype.FLOAT32 or (dtype is Dtype.AUTO and not device_bytes)
    sizes = [count * (4 if is_wide else 2) for count in parameters.values()]
    total, largest = sum(sizes), max(sizes, default=0)
    working = working_bytes(parameters)
    if not device_bytes:
        return (Fit(Offload.NONE, 0, total + working, total + working <= host_bytes),)
    workers, smallest = len(device_bytes), min(device_bytes)
    host = workers * (total + HOST_BYTES)
    needs = (
        (Offload.NONE, total + working, workers * HOST_BYTES),
        (Offload.MODEL, largest + working, host),
        (Offload.GROUP, min(LAYERS_BYTES, largest) + working, host),
    )
    return tuple(
        Fit(offload, device, memory, device <= smallest and memory <= host_bytes)
        for offload, device, memory in needs
    )


def working_bytes(parameters: Mapping[str, int]) -> int:
    """The memory of an edit beside the weights, in proportion to the model, at least 1 GiB."""
    share = sum(parameters.values()) / _MEASURED_PARAMETERS
    return max(GIB, int(WORKING_BYTES * min(share, 1.0)))
