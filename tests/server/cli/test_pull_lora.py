"""`qwen-edit pull` of LoRAs from the hub, its cache and other addresses."""

import json
import os
import shutil
from pathlib import Path

import pytest

from pipelines.api.model_spec import DEMO_NAME
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import Catalog
from pipelines.files.lora_format.config import METADATA_KEY
from pipelines.files.safetensors_header import read_header
from server.cli.pull.errors import PullError
from server.cli.pull.lora import pull_from_hub
from server.loras.hub_repository import HubError, HubFile, HubRepository
from server.settings import read_settings
from tests.fake_hub import COMMIT, FakeHub, write_cache
from tests.far_side import Answer, far_side
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import run
from tests.server.cli.conftest import LAYER, TINY, files_of

MIB = 2**20


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("owner/style", "style.safetensors"),
        ("owner/many/sub/b.safetensors", "b.safetensors"),
        ("{hub}/owner/many/blob/main/a.safetensors", "a.safetensors"),
        ("{hub}/owner/style", "style.safetensors"),
    ],
)
def test_lora_is_stored_under_weights_loras(
    place: dict[str, str], weights: Path, hub: FakeHub, lora: bytes, name: str, stored: str
) -> None:
    done = run("pull", name.format(hub=hub.url), **place)

    assert done.returncode == 0, done.stderr
    assert files_of(weights / "loras") == {stored: lora}
    assert "LoRA, 1 layers, rank 4, fits Qwen-Image-Edit-Plus" in done.stdout


def test_peft_lora_keeps_the_strength_of_its_configuration(
    place: dict[str, str], weights: Path
) -> None:
    done = run("pull", "owner/peft", "--name", "strong", **place)

    assert done.returncode == 0, done.stderr
    header = read_header(weights / "loras" / "strong.safetensors")
    assert json.loads(header.metadata[METADATA_KEY])["lora_alpha"] == 12


def test_lora_is_fetched_from_any_address(
    place: dict[str, str], weights: Path, lora: bytes, file_host: tuple[str, Path]
) -> None:
    address, folder = file_host
    (folder / "my style.safetensors").write_bytes(lora)
    allowed = {**place, "QWEN_EDIT_ALLOW_NETWORKS": "127.0.0.0/8"}

    done = run("pull", f"{address}/my%20style.safetensors", **allowed)
    nameless = run("pull", f"{address}/download/7", **allowed)

    assert done.returncode == 0, done.stderr
    assert files_of(weights / "loras") == {"my style.safetensors": lora}
    assert "give one, --name my-style" in nameless.stderr


def test_lora_is_fetched_from_civitai_modelscope_and_a_revision_of_the_hub(
    place: dict[str, str], weights: Path, lora: bytes, hub: FakeHub
) -> None:
    with far_side() as far:
        files = json.dumps({"Data": {"Files": [{"Path": "scope.safetensors"}]}}).encode()
        far.answers = {
            "/api/download/models/2": Answer(lora),
            "/api/v1/models/a/b/repo/files?Revision=master&Recursive=true": Answer(files),
            "/models/a/b/resolve/master/scope.safetensors": Answer(lora),
        }
        sites = {"CIVITAI_ENDPOINT": far.url(""), "MODELSCOPE_ENDPOINT": far.url("")}
        allowed = {**place, **sites, "QWEN_EDIT_ALLOW_NETWORKS": "127.0.0.0/8"}

        done = [
            run("pull", *arguments, **allowed)
            for arguments in (
                ("civitai:1@2", "--name", "civitai"),
                ("https://modelscope.cn/models/a/b",),
                ("hf://owner/many@v1/a.safetensors",),
            )
        ]

    assert [command.returncode for command in done] == [0, 0, 0], done
    names = ("civitai", "scope", "a")
    assert files_of(weights / "loras") == {f"{name}.safetensors": lora for name in names}
    assert "GET /api/models/owner/many/revision/v1" in hub.requests


def test_lora_is_kept_when_it_fits_a_model_that_is_present(
    place: dict[str, str], weights: Path, hub: FakeHub, tiny_model: Path, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "tiny.safetensors", random_pairs(TINY, [LAYER]))
    hub.repositories = {"owner/tiny": {"tiny.safetensors": path.read_bytes()}}

    other = run("pull", "owner/tiny", **place)
    shutil.copytree(tiny_model, weights / "models" / "tiny")
    fits = run("pull", "owner/tiny", **place)

    assert other.returncode == 1
    assert "tiny.safetensors does not fit this model" in other.stderr
    assert "not kept. (Checked against Qwen-Image-Edit-Plus, the demo model.)" in other.stderr
    assert fits.returncode == 0, fits.stderr
    assert "fits tiny" in fits.stdout


def test_lora_is_kept_when_it_fits_the_demo_model_alone(
    place: dict[str, str], weights: Path, hub: FakeHub, tmp_path: Path
) -> None:
    linears = read_linears(Catalog(weights).resolve_model(DEMO_NAME).path)
    path = write_lora(tmp_path / "demo.safetensors", random_pairs(linears, [LAYER]))
    hub.repositories = {"owner/demo": {"demo.safetensors": path.read_bytes()}}

    done = run("pull", "owner/demo", **place)

    assert done.returncode == 0, done.stderr
    assert "fits the demo model\n" in done.stdout
    assert (weights / "loras" / "demo.safetensors").is_file()


def test_damaged_file_in_the_cache_is_refused_when_offline(
    place: dict[str, str], weights: Path, lora: bytes, tmp_path: Path
) -> None:
    snapshot = write_cache(tmp_path / "hf" / "hub", "owner/style", {"style.safetensors": lora})
    (snapshot / "style.safetensors").resolve().write_bytes(lora[:-1] + b"!")

    done = run("pull", "owner/style", **place | {"HF_HUB_OFFLINE": "1"})

    assert done.returncode == 1
    assert "style.safetensors is not on this machine, and HF_HUB_OFFLINE forbids" in done.stderr
    assert not (weights / "loras" / "style.safetensors").exists()


def test_existing_file_is_not_overwritten(place: dict[str, str], weights: Path) -> None:
    path = weights / "loras" / "style.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")

    done = run("pull", "owner/style", **place)

    assert done.returncode == 1
    assert "style.safetensors exists already. Remove it" in done.stderr
    assert path.read_bytes() == b"mine"


def test_file_too_large_for_a_lora_is_not_fetched(place: dict[str, str], hub: FakeHub) -> None:
    hub.repositories = {"owner/checkpoint": {"model.safetensors": bytes(2 * MIB)}}

    done = run("pull", "owner/checkpoint", **place, QWEN_EDIT_MAX_LORA_MB="1")

    assert done.returncode == 1
    assert "has 2 MiB, more than the allowed 1 MiB (QWEN_EDIT_MAX_LORA_MB)" in done.stderr
    assert not any("/resolve/" in request for request in hub.requests)


def test_existing_lora_is_reported_and_left_alone(
    place: dict[str, str], weights: Path, hub: FakeHub, lora: bytes
) -> None:
    run("pull", "owner/style", **place)
    run("pull", "owner/peft", **place)
    before = files_of(weights)
    hub.requests.clear()

    again = run("pull", "owner/style", **place)
    merged = run("pull", "owner/peft", **place)

    assert again.returncode == 0, again.stderr
    assert "style.safetensors exists already and is complete, " in again.stdout
    assert merged.returncode == 1
    assert "peft.safetensors exists already. Remove it" in merged.stderr
    assert files_of(weights) == before
    assert not any("/resolve/" in request for request in hub.requests)


def test_lora_in_the_cache_is_linked_and_not_fetched(
    place: dict[str, str], weights: Path, hub: FakeHub, tmp_path: Path
) -> None:
    cache = tmp_path / "hf" / "hub"
    style, peft = hub.repositories["owner/style"], hub.repositories["owner/peft"]
    linked = write_cache(cache, "owner/style", style)
    merged = write_cache(cache, "owner/peft", peft)

    done = [run("pull", name, **place) for name in ("owner/style", "owner/peft")]

    assert [command.returncode for command in done] == [0, 0], done[1].stderr
    assert not any("/resolve/" in request for request in hub.requests)
    stored = weights / "loras" / "style.safetensors"
    assert stored.samefile(linked / "pytorch_lora_weights.safetensors")
    header = read_header(weights / "loras" / "peft.safetensors")
    assert json.loads(header.metadata[METADATA_KEY])["lora_alpha"] == 12
    # the cache's own file is linked, so the configuration goes into another
    assert files_of(merged) == peft


def test_damaged_file_in_the_cache_is_fetched_instead(
    place: dict[str, str], weights: Path, lora: bytes, tmp_path: Path
) -> None:
    damaged = {"pytorch_lora_weights.safetensors": lora[:-1] + b"!"}
    write_cache(tmp_path / "hf" / "hub", "owner/style", damaged)

    done = run("pull", "owner/style", **place)

    assert done.returncode == 0, done.stderr
    assert files_of(weights / "loras") == {"style.safetensors": lora}


def test_lora_is_taken_from_the_cache_when_offline(
    place: dict[str, str], weights: Path, hub: FakeHub, tmp_path: Path
) -> None:
    for name in ("owner/style", "owner/peft"):
        write_cache(tmp_path / "hf" / "hub", name, hub.repositories[name])
    offline = {**place, "HF_HUB_OFFLINE": "1"}

    first = [run("pull", name, **offline) for name in ("owner/style", "owner/peft")]
    again = [run("pull", name, **offline) for name in ("owner/style", "owner/peft")]

    assert [command.returncode for command in first] == [0, 0], first
    assert [command.returncode for command in again] == [0, 1]
    assert "style.safetensors exists already" in again[0].stdout
    assert hub.requests == []


async def test_partial_download_needs_no_space_again(tmp_path: Path) -> None:
    """The file is larger than any disk: without the partial file the space is refused, with it the
    download fails, as the tests run offline.
    """
    settings = read_settings(weights_dir=tmp_path, max_lora_mb=2**24)
    file = HubFile("a.safetensors", 2**43, "0" * 64)
    repository = HubRepository("owner/style", COMMIT, (file,))
    with pytest.raises(PullError, match=r"a\.safetensors needs 8796\.1 GB more"):
        await pull_from_hub(repository, file.name, None, settings)

    parts = tmp_path / "loras" / ".parts"
    parts.mkdir()
    (parts / file.partial_name).touch()
    os.truncate(parts / file.partial_name, file.size_bytes - 1)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids downloads"):
        await pull_from_hub(repository, file.name, None, settings)


def test_oversized_peft_configuration_is_not_fetched(
    place: dict[str, str], hub: FakeHub, lora: bytes
) -> None:
    large = {"adapter_model.safetensors": lora, "adapter_config.json": bytes(MIB + 1)}
    hub.repositories = {"owner/peft": large}

    done = run("pull", "owner/peft", **place)

    assert done.returncode == 1
    assert "owner/peft/adapter_config.json has 1048577 bytes; a PEFT configuration" in done.stderr
    assert not any("/resolve/" in request for request in hub.requests)


@pytest.mark.parametrize(
    ("name", "zero_cond_t", "file"),
    [
        ("lightning", True, "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"),
        ("lightning-8", True, "Qwen-Image-Edit-2511-Lightning-8steps-V1.0-bf16.safetensors"),
        ("lightning", False, "Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16.safetensors"),
    ],
)
def test_lightning_is_fetched_for_the_model_of_this_machine(
    place: dict[str, str],
    weights: Path,
    tiny_model: Path,
    hub: FakeHub,
    lora: bytes,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    zero_cond_t: bool,
    file: str,
) -> None:
    model = shutil.copytree(tiny_model, weights / "models" / "own")
    config = model / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"zero_cond_t": zero_cond_t}))
    repositories = {
        "lightx2v/Qwen-Image-Edit-2511-Lightning": {file: lora},
        "lightx2v/Qwen-Image-Lightning": {f"Qwen-Image-Edit-2509/{file}": lora},
    }
    monkeypatch.setattr(hub, "repositories", {**hub.repositories, **repositories})

    done = run("pull", name, **place)

    assert done.returncode == 0, done.stderr
    assert files_of(weights / "loras") == {file: lora}


def test_lightning_needs_a_published_model(place: dict[str, str]) -> None:
    done = run("pull", "lightning", **place)

    assert done.returncode == 1
    assert "there is none here: fetch one first, with `qwen-edit pull 2511`" in done.stderr
