"""`qwen-edit doctor` on folders, servers and libraries in every state."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.memory_fit import GIB, PUBLISHED_PARAMETERS, fits_on_gpu
from pipelines.model_files import inspect_model
from server.cli.checks import Check, State, check_devices
from server.cli.doctor import examine, next_steps
from server.cli.machine import Gpu, Host, TorchReport
from server.cli.model_checks import check_fit
from server.settings import Settings
from tests.fake_hub import COMMIT
from tests.live_server import LiveServer
from tests.server.cli.command import run

LIBRARIES: dict[str, str | None] = {"torch": "2.13.0", "diffusers": "0.42.1"}
BIG_HOST = Host(16, 128 * GIB, 120 * GIB, "580.65.06")


def gpu(gib: int, index: int = 0) -> Gpu:
    return Gpu(index, "NVIDIA X", gib * GIB, gib * GIB, "9.0")


def torch_with(*gpus: Gpu, cuda_build: str | None = "13.0") -> TorchReport:
    return TorchReport(LIBRARIES, cuda_build, gpus, ())


def topics(report: dict[str, Any], topic: str) -> list[tuple[str, str]]:
    return [(c["state"], c["text"]) for c in report["checks"] if c["topic"] == topic]


@pytest.fixture(scope="module")
def bare(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a place with the demo model, two LoRA files and a half model in the cache."""
    folder = tmp_path_factory.mktemp("bare")
    loras = folder / "weights" / "loras"
    loras.mkdir(parents=True)
    (loras / "page.safetensors").write_text("<html>")
    snapshot = folder / "hf/hub/models--Qwen--Qwen-Image-Edit-2511/snapshots" / COMMIT
    shutil.copytree(tiny_model, snapshot)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    done = run(
        *("doctor", "--json", "--port", "0", "--data-dir", str(folder / "data")),
        QWEN_EDIT_WEIGHTS_DIR=str(folder / "weights"),
        HF_HOME=str(folder / "hf"),
        CUDA_VISIBLE_DEVICES="",
    )
    report: dict[str, Any] = json.loads(done.stdout)
    report["exit code"] = done.returncode
    report["data was made"] = (folder / "data").exists()
    return report


def test_demo_model_is_enough_to_start_and_is_said_plainly(bare: dict[str, Any]) -> None:
    assert bare["exit code"] == 0
    assert bare["ok"] is True
    [(state, text)] = topics(bare, "model")
    assert (state, text.startswith("the demo model would answer")) == ("note", True)
    assert bare["next"][0].startswith("qwen-edit serve --port 0 --data-dir")


def test_unreadable_lora_is_named(bare: dict[str, Any]) -> None:
    [(state, text)] = topics(bare, "loras")
    assert state == "note"
    assert "page.safetensors is no safetensors file (it looks like a web page)" in text


def test_half_model_in_the_cache_is_named_with_what_it_lacks(bare: dict[str, Any]) -> None:
    [(state, text)] = topics(bare, "found")
    assert state == "note"
    assert text.startswith("Qwen/Qwen-Image-Edit-2511 in ")
    assert "not whole: vae/diffusion_pytorch_model.safetensors is missing" in text


def test_libraries_and_host_are_reported(bare: dict[str, Any]) -> None:
    assert "torch 2.13.0" in topics(bare, "libraries")[0][1]
    assert bare["torch"]["libraries"]["diffusers"] == "0.42.1"
    assert bare["host"]["cores"] >= 1
    assert bare["host"]["memory_bytes"] > GIB


def test_looking_changes_nothing(bare: dict[str, Any]) -> None:
    assert bare["data was made"] is False


def test_running_server_stops_a_second_one_and_is_named(server: LiveServer) -> None:
    port = server.url.rpartition(":")[2]
    done = run(
        *("doctor", "--port", port, "--data-dir", str(server.data_dir)),
        QWEN_EDIT_WEIGHTS_DIR=str(server.weights_dir),
    )

    said = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert f"is in use by a running server (process {server.process.pid})" in said
    assert "Address already in use; a qwen-edit-server answers there (ready, tiny)" in said
    assert "A server would not start here" in said
    assert f"qwen-edit serve --port {int(port) + 1}" in said


def test_broken_torch_half_model_and_bad_folder_are_all_said_at_once(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('libcudart.so.13 is missing')\n")
    model = tmp_path / "weights" / "models" / "Qwen-Image-Edit-2509"
    shutil.copytree(tiny_model, model)
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00001.safetensors"}}
    (model / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    name = "diffusion_pytorch_model.safetensors.index.json"
    (model / "transformer" / name).write_text(json.dumps(index))
    (tmp_path / "data").write_text("a file")

    done = run(
        *("doctor", "--json", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data")),
        *("--weights-dir", str(tmp_path / "weights")),
        PYTHONPATH=str(broken),
    )
    report = json.loads(done.stdout)

    assert done.returncode == 1
    assert "libcudart.so.13 is missing" in topics(report, "libraries")[0][1]
    assert "set QWEN_EDIT_API_KEYS" in topics(report, "settings")[0][1]
    assert topics(report, "data")[0][1].endswith("data cannot be written")
    shard = "transformer/diffusion_pytorch_model-00001-of-00001.safetensors is missing"
    assert shard in topics(report, "model")[0][1]
    assert "qwen-edit pull 2509" in report["next"]


@pytest.mark.parametrize(
    ("device_gib", "host_gib", "expected"),
    [
        (80, 32, "none"),
        (80, 128, "none"),
        (48, 128, "model"),
        (24, 128, "group"),
        (24, 32, None),
        (6, 128, None),
    ],
)
def test_way_that_fits_is_the_fastest_with_room_for_it(
    device_gib: int, host_gib: int, expected: str | None
) -> None:
    fits = fits_on_gpu(
        PUBLISHED_PARAMETERS,
        bytes_each=2,
        device_bytes=device_gib * GIB,
        host_bytes=host_gib * GIB,
    )

    assert next((fit.offload for fit in fits if fit.fits), None) == expected


def fit_checks(model: Path, device: Gpu, **settings: Any) -> list[Check]:
    """The checks of memory for a served model, which counts as if it were the published one."""
    chosen = Settings(model=str(model), **settings)
    return list(check_fit(chosen, torch_with(device), BIG_HOST))


def test_served_model_that_fits_only_with_offload_stops_and_says_which(tiny_model: Path) -> None:
    # the tiny model wants 1 GiB beside its 2.2 MB
    small = Gpu(0, "NVIDIA X", GIB + 2 * 2**20, GIB, "9.0")

    whole = fit_checks(tiny_model, small)
    offloaded = fit_checks(tiny_model, small, offload="model")

    assert (whole[-1].state, whole[-1].do) == (State.STOP, "qwen-edit serve --offload model")
    assert all(check.state is not State.STOP for check in offloaded)


def test_published_model_is_proposed_where_it_would_fit(tmp_path: Path) -> None:
    settings = Settings(weights_dir=tmp_path)
    found = list(check_fit(settings, torch_with(gpu(24)), BIG_HOST))

    said = "\n".join(check.text for check in found)
    assert "--offload none needs 60 GiB on the GPU and 4 GiB of host memory: does not fit" in said
    assert "--offload group needs 8 GiB on the GPU and 58 GiB of host memory: fits" in said
    assert "the published model has 57.7 GB to fetch" in said
    assert all(check.state is not State.STOP for check in found)


@pytest.mark.parametrize(
    ("torch", "host", "sentence"),
    [
        (torch_with(), Host(2, GIB, GIB, None), "no NVIDIA driver is loaded"),
        (torch_with(), Host(2, GIB, GIB, "535.1"), "driver 535.1 is too old, R580 or newer"),
        (torch_with(cuda_build=None), BIG_HOST, "this torch is the CPU build"),
        (TorchReport(LIBRARIES, "13.0", (), ("no permission",)), BIG_HOST, "no permission"),
    ],
)
def test_missing_gpu_is_explained(torch: TorchReport, host: Host, sentence: str) -> None:
    [check] = check_devices(Settings(), torch, host)
    assert (check.state, sentence in check.text) == (State.NOTE, True)


def test_named_device_that_is_not_there_stops() -> None:
    settings = Settings(device="cuda:0,cuda:1")
    found = list(check_devices(settings, torch_with(gpu(80)), BIG_HOST))

    assert [check.state for check in found] == [State.OK, State.STOP]
    assert "cuda:0 NVIDIA X, 80.0 GiB (80.0 GiB free), compute 9.0, driver 580.65.06" in (
        found[0].text
    )
    assert "--device cuda:1 is not on this machine: 1 CUDA devices found" in found[1].text


def test_next_step_of_a_place_without_fault_is_to_serve_with_the_same_options(
    tiny_model: Path, tmp_path: Path
) -> None:
    flags = {"port": 0, "data_dir": tmp_path, "model": str(tiny_model), "no_auth": True}
    found = examine(flags, torch_with(gpu(80)), BIG_HOST)

    first = next_steps(found, flags)[0]
    assert first == f"qwen-edit serve --port 0 --data-dir {tmp_path} --model {tiny_model} --no-auth"


def test_truncated_weights_and_missing_configuration_are_named(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (folder / "text_encoder" / "config.json").unlink()
    shutil.rmtree(folder / "tokenizer")

    problems = "; ".join(inspect_model(folder).problems)

    assert "text_encoder/config.json is missing" in problems
    assert "tokenizer/ is missing" in problems
    assert "vae/diffusion_pytorch_model.safetensors is truncated" in problems
