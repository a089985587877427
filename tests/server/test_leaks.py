"""What answers and logs must not tell: paths of the server, and secrets in URLs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import encoded, gradient
from tests.far_side import Answer, FarSide, far_side
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
from tests.server.contracts.owners import BODY, OPENAI, SUBMIT_PATHS, WAVESPEED, body_of

FINAL = ("succeeded", "failed", "canceled")
SECRETS = ("pass-word", "sig-nature", "pa-th")


@pytest.fixture
def host() -> Iterator[FarSide]:
    with far_side() as host:
        host.answers["/pa-th/page.png"] = Answer(b"<html>")
        host.answers["/pa-th/page.safetensors"] = Answer(b"<html>")
        host.answers["/pa-th/silent"] = Answer(silent=True)
        yield host


def wait(server: LiveServer, job_id: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        edit: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
        return edit if edit["status"] in FINAL else None

    return until(found)


def submit(server: LiveServer, **changes: Any) -> httpx2.Response:
    return server.http.post(f"{server.url}/v1/edits", json=BODY | changes)


def secret_url(host: FarSide, path: str, port: int | None = None) -> str:
    _, _, address = host.url(f"/pa-th{path}?token=sig-nature").partition("://")
    if port is not None:
        address = address.replace(f":{host.server_port}", f":{port}")
    return f"http://user:pass-word@{address}"


def test_log_holds_no_secret_of_a_url(tiny_model: Path, tmp_path: Path, host: FarSide) -> None:
    server = LiveServer(
        tiny_model,
        tmp_path,
        ALLOW_NETWORKS="127.0.0.0/8",
        FETCH_TIMEOUT_S=1,
        LORA_TIMEOUT_S=1,
        LOG_PROMPTS="true",
    )
    lora = {"path": secret_url(host, "/page.safetensors")}
    webhook = secret_url(host, "/webhook")
    try:
        server.start()
        for image in (
            secret_url(host, "/gone.png"),
            secret_url(host, "/page.png"),
            secret_url(host, "/silent"),
            secret_url(host, "/refused", port=1),
            secret_url(host, "/a.png").replace("127.0.0.1", "10.0.0.1"),
        ):
            failed = wait(server, submit(server, images=[image]).json()["id"])
            assert failed["status"] == "failed"
        for path in ("/page.safetensors", "/gone.safetensors", "/silent"):
            lora = {"path": secret_url(host, path)}
            assert wait(server, submit(server, loras=[lora]).json()["id"])["status"] == "failed"
        called = server.http.post(f"{server.url}{WAVESPEED}?webhook={webhook}", json=BODY)
        assert called.status_code == 200, called.text
        until(lambda: "webhook" in server.log())
        submit(server, prompt=f"like {secret_url(host, '/page.png')}")
        server.stop()
    finally:
        server.close()

    log = server.log()
    for secret in SECRETS:
        assert secret not in log
    # what helps the operator is still there
    assert f"http://127.0.0.1:{host.server_port}/…" in log


def answers(server: LiveServer, broken: str) -> Iterator[httpx2.Response]:
    """Responses whose messages are about files: of good and bad requests in every contract."""
    http, url = server.http, server.url
    for path in ("/health", "/health/ready", "/v1/capabilities", "/v1/loras", "/v1/models"):
        yield http.get(url + path)
    for name in ("nothing", broken, "../x", "/etc/passwd", "a\x00b", "x" * 300):
        for path in (*SUBMIT_PATHS, OPENAI):
            yield http.post(url + path, json=body_of(path) | {"loras": [{"path": name}]})
        yield http.get(f"{url}/v1/loras/{name.replace(chr(0), '%00')}")
        yield http.post(f"{url}/v1/loras", files={"file": (name, b"no LoRA")}, data={"name": name})
        yield http.delete(f"{url}/v1/loras/{name.replace(chr(0), '%00')}")
    for file in (b"no image", encoded(gradient())[:200]):
        yield http.post(
            f"{url}/v1/edits", files={"image": ("/a/b.png", file)}, data={"prompt": "a"}
        )
        yield http.post(f"{url}/api/v3/media/upload/binary", files={"file": ("/a/b.png", file)})
    for path in ("/outputs/x.png", "/uploads/x.png", "/outputs/..%2f..%2fjobs.sqlite3"):
        yield http.get(url + path)


def assert_no_path(server: LiveServer, answer: httpx2.Response) -> None:
    shown = answer.text + str(dict(answer.headers))
    for folder in (server.folder, Path.home(), Path(os.__file__).parent, Path.cwd()):
        assert str(folder) not in shown, answer.request.url


def test_answers_name_files_and_never_paths(tiny_model: Path, tmp_path: Path) -> None:
    server = LiveServer(tiny_model, tmp_path)
    loras = server.weights_dir / "loras"
    (loras / "broken.safetensors").write_bytes(b"no LoRA")
    write_lora(loras / "foreign.safetensors", random_pairs({"no.layer": (64, 64)}, ["no.layer"]))
    try:
        server.start()
        for name in ("broken", "foreign"):
            for answer in answers(server, name):
                assert answer.status_code < 500, answer.text
                assert_no_path(server, answer)
    finally:
        server.close()


def test_broken_model_is_named_and_not_its_folder(tiny_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "secret-place" / "broken-model"
    shutil.copytree(tiny_model, broken)
    (broken / "vae" / "config.json").write_text("{")
    server = LiveServer(broken, tmp_path, worker="real")
    try:
        server.start(wait_ready=False)
        until(lambda: server.health()["status"] == "failed")
        found = [server.http.get(f"{server.url}{path}") for path in ("/health", "/health/ready")]
        found += [
            server.http.post(server.url + path, json=body_of(path))
            for path in (*SUBMIT_PATHS, OPENAI)
        ]
    finally:
        server.close()

    assert "broken-model" in found[0].json()["error"]
    for answer in found:
        assert "secret-place" not in answer.text
        assert_no_path(server, answer)
    # the operator's log has it
    assert "secret-place" in server.log()
