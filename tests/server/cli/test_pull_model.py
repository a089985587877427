"""`qwen-edit pull` of models: fetched, verified, resumed."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

from pipelines.files.catalog import Catalog
from pipelines.files.model_files import inspect_model
from server.loras.hub_repository import HubFile
from tests.fake_hub import FakeHub, Listed, write_cache
from tests.live_server import until
from tests.server.cli.command import RUN_TIMEOUT_S, run, start
from tests.server.cli.conftest import files_of

MIB = 2**20
# A sparse file takes no disk, but as long to hash as any other.
HOURS_TO_HASH_BYTES = 2**43


def test_model_is_fetched_without_the_files_it_does_not_need(
    place: dict[str, str], weights: Path, tiny_model: Path
) -> None:
    done = run("pull", "2509", **place)

    folder = weights / "models" / "Qwen-Image-Edit-2509"
    assert done.returncode == 0, done.stderr
    assert files_of(folder) == {
        **files_of(tiny_model),
        ".repository": b"Qwen/Qwen-Image-Edit-2509\n",
    }
    assert inspect_model(folder).problems == ()
    size = f"{sum(map(len, files_of(tiny_model).values())) / 1e6:.1f} MB"
    assert f"Qwen/Qwen-Image-Edit-2509: {size} of {size}" in done.stderr
    assert "qwen-edit serve --model Qwen-Image-Edit-2509" in done.stdout


def test_existing_model_is_verified_and_only_damaged_files_are_fetched(
    place: dict[str, str], weights: Path, hub: FakeHub
) -> None:
    folder = weights / "models" / "someone" / "finetune"
    run("pull", "someone/finetune", **place)
    before = files_of(folder)
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    hub.requests.clear()

    again = run("pull", "someone/finetune", **place)
    fetched = [request for request in hub.requests if "/resolve/" in request]
    vae.write_bytes(vae.read_bytes()[:-1] + b"!")
    mended = run("pull", "someone/finetune", **place)

    assert again.returncode == 0, again.stderr
    assert "exists already and is complete" in again.stdout
    assert [request.rpartition("/")[2] for request in fetched] == ["model_index.json"]
    assert mended.returncode == 0, mended.stderr
    assert files_of(folder) == before


def test_killed_download_resumes(
    place: dict[str, str], weights: Path, hub: FakeHub, tiny_model: Path
) -> None:
    """kill -9 in a shard: the catalog sees no model, and only the rest is fetched."""
    shard = "transformer/diffusion_pytorch_model-00001-of-00002.safetensors"
    rest = "transformer/diffusion_pytorch_model-00002-of-00002.safetensors"
    files = files_of(tiny_model)
    small = files.pop("transformer/diffusion_pytorch_model.safetensors")
    index = {"weight_map": {"a": Path(shard).name, "b": Path(rest).name}}
    files |= {
        shard: large_safetensors(36 * MIB),
        rest: small,
        "transformer/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
    }
    hub.repositories = {"Qwen/Qwen-Image-Edit-2511": files}
    hub.hold_at = 25 * MIB
    folder = weights / "models" / "Qwen-Image-Edit-2511"
    part = HubFile(shard, 0, hashlib.sha256(files[shard]).hexdigest()).partial_name

    part_path = folder / ".parts" / part

    def has_part() -> bool:
        return part_path.is_file() and part_path.stat().st_size >= 23 * MIB

    with start("pull", "2511", **place) as killed:
        until(has_part)
        until(lambda: (folder / rest).is_file())
        killed.kill()
        killed.wait()
    received = part_path.stat().st_size
    assert Catalog(weights).models() == []

    hub.hold_at = None
    hub.released.set()
    done = run("pull", "2511", **place)

    assert done.returncode == 0, done.stderr
    assert hub.ranges == [f"bytes={received}-"]
    assert files_of(folder) == {**files, ".repository": b"Qwen/Qwen-Image-Edit-2511\n"}
    assert Catalog(weights).models() == [folder]


def test_ctrl_c_ends_at_once_and_says_how_to_resume(place: dict[str, str], hub: FakeHub) -> None:
    hub.hold_at = MIB // 2
    with start("pull", "2509", **place) as command:
        until(lambda: any("diffusion_pytorch_model" in request for request in hub.requests))
        command.send_signal(signal.SIGINT)
        _, message = command.communicate(timeout=RUN_TIMEOUT_S)

    assert command.returncode == 130
    assert "stopped; run the same command again to resume" in message
    assert "Traceback" not in message


def test_damaged_download_is_discarded(place: dict[str, str], weights: Path, hub: FakeHub) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    data = hub.repositories["Qwen/Qwen-Image-Edit-2509"][name]
    part = HubFile(name, len(data), hashlib.sha256(data).hexdigest()).partial_name
    parts = weights / "models" / "Qwen-Image-Edit-2509" / ".parts"
    parts.mkdir(parents=True)
    (parts / part).write_bytes(b"other bytes")

    damaged = run("pull", "2509", **place)
    mended = run("pull", "2509", **place)

    assert damaged.returncode == 1
    assert f"{name} was damaged on the way. Try again." in damaged.stderr
    assert mended.returncode == 0, mended.stderr


def test_model_is_taken_from_the_cache_when_offline(
    place: dict[str, str], weights: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    snapshot = write_cache(tmp_path / "hf/hub", "Qwen/Qwen-Image-Edit-2509", model_files)
    offline = {**place, "HF_HUB_OFFLINE": "1"}

    taken = run("pull", "2509", **offline)
    shutil.rmtree(snapshot)
    again = run("pull", "2509", **offline)
    absent = run("pull", "2511", **offline)

    assert taken.returncode == 0, taken.stderr
    assert inspect_model(weights / "models" / "Qwen-Image-Edit-2509").problems == ()
    assert again.returncode == 0, again.stderr
    assert absent.returncode == 1
    assert "Qwen/Qwen-Image-Edit-2511 is not in the Hugging Face cache" in absent.stderr
    assert "HF_HUB_OFFLINE forbids downloads" in absent.stderr


def test_model_of_another_repository_is_not_overwritten(
    place: dict[str, str], weights: Path, hub: FakeHub, model_files: dict[str, bytes]
) -> None:
    tokenizer = {"tokenizer/tokenizer_config.json": b"{}"}
    hub.repositories = {**hub.repositories, "some/other": {**model_files, **tokenizer}}
    folder = weights / "models" / "mine"
    run("pull", "someone/finetune", "--name", "mine", **place)
    before = files_of(folder)

    other = run("pull", "some/other", "--name", "mine", **place)
    after = files_of(folder)
    (folder / "vae" / "config.json").unlink()
    mended = run("pull", "someone/finetune", "--name", "mine", **place)

    assert other.returncode == 1
    assert f"{folder} holds a model already, which was pulled from someone/finetune" in other.stderr
    assert "another name with --name, or remove that folder first" in other.stderr
    assert after == before
    assert mended.returncode == 0, mended.stderr
    assert files_of(folder) == before


def test_model_of_unknown_origin_is_overwritten_only_under_the_repositorys_name(
    place: dict[str, str], weights: Path, tiny_model: Path
) -> None:
    mine, named = weights / "models" / "mine", weights / "models" / "someone" / "finetune"
    shutil.copytree(tiny_model, mine)
    shutil.copytree(tiny_model, named)
    (named / "vae" / "config.json").unlink()
    (mine / "vae" / "config.json").write_text("{}")

    other = run("pull", "someone/finetune", "--name", "mine", **place)
    shutil.copy(tiny_model / "vae" / "config.json", mine / "vae")
    same = run("pull", "someone/finetune", "--name", "mine", **place)
    repaired = run("pull", "someone/finetune", **place)

    assert other.returncode == 1
    assert f"{mine} holds a model already, which is not known to be someone/fi" in other.stderr
    assert same.returncode == 0, same.stderr
    assert repaired.returncode == 0, repaired.stderr
    assert files_of(mine) == files_of(named)


def test_model_of_another_repository_is_not_overwritten_from_the_cache(
    place: dict[str, str],
    weights: Path,
    tmp_path: Path,
    model_files: dict[str, bytes],
    lora: bytes,
) -> None:
    cache = tmp_path / "hf" / "hub"
    write_cache(cache, "someone/finetune", model_files)
    write_cache(cache, "some/other", {**model_files, "tokenizer/tokenizer_config.json": b"{}"})
    write_cache(cache, "owner/style", {"style.safetensors": lora})
    offline = {**place, "HF_HUB_OFFLINE": "1"}

    first = run("pull", "someone/finetune", "--name", "mine", **offline)
    before = files_of(weights / "models")
    other = run("pull", "some/other", "--name", "mine", **offline)
    style = run("pull", "owner/style", "--name", "mine", **offline)

    assert first.returncode == 0, first.stderr
    assert other.returncode == 1
    assert "which was pulled from someone/finetune" in other.stderr
    assert style.returncode == 0, style.stderr
    assert files_of(weights / "loras") == {"mine.safetensors": lora}
    assert files_of(weights / "models") == before


def test_ctrl_c_ends_at_once_while_existing_files_are_verified(
    place: dict[str, str], weights: Path, hub: FakeHub, model_files: dict[str, bytes]
) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    hub.repositories = {"some/huge": {**model_files, name: Listed(HOURS_TO_HASH_BYTES)}}
    path = weights / "models" / "some" / "huge" / name
    path.parent.mkdir(parents=True)
    path.touch()
    os.truncate(path, HOURS_TO_HASH_BYTES)

    with start("pull", "some/huge", **place) as command:
        until(lambda: is_open(path, command.pid))
        command.send_signal(signal.SIGINT)
        _, message = command.communicate(timeout=RUN_TIMEOUT_S)

    assert command.returncode == 130
    assert "stopped; run the same command again to resume" in message


def is_open(path: Path, pid: int) -> bool:
    """Return whether the process has the file open."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(descriptor.readlink())
    return path in found


def large_safetensors(size: int) -> bytes:
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(size)
