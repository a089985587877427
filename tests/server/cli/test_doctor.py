"""`qwen-edit doctor` on folders, servers and libraries in every state."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from pipelines.files.memory_fit import GIB
from server.cli import machine
from server.cli.checks import Check, State, check_address, check_devices
from server.cli.doctor import examine, next_steps
from server.cli.machine import Host, TorchReport
from server.cli.model_checks import check_fit
from server.settings import Settings
from tests.fake_hub import COMMIT
from tests.live_server import LiveServer, until
from tests.server.cli.command import run
from tests.server.cli.machines import BIG_HOST, LIBRARIES, gpu, torch_with


def topics(report: dict[str, Any], topic: str) -> list[tuple[str, str]]:
    return [(c["state"], c["text"]) for c in report["checks"] if c["topic"] == topic]


@pytest.fixture(scope="module")
def bare(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report on the demo model, an unreadable LoRA and an incomplete model in the cache."""
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
    report["data exists"] = (folder / "data").exists()
    return report


def test_doctor_names_the_demo_model_when_it_would_be_served(bare: dict[str, Any]) -> None:
    assert bare["exit code"] == 0
    assert bare["ok"] is True
    [(state, text)] = topics(bare, "model")
    assert (state, text.startswith("serve takes the demo model")) == ("note", True)
    assert bare["next"][0].startswith("qwen-edit serve --port 0 --data-dir")


def test_doctor_names_a_lora_it_cannot_read(bare: dict[str, Any]) -> None:
    [(state, text)] = topics(bare, "loras")
    assert state == "note"
    assert text.startswith("1 in ")
    assert "/weights/loras, 3 that come with the demo model; " in text
    assert "page.safetensors is not a safetensors file (it looks like a web page)" in text


def test_doctor_names_the_missing_files_of_a_cached_model(bare: dict[str, Any]) -> None:
    [(state, text)] = topics(bare, "found")
    assert state == "note"
    assert text.startswith("Qwen/Qwen-Image-Edit-2511 in ")
    assert "incomplete: vae/diffusion_pytorch_model.safetensors is missing" in text


def test_doctor_reports_libraries_and_host(bare: dict[str, Any]) -> None:
    assert "torch 2.13.0" in topics(bare, "libraries")[0][1]
    assert bare["torch"]["libraries"]["diffusers"] == "0.42.1"
    assert bare["host"]["cores"] >= 1
    assert bare["host"]["memory_bytes"] > GIB


def test_doctor_creates_no_data_folder(bare: dict[str, Any]) -> None:
    assert bare["data exists"] is False


def test_doctor_names_the_running_server_when_its_folder_and_port_are_taken(
    server: LiveServer,
) -> None:
    # not "busy" with what an earlier test has left
    until(lambda: server.health()["status"] == "ready")
    port = server.url.rpartition(":")[2]
    done = run(
        *("doctor", "--port", port, "--data-dir", str(server.data_dir)),
        QWEN_EDIT_WEIGHTS_DIR=str(server.weights_dir),
    )

    message = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert f"is in use by a running server (process {server.process.pid})" in message
    assert "Address already in use; a qwen-edit-server answers there (ready, tiny)" in message
    assert "A server would not start here" in message
    assert f"qwen-edit serve --port {int(port) + 1}" in message


def test_doctor_reports_all_problems_at_once(tiny_model: Path, tmp_path: Path) -> None:
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
        *("doctor", "--json", "--host", "0.0.0.0", "--port", "0"),
        *("--data-dir", str(tmp_path / "data")),
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
    assert f"qwen-edit pull 2509 --weights-dir {tmp_path / 'weights'}" in report["next"]
    assert report["next"][-1] == (
        f"QWEN_EDIT_API_KEYS=KEY_OF_16_OR_MORE_CHARACTERS qwen-edit serve --host 0.0.0.0 --port 0 "
        f"--weights-dir {tmp_path / 'weights'} --data-dir OTHER"
    )


@pytest.mark.parametrize(
    ("torch", "host", "reason"),
    [
        (torch_with(), Host(2, GIB, GIB, None), "no NVIDIA driver is loaded"),
        (torch_with(), Host(2, GIB, GIB, "535.1"), "driver 535.1 is too old, R580 or newer"),
        (torch_with(cuda_build=None), BIG_HOST, "this torch is the CPU build"),
        (TorchReport(LIBRARIES, "13.0", (), ("no permission",)), BIG_HOST, "no permission"),
    ],
)
def test_check_devices_explains_a_missing_gpu(torch: TorchReport, host: Host, reason: str) -> None:
    [check] = check_devices(Settings(), torch, host)
    assert (check.state, reason in check.text) == (State.NOTE, True)


def test_check_devices_advises_to_reinstall_torch_when_it_is_the_cpu_build() -> None:
    [check] = check_devices(Settings(), torch_with(cuda_build=None), BIG_HOST)
    assert check.do == "pip uninstall -y torch && pip install -c constraints.txt torch"


def test_checks_of_gpus_report_nothing_when_torch_fails(tiny_model: Path) -> None:
    """A torch that cannot be imported is no CPU build, and the GPUs may be there."""
    torch = TorchReport({}, None, (), (), "libcudart.so.13 is missing")
    settings = Settings(device="cuda:0", model=str(tiny_model))

    assert list(check_devices(settings, torch, BIG_HOST)) == []
    assert list(check_fit(settings, torch, Host(2, 1, 1, "580.1"))) == []


def test_check_devices_stops_when_a_named_device_is_missing() -> None:
    settings = Settings(device="cuda:0,cuda:1")
    found = list(check_devices(settings, torch_with(gpu(80)), BIG_HOST))

    assert [check.state for check in found] == [State.OK, State.STOP]
    assert "cuda:0 NVIDIA X, 80.0 GiB (80.0 GiB free), compute 9.0, driver 580.65.06" in (
        found[0].text
    )
    assert "--device cuda:1 is not on this machine: 1 CUDA devices found" in found[1].text


def test_next_steps_serve_with_the_same_options_when_nothing_stops(
    tiny_model: Path, tmp_path: Path
) -> None:
    flags = {"port": 0, "data_dir": tmp_path, "model": str(tiny_model), "no_auth": True}
    found = examine(flags, torch_with(gpu(80)), BIG_HOST)

    first = next_steps(found, flags)[0]
    assert first == f"qwen-edit serve --port 0 --data-dir {tmp_path} --model {tiny_model} --no-auth"


def test_next_steps_combine_the_changes_to_the_options_in_use() -> None:
    flags = {"model": "my model", "port": 9000, "offload": "none"}
    found = [
        Check("memory", State.STOP, "too large", {"offload": "model"}),
        Check("address", State.STOP, "taken", {"port": 9001}),
    ]

    assert next_steps(found, flags) == [
        "qwen-edit doctor --model 'my model' --port 9001 --offload model",
        "qwen-edit serve --model 'my model' --port 9001 --offload model",
    ]


def test_next_steps_add_the_advice_of_notes_when_nothing_stops() -> None:
    flags = {"weights_dir": Path("/mnt/big disk"), "port": 9000}
    pull = "qwen-edit pull 2511 --weights-dir '/mnt/big disk'"
    found = [Check("disk", State.OK, "enough space", pull)]

    assert next_steps(found, flags) == [
        "qwen-edit serve --weights-dir '/mnt/big disk' --port 9000",
        pull,
    ]


def test_next_steps_replace_no_auth_by_keys(tmp_path: Path) -> None:
    flags = {"host": "0.0.0.0", "port": 0, "no_auth": True, "data_dir": tmp_path}
    found = examine(flags, torch_with(gpu(80)), BIG_HOST)

    options = f"--host 0.0.0.0 --port 0 --data-dir {tmp_path}"
    advised = f"QWEN_EDIT_API_KEYS=KEY_OF_16_OR_MORE_CHARACTERS qwen-edit serve {options}"
    assert advised in next_steps(found, flags)


def test_doctor_explains_a_port_out_of_range(tmp_path: Path) -> None:
    done = run("doctor", "--port", "70000", "--data-dir", str(tmp_path))

    message = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "127.0.0.1:70000: a port is a number from 0 to 65535" in message
    assert f"qwen-edit serve --port 0 --data-dir {tmp_path}" in message
    assert done.stderr == ""


def test_check_address_stops_when_an_ipv6_port_is_taken() -> None:
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        # it accepts no connection, so what answers there stays unknown
        check = check_address(Settings(host="::1", port=port))

    assert (check.state, check.do) == (State.STOP, {"port": port + 1})
    assert "Address already in use" in check.text


def test_ask_torch_reports_a_failure_when_it_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "REPORT_TIMEOUT_S", 0)

    failure = machine.ask_torch().failure

    assert failure is not None
    assert "timed out after 0 seconds" in failure
