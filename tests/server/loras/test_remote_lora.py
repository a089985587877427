"""LoRAs of Civitai and ModelScope, played by a host on loopback, and pages in place of files."""

import json
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from server.errors import FetchFailed, PayloadTooLarge
from server.loras import remote_lora
from tests.server.loras.conftest import Host, content, is_here, lora_bytes, make_library

LISTING = "/api/v1/models/owner/repo/repo/files?Revision=master&Recursive=true"
FIELD = "loras/0/path"


@pytest.fixture(autouse=True)
def sites(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the host play Civitai and ModelScope."""
    monkeypatch.setenv("CIVITAI_ENDPOINT", host.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", host.url)


def listing(*paths: str) -> bytes:
    files = [{"Path": path, "Type": "blob", "Size": 1} for path in paths]
    return json.dumps({"Code": 200, "Data": {"Files": files}}).encode()


@pytest.mark.parametrize(
    "reference", ["civitai:1@2", "https://civitai.com/models/1/style?modelVersionId=2"]
)
async def test_version_of_civitai_is_downloaded_through_its_redirect(
    tmp_path: Path, host: Host, reference: str
) -> None:
    host.redirects["/api/download/models/2"] = f"{host.url}/signed?name=style.safetensors"
    host.files["/signed?name=style.safetensors"] = lora_bytes(tmp_path)
    library = make_library(tmp_path)

    await library.fetch(reference, FIELD, None)

    assert await is_here(library, reference)
    assert await content(library, reference) == lora_bytes(tmp_path)
    assert await is_here(make_library(tmp_path, offline=True), reference)


async def test_only_lora_of_a_modelscope_repository_is_downloaded(
    tmp_path: Path, host: Host
) -> None:
    host.files[LISTING] = listing("README.md", "sub", "sub/my style.safetensors")
    host.files["/models/owner/repo/resolve/master/sub/my%20style.safetensors"] = lora_bytes(
        tmp_path
    )
    library = make_library(tmp_path)
    reference = "https://modelscope.cn/models/owner/repo"

    await library.fetch(reference, FIELD, None)

    assert await content(library, reference) == lora_bytes(tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            listing("a.safetensors", "b.safetensors"),
            "owner/repo has 2 .safetensors files; give the address of the page of one of them: "
            "'a.safetensors', 'b.safetensors'",
        ),
        (listing("README.md"), "owner/repo has no .safetensors file"),
        (b'{"Data": null}', "127.0.0.1:{port} lists no files of owner/repo"),
        (b"[" * 100_000, "127.0.0.1:{port} lists no files of owner/repo"),
        (b"<html>", "127.0.0.1:{port} lists no files of owner/repo"),
    ],
    ids=["several", "none", "null", "nested", "page"],
)
async def test_modelscope_repository_without_one_lora_is_refused(
    tmp_path: Path, host: Host, answer: bytes, message: str
) -> None:
    host.files[LISTING] = answer

    with pytest.raises(FetchFailed) as caught:
        await make_library(tmp_path).fetch("https://modelscope.cn/models/owner/repo", FIELD, None)

    assert str(caught.value) == f"{FIELD}: {message.format(port=host.server_port)}."
    assert [request["path"] for request in host.requests] == [LISTING]


async def test_list_of_files_beyond_the_limit_is_not_read(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lora, "MAX_LISTING_BYTES", 100)
    host.files[LISTING] = listing("a" * 200 + ".safetensors")

    with pytest.raises(PayloadTooLarge, match=r"loras/0/path: http://.* has more than the allowed"):
        await make_library(tmp_path).fetch("https://modelscope.cn/models/owner/repo", FIELD, None)


@pytest.mark.parametrize("page", [b"<!doctype html>", b"\xef\xbb\xbf\r\n  <HTML>", b"<?xml ?>"])
async def test_page_in_place_of_a_file_is_named_with_its_host_and_not_kept(
    tmp_path: Path, host: Host, page: bytes
) -> None:
    host.redirects["/api/download/models/2"] = f"{host.url}/login"
    host.files["/login"] = page
    library = make_library(tmp_path)

    with pytest.raises(LoraInvalid) as caught:
        await library.fetch("civitai:1@2", FIELD, None)

    address = host.url.removeprefix("http://")
    assert str(caught.value) == (
        f"{FIELD}: {address} answered with a web page instead of a LoRA: give the address of the "
        f"file itself, the one behind the page's download button, and a token for {address} in "
        f"QWEN_EDIT_DOWNLOAD_TOKENS if the file needs a login."
    )
    assert not list((tmp_path / "store" / "files").iterdir())
    assert not list((tmp_path / "store" / "parts").iterdir())


@pytest.mark.parametrize(
    "reference", ["civitai:1@2", "https://modelscope.cn/models/owner/repo", "owner/repo@v1"]
)
async def test_offline_server_asks_no_site(tmp_path: Path, host: Host, reference: str) -> None:
    with pytest.raises(FetchFailed, match="runs offline and fetches nothing"):
        await make_library(tmp_path, offline=True).fetch(reference, FIELD, None)
    assert host.requests == []
