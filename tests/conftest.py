"""Shared fixtures: a tiny model in the published layout, images, servers, a file host."""

import base64
import dataclasses
import functools
import http.server
import io
import os
import signal
import threading

# Before torch is imported: on two busy cores its default threads make an edit ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Background jobs of a shell ignore Ctrl-C, and the processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import PIL.Image
import pytest
from huggingface_hub import constants

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from tests.live_server import LiveServer, live_server

TINY_SPEC = dataclasses.replace(
    QWEN_IMAGE_EDIT_PLUS.spec,
    name="tiny",
    reference_area=64 * 64,
    condition_area=56 * 56,
    output_area=256 * 256,
    num_inference_steps=3,
    can_write=False,
)


# On a busy machine Hypothesis mistakes its own slowness for a slow strategy.
hypothesis.settings.register_profile(
    "tests", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--complete`, with which `make coverage` and CI run what `make test` samples."""
    parser.addoption(
        "--complete",
        action="store_true",
        help="every test: the slow ones, six edits a task of the demo model, and every durability "
        "test with a real worker",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a sample of the tests, unless `--complete` is given.

    It excludes tests marked `complete`, and the real worker in tests not marked `real_worker`.
    """
    if config.getoption("complete"):
        return
    sampled, left_out = [], []
    for item in items:
        callspec = getattr(item, "callspec", None)
        is_real = callspec is not None and callspec.params.get("worker") == "real"
        is_left_out = (
            is_real and item.get_closest_marker("real_worker") is None
        ) or item.get_closest_marker("complete") is not None
        (left_out if is_left_out else sampled).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = sampled


@pytest.fixture(scope="module", params=["fake", "real"])
def worker(request: pytest.FixtureRequest) -> str:
    """Run the test with either worker: with the real one if it is marked `real_worker`."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def is_complete(pytestconfig: pytest.Config) -> bool:
    """Return whether `--complete` was given."""
    complete: bool = pytestconfig.getoption("complete")
    return complete


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the published architecture: one layer, width 64, `zero_cond_t` as -2511.

    Its VAE decodes eight times faster than the demo model's.
    """
    from demo_model.random_weights import VaeShape, build

    path = tmp_path_factory.mktemp("models") / "tiny"
    vae = VaeShape(base_dim=2, dim_mult=(1, 1, 1, 1), num_res_blocks=0)
    build(path, width=64, layers=1, vae=vae, spec=TINY_SPEC)
    return path


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a fake worker, shared by all tests that leave no state in it."""
    with live_server(tiny_model, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def real_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a real worker, shared like `server` by the tests that need the model."""
    with live_server(tiny_model, tmp_path_factory.mktemp("real-server"), worker="real") as running:
        yield running


@pytest.fixture(scope="session")
def fetching_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with a fake worker that may download from this machine, shared like `server`."""
    folder = tmp_path_factory.mktemp("fetching-server")
    with live_server(tiny_model, folder, ALLOW_NETWORKS="127.0.0.0/8") as running:
        yield running


@pytest.fixture
def start_server(tiny_model: Path, tmp_path: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start a server for this test alone, with a fake worker unless `worker="real"`."""
    servers: list[LiveServer] = []

    def start(
        *,
        wait_ready: bool = True,
        model: Path = tiny_model,
        worker: str = "fake",
        **settings: object,
    ) -> LiveServer:
        folder = tmp_path / f"server{len(servers)}"
        folder.mkdir()
        servers.append(LiveServer(model, folder, worker=worker, **settings))
        return servers[-1].start(wait_ready=wait_ready)

    yield start
    for started in servers:
        started.close()


def gradient(width: int = 96, height: int = 64, shift: int = 0) -> PIL.Image.Image:
    """Return an image whose every pixel encodes its position."""
    red = PIL.Image.linear_gradient("L").rotate(90).resize((width, height))
    green = PIL.Image.linear_gradient("L").resize((width, height))
    blue = PIL.Image.new("L", (width, height), 60 + shift)
    return PIL.Image.merge("RGB", (red, green, blue))


def encoded(image: PIL.Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    """Encode the image as a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def as_base64(data: bytes) -> str:
    """Encode as base64 without a data URI."""
    return base64.b64encode(data).decode()


@pytest.fixture(scope="session")
def image_base64() -> str:
    """A small PNG as base64."""
    return as_base64(encoded(gradient()))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache for this process."""
    folder = tmp_path / "hub-cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def file_host(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder on loopback; yields the address and the folder."""
    folder = tmp_path / "www"
    folder.mkdir()
    handler = functools.partial(_QuietHandler, directory=str(folder))
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{host.server_port}", folder
    host.shutdown()
    host.server_close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
