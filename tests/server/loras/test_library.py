"""Local LoRAs and uploads: validated, resolved and hashed once per version."""

import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, LoraInvalid, LoraNotFound
from pipelines.api.families import Linears
from pipelines.api.messages import LoraFile
from pipelines.api.params import LoraRef
from pipelines.files.catalog import Catalog
from pipelines.files.installation import SHIPPED_WEIGHTS
from pipelines.files.lora_format.file import LoraPlan, plan_header
from pipelines.files.safetensors_header import Header
from server.errors import InvalidRequest, PayloadTooLarge
from tests.lora_files import random_pairs, write_lora
from tests.server.loras.conftest import Host, is_here, lora_bytes, make_library


async def test_local_file_is_validated_against_the_model(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    folder = tmp_path / "weights" / "loras"
    (folder / "good.safetensors").write_bytes(lora_bytes(tmp_path))
    wrong = {"proj_out": (8, 8)}
    write_lora(folder / "wrong.safetensors", random_pairs(wrong, ["proj_out"]))

    await library.find(LoraRef("good"), "f")
    with pytest.raises(LoraInvalid, match=r"wrong\.safetensors does not fit this model"):
        await library.find(LoraRef("wrong"), "f")
    with pytest.raises(LoraNotFound, match=r"Found: good\.safetensors"):
        await library.find(LoraRef("nothing"), "f")
    with pytest.raises(InvalidParameter):
        await library.find(LoraRef("../good"), "f")


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_upload_is_validated_before_it_is_stored(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    folder = tmp_path / "weights" / "loras"
    data = lora_bytes(tmp_path)

    await library.add_upload("styles/new.safetensors", chunks(data), replace=False)
    assert (folder / "styles" / "new.safetensors").read_bytes() == data

    with pytest.raises(InvalidRequest, match="there is a LoRA"):
        await library.add_upload("styles/new.safetensors", chunks(data), replace=False)
    with pytest.raises(LoraInvalid, match=r"bad\.safetensors"):
        await library.add_upload("bad.safetensors", chunks(b"PK\x03\x04" * 20), replace=False)
    with pytest.raises(PayloadTooLarge):
        await make_library(tmp_path, max_bytes=10).add_upload(
            "large.safetensors", chunks(data), replace=False
        )
    for name in ("../up.safetensors", "/etc/up.safetensors", "up.ckpt", ".safetensors", ""):
        with pytest.raises(InvalidParameter):
            await library.add_upload(name, chunks(data), replace=False)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["new.safetensors"]

    await library.delete("styles/new")
    assert not list(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("taken.safetensors", "name is that of a folder: taken.safetensors"),
        ("notes/a.safetensors", "name has a file as a folder: notes/a.safetensors"),
        ("notes/sub/a.safetensors", "name has a file as a folder: notes/sub/a.safetensors"),
    ],
)
async def test_upload_is_refused_when_a_folder_or_file_is_in_its_way(
    tmp_path: Path, name: str, message: str, replace: bool
) -> None:
    library = make_library(tmp_path)
    folder = tmp_path / "weights" / "loras"
    (folder / "taken.safetensors").mkdir()
    (folder / "notes").write_text("mine")

    with pytest.raises(InvalidRequest) as caught:
        await library.add_upload(name, chunks(lora_bytes(tmp_path)), replace=replace)

    assert (caught.value.field, str(caught.value)) == ("name", message)
    assert sorted(path.name for path in folder.rglob("*")) == ["notes", "taken.safetensors"]


async def test_headers_are_read_in_other_threads_than_the_event_loop(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def plan(header: Header, path: Path, linears: Linears, name: str) -> LoraPlan:
        threads.append(threading.current_thread())
        return plan_header(header, path, linears, name)

    monkeypatch.setattr("server.loras.library.plan_header", plan)
    library = make_library(tmp_path)
    data = lora_bytes(tmp_path)
    host.files["/a.safetensors"] = data

    await library.add_upload("new.safetensors", chunks(data), replace=False)
    await library.find(LoraRef("new"), "f")
    await library.fetch(f"{host.url}/a.safetensors", "f", None)

    assert len(threads) == 3
    assert threading.current_thread() not in threads


async def test_shipped_lora_cannot_be_deleted(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "weights")
    catalog = catalog.with_loras_of(catalog.resolve_model("demo"))
    library = make_library(tmp_path, catalog=catalog)

    with pytest.raises(InvalidRequest, match=r"demo-sepia\.safetensors belongs to the demo model"):
        await library.delete("demo-sepia")
    assert (SHIPPED_WEIGHTS / "loras" / "demo-sepia.safetensors").exists()


async def test_local_file_is_hashed_when_it_is_resolved_and_not_before(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    path = tmp_path / "weights" / "loras" / "style.safetensors"
    path.write_bytes(lora_bytes(tmp_path))
    before = await is_here(library, "style")

    file = await library.resolve(LoraRef("style", 0.5))

    assert not before
    assert file == LoraFile(
        "style.safetensors", hashlib.sha256(path.read_bytes()).hexdigest(), str(path), 0.5
    )
    assert await library.find(LoraRef("style", 0.5), "f") == file


async def test_replaced_file_is_no_longer_current_and_is_hashed_again(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    path = tmp_path / "weights" / "loras" / "style.safetensors"
    path.write_bytes(lora_bytes(tmp_path, seed=1))
    first = await library.resolve(LoraRef("style"))
    assert await library.are_current([first])
    path.write_bytes(lora_bytes(tmp_path, seed=2))

    is_current = await library.are_current([first])
    second = await library.resolve(LoraRef("style"))

    assert not is_current
    assert second.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != first.sha256


async def test_deleted_file_is_named_as_the_client_named_it(tmp_path: Path) -> None:
    library = make_library(tmp_path)
    path = tmp_path / "weights" / "loras" / "style.safetensors"
    path.write_bytes(lora_bytes(tmp_path))
    file = await library.resolve(LoraRef("style"))
    path.unlink()

    assert not await library.are_current([file])
    with pytest.raises(LoraNotFound, match="'style'"):
        await library.resolve(LoraRef("style"))
