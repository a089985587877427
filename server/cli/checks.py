"""Checks of `qwen-edit doctor` on the machine, the data folder and the address."""

import contextlib
import errno
import fcntl
import importlib.util
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import httpx2

from pipelines.files.memory_fit import GIB
from server.cli.machine import Host, TorchReport, free_disk, is_writable
from server.settings import Settings

ASK_TIMEOUT_S = 2.0
# The oldest driver for CUDA 13, which torch's wheels bring.
MIN_DRIVER = 580
# bfloat16 is slow or missing on older GPUs.
MIN_CAPABILITY = (8, 0)
# Jobs, inputs and outputs: an image has a few MB.
MIN_DATA_BYTES = 2 * GIB
PORTS = 65536
INSTALL = "pip install -c constraints.txt"

# Options of a command by the names of their settings. None drops one, upper case is a variable.
Options = Mapping[str, object]
SET_KEYS: Options = {"no_auth": None, "QWEN_EDIT_API_KEYS": "KEY_OF_16_OR_MORE_CHARACTERS"}


class State(StrEnum):
    """The weight of a finding; with STOP, a server would not start or not work."""

    OK = "ok"
    NOTE = "note"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `do` is a command that helps, or the options of `serve` to change."""

    topic: str
    state: State
    text: str
    do: str | Options | None = None


def command(verb: str, options: Options) -> str:
    """Return `qwen-edit VERB` with these options as a line for a shell."""
    line = ["qwen-edit", verb]
    for name, value in options.items():
        if value is not None and name.isupper():
            line.insert(0, f"{name}={shlex.quote(str(value))}")
        elif value is not None:
            option = f"--{name.replace('_', '-')}"
            line.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    return " ".join(line)


def check_libraries(torch: TorchReport) -> Check:
    if torch.failure:
        text = f"a worker would not start: {torch.failure}"
        return Check("libraries", State.STOP, text, f"{INSTALL} -e .")
    versions = ", ".join(f"{name} {version}" for name, version in torch.libraries.items())
    build = f"CUDA {torch.cuda_build}" if torch.cuda_build else "CPU build"
    return Check("libraries", State.OK, f"{versions} ({build})")


def check_host(host: Host) -> Check:
    memory = f"{_gib(host.memory_bytes)} of memory ({_gib(host.available_bytes)} free)"
    return Check("host", State.OK, f"{host.cores} CPU cores, {memory}")


def check_devices(settings: Settings, torch: TorchReport, host: Host) -> Iterator[Check]:
    """Report each GPU, or why torch finds none; then the devices in use that are missing."""
    if torch.failure:  # the GPUs are unknown
        return
    driver = f", driver {host.driver}" if host.driver else ""
    for gpu in torch.gpus:
        memory = f"{_gib(gpu.total_bytes)} ({_gib(gpu.free_bytes)} free)"
        text = f"cuda:{gpu.index} {gpu.name}, {memory}, compute {gpu.capability}{driver}"
        is_old = tuple(map(int, gpu.capability.split("."))) < MIN_CAPABILITY
        note = "; too old for bfloat16: serve with --dtype float16" if is_old else ""
        yield Check("device", State.NOTE if is_old else State.OK, text + note)
    if not torch.gpus:
        yield _explain_no_gpu(torch, host)
    known = {"auto", "cpu"}.union(*(gpu.devices for gpu in torch.gpus))
    for name in settings.devices:
        if name not in known:
            found = f"{len(torch.gpus)} CUDA devices found"
            text = f"--device {name} is not on this machine: {found}"
            yield Check("device", State.STOP, text, {"device": "auto"})


def _explain_no_gpu(torch: TorchReport, host: Host) -> Check:
    install = None
    if host.driver is None:
        reason = "no NVIDIA driver is loaded"
    elif torch.cuda_build is None:
        reason = f"driver {host.driver} is loaded, but this torch is the CPU build"
        # pip would keep a CPU build of the same version, and CUDA's libraries come only as
        # dependencies of torch
        install = f"pip uninstall -y torch && {INSTALL} torch"
    elif int(host.driver.split(".")[0]) < MIN_DRIVER:
        reason = f"driver {host.driver} is too old, R{MIN_DRIVER} or newer is needed"
    else:
        reason = "; ".join(torch.problems) or "torch sees none"
    return Check("device", State.NOTE, f"no CUDA device: {reason}; edits run on the CPU", install)


def check_data(settings: Settings) -> Check:
    folder, other = settings.data_dir.absolute(), {"data_dir": "OTHER"}
    if not is_writable(folder):
        return Check("data", State.STOP, f"{folder} cannot be written", other)
    with contextlib.suppress(FileNotFoundError, PermissionError), (folder / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"{folder} is in use by a running server (process {lock.read()})"
            return Check("data", State.STOP, text, other)
    free = free_disk(folder)
    state = State.OK if free >= MIN_DATA_BYTES else State.NOTE
    return Check("data", state, f"{folder} can be written, {free / 1e9:.1f} GB free on its disk")


def check_address(settings: Settings) -> Check:
    address = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OverflowError:
            text = f"{address}: a port is a number from 0 to {PORTS - 1}"
            return Check("address", State.STOP, text, {"port": 0})
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                return Check("address", State.STOP, f"{address}: {exc.strerror}")
            text = f"{address}: {exc.strerror}{_ask_health(settings)}"
            return Check("address", State.STOP, text, {"port": (settings.port + 1) % PORTS})
    return Check("address", State.OK, f"{address} is free" if settings.port else "any free port")


def _ask_health(settings: Settings) -> str:
    """Return a remark on the server at the address if it is one of this kind, else ""."""
    scheme = "https" if settings.tls_cert else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{scheme}://{host}:{settings.port}/health"
    with contextlib.suppress(httpx2.HTTPError, ValueError, KeyError, TypeError):
        # whether its certificate is valid does not matter here
        health = httpx2.get(url, timeout=ASK_TIMEOUT_S, verify=False, trust_env=False).json()
        return f"; a qwen-edit-server answers there ({health['status']}, {health['model']['name']})"
    return ""


def check_keys(settings: Settings) -> Check:
    if keys := settings.all_api_keys():
        return Check("keys", State.OK, f"{len(keys)} set; clients must send one")
    if settings.is_loopback:
        return Check("keys", State.OK, "none needed: only this machine can reach the server")
    return Check("keys", State.NOTE, f"none, and others can reach {settings.host}", SET_KEYS)


def check_page() -> Check:
    if importlib.util.find_spec("gradio"):
        return Check("page", State.OK, "Gradio is installed: the page is at /")
    text = "Gradio is not installed: the API works, there is no page"
    return Check("page", State.NOTE, text, f"{INSTALL} -e '.[page]'")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
