"""Errors of `qwen-edit pull`."""

import hashlib
import io
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from pipelines.api.errors import LoraInvalid
from pipelines.files.catalog import Catalog
from server.cli.pull.errors import PullError
from server.cli.pull.lora import pull_url
from server.cli.pull.partial import check_space, exclusive
from server.cli.pull.progress import byte_progress
from server.errors import ServerError
from server.loras.hub_repository import HubFile
from server.settings import read_settings
from tests.fake_hub import PRIVATE_TOKEN, FakeHub
from tests.server.cli.command import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "'nothing' cannot be fetched: give 2509, 2511, lightning"),
        (("../x",), "'../x' cannot be fetched"),
        (
            ("owner/nothing",),
            "has no repository owner/nothing, or it is private: then set HF_TOKEN",
        ),
        (("someone/flux",), "someone/flux holds a FluxPipeline"),
        (("someone/half",), "someone/half is not complete: vae/ is missing"),
        (("someone/gguf",), "files of the kinds .gguf, .md"),
        (
            ("owner/many",),
            "name one of them: owner/many/a.safetensors, owner/many/su",
        ),
        (
            ("owner/many/c.safetensors",),
            "has no file c.safetensors. It has: owner/many/a.safetensors, ",
        ),
        (("owner/page",), "a.safetensors is not a safetensors file (it looks like a web page)"),
        (("http://[::1",), "'http://[::1' cannot be fetched: give 2509, 2511"),
        (("civitai:1",), "It must name a version of a Civitai model: choose one on its page"),
        (
            ("https://hf.co/owner/style/resolve/main/../a.safetensors",),
            "resolve/main/../a.safetensors' cannot be fetched: give 2509, 2511",
        ),
        (
            ("owner/style", "--name", "a.safetensors/b"),
            "(name must have no folder that starts with a dot or ends in .safetensors, got",
        ),
        (("gated/style",), "gated/style is gated: accept its terms on http://127.0.0.1"),
        (("owner/style", "--name", "../x"), "--name '../x': a LoRA's name may have folders"),
        (("2509", "--name", "a/b/c"), "--name 'a/b/c': a model's folder has letters"),
    ],
)
def test_pull_names_the_reason_and_leaves_nothing_when_it_fails(
    place: dict[str, str], weights: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("pull", *arguments, **place)

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert Catalog(weights).models() == []
    assert Catalog(weights).loras() == []


def test_token_opens_a_gated_repository(place: dict[str, str], weights: Path) -> None:
    done = run("pull", "gated/style", **place, HF_TOKEN=PRIVATE_TOKEN)

    assert done.returncode == 0, done.stderr
    assert (weights / "loras" / "style.safetensors").is_file()


def test_unreachable_hub_is_named_with_advice(place: dict[str, str]) -> None:
    done = run("pull", "2509", **{**place, "HF_ENDPOINT": "http://127.0.0.1:9"})

    assert done.returncode == 1
    assert "http://127.0.0.1:9 cannot be reached" in done.stderr
    assert "name a mirror with HF_ENDPOINT" in done.stderr


@pytest.mark.parametrize("name", ["owner/style", "2509"])
def test_full_disk_is_not_blamed_on_the_hub(
    place: dict[str, str], weights: Path, hub: FakeHub, name: str
) -> None:
    """The partial file is a device that takes no byte, like a full disk."""
    repository, folder, file = {
        "owner/style": ("owner/style", "loras", "pytorch_lora_weights.safetensors"),
        "2509": (
            "Qwen/Qwen-Image-Edit-2509",
            "models/Qwen-Image-Edit-2509",
            "vae/diffusion_pytorch_model.safetensors",
        ),
    }[name]
    data = hub.repositories[repository][file]
    parts = weights / folder / ".parts"
    parts.mkdir(parents=True)
    part = HubFile(file, len(data), hashlib.sha256(data).hexdigest()).partial_name
    (parts / part).symlink_to("/dev/full")

    done = run("pull", name, **place)

    assert done.returncode == 1
    assert f"{repository}/{file} cannot be stored: No space left on device. What" in done.stderr
    assert "received is kept: free some space and try again to resume" in done.stderr
    assert hub.url not in done.stderr
    assert (parts / part).is_symlink()


async def test_pull_of_a_url_fails_without_naming_a_field(
    tmp_path: Path, file_host: tuple[str, Path], lora: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full as in the test above."""
    address, folder = file_host
    (folder / "a.safetensors").write_bytes(lora)
    url, absent = f"{address}/a.safetensors", f"{address}/b.safetensors"
    parts = tmp_path / "loras" / ".parts"
    parts.mkdir(parents=True)
    (parts / hashlib.sha256(url.encode()).hexdigest()).symlink_to("/dev/full")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    async def message(url: str, **settings: bool) -> str:
        allowed = read_settings(weights_dir=tmp_path, allow_networks="127.0.0.0/8", **settings)
        with pytest.raises((PullError, ServerError, LoraInvalid)) as caught:
            await pull_url(url, None, allowed)
        return str(caught.value)

    (folder / "page.safetensors").write_text("<html>")

    assert "answered with a web page instead of a LoRA" in await message(
        f"{address}/page.safetensors"
    )
    assert await message(absent) == f"NAME: {absent} answered 404."
    assert (await message(url)).startswith(
        "The download cannot be stored: No space left on device. What"
    )
    offline = f"HF_HUB_OFFLINE or QWEN_EDIT_OFFLINE forbids downloads, and so {url}. Unset it, or"
    assert (await message(url, offline=True)).startswith(offline)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (await message(url)).startswith(offline)


def test_too_little_space_is_reported_before_anything_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(PullError, match=r"Qwen/X needs 1000000000.0 GB more, and the disk of"):
        check_space(tmp_path / "weights" / "models", 10**18, "Qwen/X")


def test_second_pull_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    parts = tmp_path / "model" / ".parts"
    with exclusive(parts), pytest.raises(PullError, match="another pull is fetching into"):
        exclusive(parts).__enter__()
    assert not parts.exists()


def test_bar_is_drawn_on_a_terminal() -> None:
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100)
    with byte_progress("a model", 4_000_000, console) as update:
        update("a file", 1_000_000)
    assert "1.0/4.0 MB" in terminal.getvalue()
