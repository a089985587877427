"""Fixtures of the command line's tests."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from server import cli
from tests.conftest import encoded, gradient
from tests.fake_hub import FakeHub, fake_hub
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import QwenEdit

LAYER = "transformer_blocks.0.attn.to_q"
# Layers of the published model and of the tiny one.
PUBLISHED = {LAYER: (3072, 3072)}
TINY = {LAYER: (64, 64)}


@pytest.fixture
def qwen_edit(capsys: pytest.CaptureFixture[str]) -> QwenEdit:
    """Run a command without starting Python for it."""

    def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = cli.run(arguments)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return invoke


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image file."""
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(gradient()))
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def model_files(tiny_model: Path) -> dict[str, bytes]:
    """The tiny model as a repository, with the other files that published ones have."""
    return {
        **files_of(tiny_model),
        "README.md": b"# a model",
        "transformer/diffusion_pytorch_model.bin": b"\x80\x02pickle",
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"another precision",
        "text_encoder/model.fp16.safetensors.index.json": b"{}",
    }


@pytest.fixture(scope="session")
def lora(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("lora") / "a.safetensors"
    return write_lora(path, random_pairs(PUBLISHED, [LAYER])).read_bytes()


@pytest.fixture
def hub(model_files: dict[str, bytes], lora: bytes) -> Iterator[FakeHub]:
    flux = json.dumps({"_class_name": "FluxPipeline", "vae": ["diffusers", "X"]}).encode()
    repositories = {
        "Qwen/Qwen-Image-Edit-2509": model_files,
        "someone/finetune": model_files,
        "someone/flux": {"model_index.json": flux},
        "someone/half": {
            name: data for name, data in model_files.items() if not name.startswith("vae/")
        },
        "someone/gguf": {"model-Q4.gguf": b"GGUF", "README.md": b"#"},
        "owner/style": {"pytorch_lora_weights.safetensors": lora},
        "owner/many": {"a.safetensors": lora, "sub/b.safetensors": lora},
        "owner/peft": {
            "adapter_model.safetensors": lora,
            "adapter_config.json": json.dumps({"r": 4, "lora_alpha": 12}).encode(),
        },
        "owner/page": {"a.safetensors": b"<html>no such file</html>"},
        "gated/style": {"style.safetensors": lora},
    }
    with fake_hub(repositories) as running:
        yield running


@pytest.fixture
def place(tmp_path: Path, hub: FakeHub) -> dict[str, str]:
    """The environment of a command: the fake hub, an empty cache and an empty weights folder."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "QWEN_EDIT_WEIGHTS_DIR": str(tmp_path / "weights"),
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"
