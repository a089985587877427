"""Web pages of other origins, in a real browser, against every unsafe route of a keyless server."""

import contextlib
import functools
import hashlib
import http.server
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Frame, Page

from pipelines.files.architecture import read_linears
from server.contracts import CONTRACTS
from server.errors import WrongOrigin
from server.web.contract import find_contract
from server.web.problem import problem_of
from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer
from tests.lora_files import random_pairs, write_lora
from tests.server.built_app import built_app, filled, operations
from tests.server.playground.conftest import with_page

SAFE = ("GET", "HEAD", "OPTIONS")
# Sends one request in every way that a page has without asking the server, or asking it first.
ATTACK = """
async ([attacks, png, lora]) => {
  const bytes = (text) => Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const form = (path) => {
    const form = new FormData();
    if (path.endsWith("/loras")) {
      form.append("file", new File([bytes(lora)], "sepia.safetensors"));
      form.append("replace", "true");
    } else if (path.includes("upload")) {
      form.append("file", new File([bytes(png)], "a.png"));
      form.append("files", new File([bytes(png)], "a.png"));
    } else {
      form.append("prompt", "Make it blue");
      form.append("image", new File([bytes(png)], "a.png"));
    }
    return form;
  };
  const submit = (url, enctype) => new Promise((done, fail) => {
    const frame = document.createElement("iframe");
    frame.name = "answer";
    document.body.append(frame);
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {action: url, method: "POST", enctype, target: frame.name});
    const field = form.appendChild(document.createElement("input"));
    Object.assign(field, {name: "prompt", value: "Make it blue"});
    const deadline = setTimeout(() => fail(new Error(`no answer to a form: ${url}`)), 60000);
    frame.onload = () => { clearTimeout(deadline); frame.remove(); form.remove(); done(); };
    form.submit();
  });
  for (const [method, url, json] of attacks) {
    const send = (options) => fetch(url, {method, ...options}).catch(() => null);
    const simple = [
      form(new URL(url).pathname), json, new Blob([json]),
      new URLSearchParams({prompt: "Make it blue"}),
    ];
    await Promise.all([
      send({body: bytes(png)}),
      send({headers: {"Content-Type": "application/json"}, body: json}),
      ...(method === "POST" ? simple.map((body) => send({mode: "no-cors", body})) : []),
    ]);
    if (method === "POST") {
      await submit(url, "multipart/form-data");
      await submit(url, "text/plain");
    }
  }
}
"""


@pytest.fixture(scope="module")
def victim(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server without keys, with the page, a LoRA and a finished edit."""
    server = LiveServer(tiny_model, tmp_path_factory.mktemp("victim"), PAGE="true")
    linears = read_linears(tiny_model)
    pairs = random_pairs(linears, list(linears)[:4], seed=1)
    write_lora(server.weights_dir / "loras" / "sepia.safetensors", pairs)
    try:
        yield with_page(server.start())
    finally:
        server.close()


@pytest.fixture(scope="module")
def unsafe(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every unsafe method and path that the application answers."""
    with built_app(tmp_path_factory.mktemp("built"), page=True) as app:
        found = [each for each in operations(app) if each[0] not in SAFE]
    assert {("POST", "/login"), ("POST", "/gradio_api/upload")} <= set(found)
    assert len(found) > 100
    return found


@pytest.fixture(scope="module")
def foreign_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of another web server on loopback."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "index.html").write_text("<!doctype html><title>Another site</title>")
    handler = functools.partial(_QuietHandler, directory=str(folder))
    host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=host.serve_forever, daemon=True).start()
    yield host.server_port
    host.shutdown()
    host.server_close()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class Target:
    """All that a request could change: an edit, a LoRA, an upload that waits for its bytes."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self.png = as_base64(encoded(gradient()))
        edit = {"prompt": "Make it red", "images": [self.png]}
        self.edit = server.http.post(f"{server.url}/v1/edits?wait=60", json=edit).json()["id"]
        ticket = {"filename": "a.png", "size": len(encoded(gradient()))}
        answer = server.http.post(f"{server.url}/api/v3/media/uploads", json=ticket).json()
        self._token = answer["data"]["upload"]["url"].rpartition("/")[2]
        self.lora = as_base64((server.weights_dir / "loras" / "sepia.safetensors").read_bytes())

    def url(self, path: str) -> str:
        """The URL of something that exists."""
        value = {"name": "sepia", "token": self._token}
        known = next((value[each] for each in value if "{" + each in path), self.edit)
        return self._server.url + filled(path, known)

    def body(self) -> str:
        """A JSON body that the submits and deletions of several contracts accept."""
        image = f"data:image/png;base64,{self.png}"
        body = {"prompt": "Make it blue", "images": [image], "image_urls": [image]}
        return json.dumps({**body, "ids": [self.edit], "filename": "b.png", "size": 9})

    def state(self) -> Mapping[str, Any]:
        """Every row of the database and the digest of every other file."""
        files = [
            path
            for folder in (self._server.weights_dir, self._server.data_dir)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and "sqlite3" not in path.name
        ]
        uri = f"file:{self._server.data_dir / 'jobs.sqlite3'}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
            rows = list(database.iterdump())
        digests = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return {"rows": rows, "files": digests}


@pytest.fixture(scope="module")
def target(victim: LiveServer) -> Target:
    return Target(victim)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def sandboxed(page: Page) -> Frame:
    """A frame whose origin is `null`."""
    page.set_content('<iframe sandbox="allow-scripts allow-forms" srcdoc="<p>A frame"></iframe>')
    frame = page.frames[1]
    frame.wait_for_selector("p")
    return frame


@pytest.mark.parametrize("origin", ["127.0.0.1", "localhost", "null"])
def test_page_of_another_origin_changes_nothing(
    victim: LiveServer,
    unsafe: list[tuple[str, str]],
    target: Target,
    page: Page,
    foreign_port: int,
    origin: str,
) -> None:
    answers: list[tuple[str, str, int]] = []
    page.on("response", lambda each: answers.append((each.request.method, each.url, each.status)))
    page.goto(f"http://{'localhost' if origin == 'null' else origin}:{foreign_port}")
    attacks = [(method, target.url(path), target.body()) for method, path in unsafe]
    before = target.state()

    (sandboxed(page) if origin == "null" else page).evaluate(
        ATTACK, [attacks, target.png, target.lora]
    )

    assert target.state() == before
    seen = [each for each in answers if each[0] not in SAFE]
    assert {status for _, _, status in seen} == {403}
    # what needs no preflight reaches the server, six times each; Playwright hides this icon's
    posts = [url for method, url, _ in attacks if method == "POST" and "favicon" not in url]
    counts = {url: sum(each[1] == url for each in seen) for url in posts}
    assert {url: count for url, count in counts.items() if count < 6} == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_every_unsafe_route_refuses_another_origin_in_the_shape_of_its_contract(
    victim: LiveServer, unsafe: list[tuple[str, str]], target: Target, headers: dict[str, str]
) -> None:
    before = target.state()
    for method, path in unsafe:
        answer = victim.http.request(method, target.url(path), headers=headers, content=b"{}")

        assert answer.status_code == 403, (method, path)
        expected = find_contract(CONTRACTS, path).render_error(problem_of(WrongOrigin()))
        assert set(answer.json()) == set(json.loads(bytes(expected.body))), (method, path)
        assert "QWEN_EDIT_CORS_ORIGINS" in answer.text
        assert headers.get("Origin", "another site") in answer.text
    assert target.state() == before
