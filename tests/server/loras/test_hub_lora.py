"""LoRAs from a fake hub on loopback, through a live server."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.files.catalog import HubLora
from server.loras.hub_lora import cached_file
from tests.conftest import as_base64, encoded, gradient
from tests.fake_hub import OLDER, PRIVATE_TOKEN, FakeHub, fake_hub, write_cache
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora

LINEARS = {"proj_out": (64, 64)}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    folder = tmp_path_factory.mktemp("hub-files")
    files = [
        write_lora(folder / f"{seed}.safetensors", random_pairs(LINEARS, ["proj_out"], seed=seed))
        for seed in range(3)
    ]
    first, second, third = (path.read_bytes() for path in files)
    repositories = {
        "owner/one": {"README.md": b"#", "lora.safetensors": first},
        "owner/many": {"a.safetensors": first, "sub dir/b.safetensors": second},
        "owner/none": {"README.md": b"#"},
        "private/lora": {"lora.safetensors": third},
        "owner/peft": {
            "adapter_model.safetensors": first,
            "adapter_config.json": json.dumps({"r": 4, "lora_alpha": 12}).encode(),
        },
    }
    with fake_hub(repositories) as running:
        yield running


@pytest.fixture(scope="module")
def hub_server(
    tiny_model: Path, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("hub-server")
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"),
        "HF_TOKEN": PRIVATE_TOKEN,
    }
    # the real worker: only it reads the tensors and their configuration
    server = LiveServer(tiny_model, folder, worker="real", environment=environment)
    yield server.start()
    server.close()


def edit(server: LiveServer, reference: str) -> dict[str, Any]:
    body = {
        "prompt": "a",
        "images": [as_base64(encoded(gradient()))],
        "seed": 1,
        "loras": [{"path": reference}],
    }
    answer = server.http.post(f"{server.url}/v1/edits?wait=240", json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pixels(server: LiveServer, job: dict[str, Any]) -> bytes:
    assert job["status"] == "succeeded", job["error"]
    return server.http.get(job["outputs"][0]["url"]).content


def test_every_form_of_a_hub_reference_gives_the_same_lora(
    hub_server: LiveServer, hub: FakeHub
) -> None:
    references = [
        "owner/one",
        "owner/one/lora.safetensors",
        "owner/many/a.safetensors",
        f"{hub.url}/owner/one/blob/main/lora.safetensors",
        f"{hub.url}/owner/one/resolve/main/lora.safetensors?download=true",
        "https://huggingface.co/owner/one/resolve/main/lora.safetensors",
    ]
    files = hub_server.data_dir / "loras" / "files"
    before = set(files.iterdir())

    images = {pixels(hub_server, edit(hub_server, reference)) for reference in references}

    assert len(images) == 1
    # earlier tests may have fetched this one
    digest = hashlib.sha256(hub.repositories["owner/one"]["lora.safetensors"]).hexdigest()
    assert (files / f"{digest}.safetensors").is_file()
    assert set(files.iterdir()) - before <= {files / f"{digest}.safetensors"}


def test_file_in_a_folder_with_a_space_is_found_from_its_page(
    hub_server: LiveServer, hub: FakeHub
) -> None:
    page = f"{hub.url}/owner/many/blob/main/sub%20dir/b.safetensors"
    assert pixels(hub_server, edit(hub_server, page)) != pixels(
        hub_server, edit(hub_server, "owner/one")
    )


def test_fetched_lora_is_not_requested_again(hub_server: LiveServer, hub: FakeHub) -> None:
    edit(hub_server, "owner/one")
    count = len(hub.requests)
    edit(hub_server, "owner/one")
    assert len(hub.requests) == count


def test_peft_configuration_beside_the_weights_is_applied(hub_server: LiveServer) -> None:
    """Alpha 12 at rank 4 is three times the strength of the same matrices without an alpha."""
    path = hub_server.weights_dir / "loras" / "same.safetensors"
    pairs = random_pairs(LINEARS, ["proj_out"], seed=0, alpha=12.0)
    write_lora(path, pairs)

    fetched = pixels(hub_server, edit(hub_server, "owner/peft"))

    assert fetched == pixels(hub_server, edit(hub_server, "same"))
    assert fetched != pixels(hub_server, edit(hub_server, "owner/one"))


def test_private_repository_is_fetched_with_the_token(hub_server: LiveServer) -> None:
    assert edit(hub_server, "private/lora")["status"] == "succeeded"


def test_download_resumes_after_a_kill_of_the_server(tiny_model: Path, tmp_path: Path) -> None:
    pairs = random_pairs(LINEARS, ["proj_out"], rank=50_000)
    data = write_lora(tmp_path / "large.safetensors", pairs).read_bytes()
    with held_hub(data) as hub:
        server = server_of(hub, tiny_model, tmp_path)
        try:
            job = submit_and_hold(server)
            server.kill()
            [part] = (server.data_dir / "loras" / "parts").rglob("*.part")
            received = part.stat().st_size
            hub.hold_at = None
            hub.released.set()
            server.start(wait_ready=False)
            until(lambda: pixels_of(server, job["id"]))
        finally:
            server.close()
        assert hub.ranges == [f"bytes={received}-"]


def test_stopping_server_does_not_wait_for_a_download(tiny_model: Path, tmp_path: Path) -> None:
    pairs = random_pairs(LINEARS, ["proj_out"], rank=50_000)
    data = write_lora(tmp_path / "large.safetensors", pairs).read_bytes()
    with held_hub(data) as hub:
        server = server_of(hub, tiny_model, tmp_path)
        try:
            submit_and_hold(server)
            seconds = server.stop()
        finally:
            server.close()
    # the hub never sends the rest
    assert seconds < 30
    assert "Traceback" not in server.log()


@contextlib.contextmanager
def held_hub(data: bytes) -> Iterator[FakeHub]:
    """A hub whose file stops after 11 MiB."""
    with fake_hub({"owner/large": {"large.safetensors": data}}) as hub:
        hub.hold_at = 11 * 2**20
        yield hub


def server_of(hub: FakeHub, model: Path, folder: Path) -> LiveServer:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(folder / "hf"),
    }
    return LiveServer(model, folder, environment=environment)


def submit_and_hold(server: LiveServer) -> dict[str, Any]:
    """Submit a job and wait until the hub holds its LoRA back."""
    server.start(wait_ready=False)
    body = {
        "prompt": "a",
        "images": [as_base64(encoded(gradient()))],
        "loras": [{"path": "owner/large"}],
    }
    job: dict[str, Any] = server.http.post(f"{server.url}/v1/edits", json=body).json()
    parts = server.data_dir / "loras" / "parts"
    until(lambda: any(path.stat().st_size >= 9 * 2**20 for path in parts.rglob("*.part")))
    return job


def pixels_of(server: LiveServer, job_id: str) -> bytes | None:
    job = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
    return None if job["status"] in ("queued", "running") else pixels(server, job)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "owner/many",
            "has 2 .safetensors files; name one of them: owner/many/a.safetensors, "
            "owner/many/sub dir/b.safetensors",
        ),
        ("owner/none", "owner/none has no .safetensors file"),
        ("owner/nothing", "has no repository owner/nothing, or it is private: then set HF_TOKEN"),
        ("owner/one/other.safetensors", "owner/one has no file other.safetensors"),
    ],
)
def test_hub_error_becomes_the_jobs_error(
    hub_server: LiveServer, reference: str, message: str
) -> None:
    job = edit(hub_server, reference)
    assert job["status"] == "failed"
    assert job["error"]["code"] == "fetch_failed"
    assert job["error"]["message"].startswith("loras/0/path: ")
    assert message in job["error"]["message"]


def test_cached_file_is_used_in_place_when_offline(tiny_model: Path, tmp_path: Path) -> None:
    data = write_lora(tmp_path / "x", random_pairs(LINEARS, ["proj_out"])).read_bytes()
    write_cache(tmp_path / "hub", "owner/cached", {"x.safetensors": data})
    environment = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    server = LiveServer(tiny_model, tmp_path, environment=environment, OFFLINE="true")
    try:
        server.start()
        for reference in ("owner/cached", "owner/cached/x.safetensors"):
            assert edit(server, reference)["status"] == "succeeded"
        assert not list((server.data_dir / "loras" / "files").iterdir())
        body = {"prompt": "a", "images": ["https://example.org/a.png"]}
        refused = server.http.post(f"{server.url}/v1/edits", json=body)
    finally:
        server.close()
    assert refused.status_code == 400
    assert "runs offline and fetches nothing" in refused.json()["error"]["message"]


def test_only_file_of_a_revision_is_found_in_the_cache(hub_cache: Path) -> None:
    old = write_cache(hub_cache, "owner/x", {"x.safetensors": b"old"}, commit=OLDER, ref="v1")
    main = write_cache(hub_cache, "owner/x", {"x.safetensors": b"new"})

    found = {revision: cached_file(HubLora("owner/x", None, revision)) for revision in (None, "v1")}

    assert found == {None: main / "x.safetensors", "v1": old / "x.safetensors"}
    assert cached_file(HubLora("owner/x", None, "v2")) is None
