"""`qwen-edit pull` against a stand-in for the hub on loopback, each command in its own process."""

import hashlib
import io
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.catalog import Catalog
from pipelines.lora_config import METADATA_KEY
from pipelines.model_files import inspect_model
from pipelines.safetensors_header import read_header
from server.cli.pull.progress import ByteProgress
from server.cli.pull.refusal import PullRefused, alone_in, check_space
from server.hub_repository import HubFile
from tests.fake_hub import COMMIT, PRIVATE_TOKEN, FakeHub, fake_hub, git_digest
from tests.live_server import until
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import run, start

MIB = 2**20
LAYER = "transformer_blocks.0.attn.to_q"
# Layers of the published model and of the tiny one.
PUBLISHED = {LAYER: (3072, 3072)}
TINY = {LAYER: (64, 64)}


def files_of(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def model_files(tiny_model: Path) -> dict[str, bytes]:
    """The tiny model as a repository, with the files beside it that published ones have."""
    return {
        **files_of(tiny_model),
        "README.md": b"# a model",
        "transformer/diffusion_pytorch_model.bin": b"\x80\x02pickle",
        "transformer/diffusion_pytorch_model.fp16.safetensors": b"another precision",
        "text_encoder/model.fp16.safetensors.index.json": b"{}",
    }


@pytest.fixture(scope="module")
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
    """The environment of a command: the stand-in hub, a cache and a weights folder of its own."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "QWEN_EDIT_WEIGHTS_DIR": str(tmp_path / "weights"),
    }


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights"


def test_model_comes_whole_and_without_what_is_not_needed(
    place: dict[str, str], weights: Path, tiny_model: Path
) -> None:
    done = run("pull", "2509", **place)

    folder = weights / "models" / "Qwen-Image-Edit-2509"
    assert done.returncode == 0, done.stderr
    assert files_of(folder) == files_of(tiny_model)
    assert inspect_model(folder).problems == ()
    assert "Qwen/Qwen-Image-Edit-2509: 4." in done.stderr
    assert "qwen-edit serve --model Qwen-Image-Edit-2509" in done.stdout


def test_model_that_is_there_is_checked_and_not_fetched_again(
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
    assert "was there already: whole" in again.stdout
    assert [request.rpartition("/")[2] for request in fetched] == ["model_index.json"]
    assert mended.returncode == 0, mended.stderr
    assert files_of(folder) == before


def test_killed_download_goes_on_where_it_ended(
    place: dict[str, str], weights: Path, hub: FakeHub, tiny_model: Path
) -> None:
    """kill -9 in a shard: the catalog sees no model, and the rest alone is fetched."""
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
    part = HubFile(shard, 0, hashlib.sha256(files[shard]).hexdigest()).part_name

    def has_part() -> bool:
        path = folder / ".parts" / part
        return path.is_file() and path.stat().st_size >= 20 * MIB

    with start("pull", "2511", **place) as killed:
        until(has_part)
        until(lambda: (folder / rest).is_file())
        killed.kill()
    assert Catalog(weights).models() == []

    hub.hold_at = None
    hub.released.set()
    done = run("pull", "2511", **place)

    assert done.returncode == 0, done.stderr
    assert hub.ranges == [f"bytes={20 * MIB}-"]
    assert files_of(folder) == files
    assert Catalog(weights).models() == [folder]


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(place: dict[str, str], hub: FakeHub) -> None:
    hub.hold_at = MIB // 2
    with start("pull", "2509", **place) as command:
        until(lambda: any("diffusion_pytorch_model" in request for request in hub.requests))
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)

    assert command.returncode == 130
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said


def test_part_of_a_damaged_download_is_not_gone_on_with(
    place: dict[str, str], weights: Path, hub: FakeHub
) -> None:
    name = "vae/diffusion_pytorch_model.safetensors"
    data = hub.repositories["Qwen/Qwen-Image-Edit-2509"][name]
    part = HubFile(name, len(data), hashlib.sha256(data).hexdigest()).part_name
    parts = weights / "models" / "Qwen-Image-Edit-2509" / ".parts"
    parts.mkdir(parents=True)
    (parts / part).write_bytes(b"other bytes")

    damaged = run("pull", "2509", **place)
    mended = run("pull", "2509", **place)

    assert damaged.returncode == 1
    assert f"{name} came damaged. Fetch it again." in damaged.stderr
    assert mended.returncode == 0, mended.stderr


def test_model_is_taken_from_the_cache_when_offline(
    place: dict[str, str], weights: Path, tmp_path: Path, model_files: dict[str, bytes]
) -> None:
    snapshot = tmp_path / "hf/hub/models--Qwen--Qwen-Image-Edit-2509/snapshots" / COMMIT
    for name, data in model_files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(data)
    offline = {**place, "HF_HUB_OFFLINE": "1"}

    taken = run("pull", "2509", **offline)
    shutil.rmtree(snapshot)
    again = run("pull", "2509", **offline)
    absent = run("pull", "2511", **offline)

    assert taken.returncode == 0, taken.stderr
    assert inspect_model(weights / "models" / "Qwen-Image-Edit-2509").problems == ()
    assert again.returncode == 0, again.stderr
    assert absent.returncode == 1
    assert "Qwen/Qwen-Image-Edit-2511 is not whole in the Hugging Face cache" in absent.stderr
    assert "HF_HUB_OFFLINE forbids to fetch it" in absent.stderr


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("owner/style", "style.safetensors"),
        ("owner/many/sub/b.safetensors", "b.safetensors"),
        ("{hub}/owner/many/blob/main/a.safetensors", "a.safetensors"),
        ("{hub}/owner/style", "style.safetensors"),
    ],
)
def test_lora_comes_into_the_folder_of_loras(
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


def test_lora_comes_from_any_address(
    place: dict[str, str], weights: Path, lora: bytes, file_host: tuple[str, Path]
) -> None:
    address, folder = file_host
    (folder / "my style.safetensors").write_bytes(lora)
    allowed = {**place, "QWEN_EDIT_ALLOW_NETWORKS": "127.0.0.0/8"}

    done = run("pull", f"{address}/my%20style.safetensors", **allowed)
    nameless = run("pull", f"{address}/download/7", **allowed)
    offline = run("pull", f"{address}/b.safetensors", **{**allowed, "HF_HUB_OFFLINE": "1"})

    assert done.returncode == 0, done.stderr
    assert files_of(weights / "loras") == {"my style.safetensors": lora}
    assert "say one, --name my-style" in nameless.stderr
    assert "runs offline and fetches nothing" in offline.stderr


def test_lora_for_a_model_that_is_here_is_kept(
    place: dict[str, str], weights: Path, hub: FakeHub, tiny_model: Path, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "tiny.safetensors", random_pairs(TINY, [LAYER]))
    hub.repositories = {"owner/tiny": {"tiny.safetensors": path.read_bytes()}}

    other = run("pull", "owner/tiny", **place)
    shutil.copytree(tiny_model, weights / "models" / "tiny")
    fits = run("pull", "owner/tiny", **place)

    assert other.returncode == 1
    assert "tiny.safetensors does not fit this model" in other.stderr
    assert "It was not kept. (Checked against Qwen-Image-Edit-Plus.)" in other.stderr
    assert fits.returncode == 0, fits.stderr
    assert "fits tiny" in fits.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nothing",), "'nothing' is nothing that can be fetched: give 2509, 2511, OWNER/REPO"),
        (("../x",), "'../x' is nothing that can be fetched"),
        (
            ("owner/nothing",),
            "has no repository owner/nothing, or it is private: then set HF_TOKEN",
        ),
        (("someone/flux",), "someone/flux holds a FluxPipeline"),
        (("someone/half",), "someone/half is not whole: vae/ is missing"),
        (("someone/gguf",), "files of the kinds .gguf, .md"),
        (("owner/many",), "qwen-edit pull 'owner/many/sub/b.safetensors'"),
        (("owner/many/c.safetensors",), "owner/many has no file c.safetensors. It has: a.safete"),
        (("owner/page",), "a.safetensors is no safetensors file (it looks like a web page)"),
        (("gated/style",), "gated/style is gated: accept its terms on http://127.0.0.1"),
        (("owner/style", "--name", "../x"), "--name must be a file name under"),
        (("2509", "--name", "a/b/c"), "--name 'a/b/c': a model's folder has letters"),
    ],
)
def test_refusal_says_what_came_and_leaves_nothing(
    place: dict[str, str], weights: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run("pull", *arguments, **place)

    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert Catalog(weights).models() == []
    assert Catalog(weights).loras() == []


def test_token_opens_a_gated_repository(place: dict[str, str], weights: Path) -> None:
    done = run("pull", "gated/style", **place, HF_TOKEN=PRIVATE_TOKEN)

    assert done.returncode == 0, done.stderr
    assert (weights / "loras" / "style.safetensors").is_file()


def test_hub_that_cannot_be_reached_is_said(place: dict[str, str]) -> None:
    done = run("pull", "2509", **{**place, "HF_ENDPOINT": "http://127.0.0.1:9"})

    assert done.returncode == 1
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "name a mirror with HF_ENDPOINT" in done.stderr


def test_file_that_is_there_is_not_overwritten(place: dict[str, str], weights: Path) -> None:
    path = weights / "loras" / "style.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")

    done = run("pull", "owner/style", **place)

    assert done.returncode == 1
    assert "style.safetensors is there already. Remove it" in done.stderr
    assert path.read_bytes() == b"mine"


def test_file_that_is_too_large_for_a_lora_is_not_fetched(
    place: dict[str, str], hub: FakeHub
) -> None:
    hub.repositories = {"owner/checkpoint": {"model.safetensors": bytes(2 * MIB)}}

    done = run("pull", "owner/checkpoint", **place, QWEN_EDIT_MAX_LORA_MB="1")

    assert done.returncode == 1
    assert "has 2.1 MB: more than a LoRA may have (QWEN_EDIT_MAX_LORA_MB=1)" in done.stderr
    assert not any("/resolve/" in request for request in hub.requests)


def test_disk_without_room_is_said_before_anything_comes(tmp_path: Path) -> None:
    with pytest.raises(PullRefused, match=r"Qwen/X needs 1000000000.0 GB more, and the disk of"):
        check_space(tmp_path / "weights" / "models", 10**18, "Qwen/X")


def test_second_pull_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    parts = tmp_path / "model" / ".parts"
    with alone_in(parts), pytest.raises(PullRefused, match="another pull is fetching into"):
        alone_in(parts).__enter__()
    assert not parts.exists()


def test_bar_is_drawn_on_a_terminal() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    with ByteProgress("a model", 4_000_000, console) as progress:
        progress.add(1_000_000)
    assert "1.0/4.0 MB" in terminal.getvalue()


def test_small_file_is_known_by_gits_hash_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")

    assert HubFile("a.json", 2, git_digest(b"{}")).is_at(path)
    assert not HubFile("a.json", 2, git_digest(b"[]")).is_at(path)


def large_safetensors(size: int) -> bytes:
    header = {"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(size)
