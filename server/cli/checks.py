"""What `qwen-edit doctor` finds out about the machine and the place: one `Check` each."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import httpx2

from server.cli.advice import Advice, Serve
from server.cli.machine import (
    PORTS,
    Host,
    TorchReport,
    free_disk,
    is_writable,
    lock_holder,
    port_problem,
)
from server.settings import Settings

GIB = 2**30
ASK_TIMEOUT_S = 2.0
# torch's wheels bring CUDA 13.
MIN_DRIVER = 580
# Below, bfloat16 is computed slowly or not at all.
MIN_CAPABILITY = (8, 0)
# Jobs, inputs and outputs: an image has a few MB.
MIN_DATA_BYTES = 2 * GIB
# Whoever sets keys needs no --no-auth any more.
SET_KEYS = Serve({"no_auth": None}, {"QWEN_EDIT_API_KEYS": "KEY"})


class State(StrEnum):
    """Whether something stands in the way of a server."""

    OK = "ok"
    NOTE = "note"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; `do` is what would mend it, or what comes next."""

    topic: str
    state: State
    text: str
    do: Advice | None = None


def check_libraries(torch: TorchReport) -> Check:
    """Whether the model's libraries are there, and which."""
    again = "pip install -c constraints.txt -e ."
    if torch.failure:
        message = f"torch cannot be asked, so no worker would start: {torch.failure}"
        return Check("libraries", State.STOP, message, again)
    absent = [name for name, version in torch.libraries.items() if version is None]
    if absent:
        return Check("libraries", State.STOP, f"not installed: {', '.join(absent)}", again)
    build = f"CUDA {torch.cuda_build}" if torch.cuda_build else "CPU build"
    listed = ", ".join(f"{name} {version}" for name, version in torch.libraries.items())
    return Check("libraries", State.OK, f"{listed} ({build})")


def check_devices(settings: Settings, torch: TorchReport, host: Host) -> Iterator[Check]:
    """Each CUDA device, or why there is none; the devices that the settings name and that are not.

    What the settings name is what a worker each is started on.
    """
    driver = f", driver {host.driver}" if host.driver else ""
    for gpu in torch.gpus:
        memory = f"{_gib(gpu.total_bytes)} ({_gib(gpu.free_bytes)} free)"
        message = f"cuda:{gpu.index} {gpu.name}, {memory}, compute {gpu.capability}{driver}"
        is_old = tuple(map(int, gpu.capability.split("."))) < MIN_CAPABILITY
        note = "; too old for bfloat16: serve with --dtype float16" if is_old else ""
        yield Check("device", State.NOTE if is_old else State.OK, message + note)
    if not torch.gpus:
        yield _no_gpu(torch, host)
    for name in settings.devices:
        if name in ("auto", "cpu"):
            continue
        index = cuda_index(name)
        if index is None or index >= len(torch.gpus):
            message = (
                f"--device {name} is not on this machine: {len(torch.gpus)} CUDA devices found"
            )
            yield Check("device", State.STOP, message, Serve({"device": "auto"}))


def check_memory(host: Host) -> Check:
    """The processor and the host's memory."""
    free = f"{_gib(host.available_bytes)} free"
    message = f"{host.cores} CPU cores, {_gib(host.memory_bytes)} of memory ({free})"
    return Check("host", State.OK, message)


def check_data(settings: Settings) -> Check:
    """Whether a server could work on the data folder."""
    folder = settings.data_dir
    other = Serve({"data_dir": "OTHER"})
    if not is_writable(folder):
        return Check("data", State.STOP, f"{folder} cannot be written", other)
    holder = lock_holder(folder)
    if holder is not None:
        message = f"{folder} is in use by a running server (process {holder})"
        return Check(
            "data", State.STOP, f"{message}: a second one needs a folder of its own", other
        )
    free = free_disk(folder)
    state = State.OK if free >= MIN_DATA_BYTES else State.NOTE
    return Check("data", state, f"{folder} can be written, {free / 1e9:.1f} GB free on its disk")


def check_port(settings: Settings) -> Check:
    """Whether the address is free; what answers there, where it is a server of this kind."""
    address = f"{settings.host}:{settings.port}"
    problem = port_problem(settings.host, settings.port)
    if problem is None:
        message = "any free port" if settings.port == 0 else f"{address} is free"
        return Check("address", State.OK, message)
    if settings.port not in PORTS:
        return Check("address", State.STOP, f"{address}: {problem}", Serve({"port": 0}))
    if "in use" not in problem:
        return Check("address", State.STOP, f"{address}: {problem}")
    message = f"{address}: {problem}{_who_answers(settings)}"
    next_port = settings.port + 1
    other = Serve({"port": next_port if next_port in PORTS else 0})
    return Check("address", State.STOP, message, other)


def check_keys(settings: Settings) -> Check:
    """Who may use the server. An open address without keys is refused by the settings already."""
    keys = settings.all_api_keys()
    if keys:
        return Check("keys", State.OK, f"{len(keys)} set; clients must send one")
    if settings.is_loopback:
        return Check("keys", State.OK, "none needed: only this machine reaches the server")
    message = f"none, and {settings.host} can be reached by others (--no-auth)"
    return Check("keys", State.NOTE, message, SET_KEYS)


def check_page() -> Check:
    """Whether what the page for people needs is installed."""
    if importlib.util.find_spec("gradio") is not None:
        return Check("page", State.OK, "Gradio is installed: / serves the page for people")
    message = "Gradio is not installed: the API works, there is no page"
    return Check("page", State.NOTE, message, "pip install -c constraints.txt -e '.[page]'")


def cuda_index(device: str) -> int | None:
    """The number in `cuda` or `cuda:N`; None for anything else."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    return int(match[1] or 0) if match else None


def _no_gpu(torch: TorchReport, host: Host) -> Check:
    state, do = State.NOTE, None
    if host.driver is None:
        message = "no CUDA device: no NVIDIA driver is loaded"
    elif torch.cuda_build is None:
        message = f"no CUDA device: driver {host.driver} is loaded, but this torch is the CPU build"
        # pip takes a CPU build of the same version for installed already, and CUDA's libraries
        # come only as dependencies of torch
        do = "pip uninstall -y torch && pip install -c constraints.txt torch"
    elif int(host.driver.split(".")[0]) < MIN_DRIVER:
        message = (
            f"no CUDA device: driver {host.driver} is too old, R{MIN_DRIVER} or newer is needed"
        )
    else:
        message = f"no CUDA device: {'; '.join(torch.problems) or 'torch sees none'}"
    return Check("device", state, f"{message}; the CPU computes", do)


def _who_answers(settings: Settings) -> str:
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        # whether its certificate is good is not the question
        health = httpx2.get(
            f"{scheme}://{host}:{settings.port}/health",
            timeout=ASK_TIMEOUT_S,
            verify=False,
            trust_env=False,
        ).json()
        return f"; a qwen-edit-server answers there ({health['status']}, {health['model']['name']})"
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return ""


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
