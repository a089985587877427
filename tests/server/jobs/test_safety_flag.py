"""Unsafe outputs, over a live server with a real classifier."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer, until
from tests.pipelines.engine.test_safety import build_classifier

SUBMIT = "/api/v3/wavespeed-ai/qwen-image/edit-plus"


def run(server: LiveServer, size: str = "256*256") -> dict[str, Any]:
    body = {
        "prompt": "a",
        "images": [as_base64(encoded(gradient()))],
        "seed": 1,
        "enable_sync_mode": True,
        "size": size,
    }
    answer: dict[str, Any] = server.http.post(server.url + SUBMIT, json=body).json()["data"]
    return answer


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier that calls every image unsafe."""
    path = build_classifier(tmp_path / "classifier", ["safe", "nsfw"])
    return _biased(path)


def _biased(path: Path) -> Path:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    tensors["classifier.bias"][1] += 1000
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return path


def test_unsafe_output_is_flagged(
    start_server: Callable[..., LiveServer], classifier: Path
) -> None:
    server = start_server(worker="real", SAFETY_CHECKER=classifier)
    data = run(server)
    assert (data["status"], data["has_nsfw_contents"]) == ("completed", [True])
    assert server.http.get(f"{server.url}/v1/capabilities").json()["checks_safety"] is True


def test_unsafe_output_is_blocked(
    start_server: Callable[..., LiveServer], classifier: Path
) -> None:
    server = start_server(worker="real", SAFETY_CHECKER=classifier, SAFETY_MODE="block")
    data = run(server)
    assert (data["status"], data["code"], data["outputs"]) == ("failed", 1200, [])
    assert "safety checker" in data["error"]
    assert not list((server.data_dir / "outputs").iterdir())


def test_flags_are_false_and_capabilities_say_so_without_a_checker(server: LiveServer) -> None:
    assert run(server)["has_nsfw_contents"] == [False]
    assert server.http.get(f"{server.url}/v1/capabilities").json()["checks_safety"] is False


def test_health_names_the_checker_that_cannot_be_loaded(
    start_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    server = start_server(wait_ready=False, worker="real", SAFETY_CHECKER=tmp_path)
    health = until(lambda: server.health() if server.health()["status"] == "failed" else None)
    assert "The safety checker" in health["error"]
