"""WaveSpeed's uploads to a live server: the SDK, tickets, multipart, expiry."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest
import wavespeed

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer, until

SUBMIT = "/api/v3/wavespeed-ai/qwen-image/edit-plus"
TICKETS = "/api/v3/media/uploads"
IMAGE = encoded(gradient())
KEY = {"Authorization": "Bearer right-key-for-tests"}


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a key, which shows the paths that need none."""
    running = LiveServer(
        tiny_model, tmp_path_factory.mktemp("media"), API_KEYS="right-key-for-tests"
    )
    yield running.start()
    running.close()


def ticket(server: LiveServer, **body: Any) -> httpx2.Response:
    wanted = {"filename": "cat.png", "size": len(IMAGE), "content_type": "image/png", **body}
    sent = {name: value for name, value in wanted.items() if value is not None}
    return server.http.post(server.url + TICKETS, json=sent, headers=KEY)


def put(data: dict[str, Any], content: Any = IMAGE, **headers: str) -> httpx2.Response:
    """Send the PUT request of a ticket, without a key."""
    instruction = data["upload"]
    return httpx2.put(
        instruction["url"], content=content, headers={**instruction["headers"], **headers}
    )


def run(server: LiveServer, image: str) -> dict[str, Any]:
    body = {"prompt": "make it blue", "images": [image], "seed": 1}
    answer = server.http.post(server.url + SUBMIT, json=body, headers=KEY)
    assert answer.status_code == 200, answer.text
    url = answer.json()["data"]["urls"]["get"]

    def ask() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get(url, headers=KEY).json()["data"]
        return found if found["status"] in ("completed", "failed") else None

    return until(ask)


def files(server: LiveServer) -> list[str]:
    return sorted(path.name for path in (server.data_dir / "uploads").iterdir())


def test_sdk_uploads_a_file_by_path(server: LiveServer, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(gradient(), "JPEG"))
    client = wavespeed.Client(api_key="right-key-for-tests", base_url=server.url)

    url = client.upload(str(path))

    answer = httpx2.get(url)
    assert url.endswith(".jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == path.read_bytes()
    assert run(server, url)["status"] == "completed"


def test_sdk_uploads_a_stream_without_name_or_type(server: LiveServer) -> None:
    client = wavespeed.Client(api_key="right-key-for-tests", base_url=server.url)
    url = client.upload(io.BytesIO(IMAGE))
    assert httpx2.get(url).headers["content-type"] == "image/png"
    assert run(server, url)["status"] == "completed"


def test_ticket_has_the_fields_that_clients_read(server: LiveServer) -> None:
    """Rules 1 to 4."""
    answer = ticket(server)
    found = answer.json()
    data = found["data"]

    assert answer.status_code == 200
    assert (found["code"], found["message"]) == (200, "success")
    assert "error" not in found
    assert list(data) == ["type", "download_url", "filename", "size", "upload"]
    assert (data["type"], data["filename"], data["size"]) == ("image", "cat.png", len(IMAGE))
    assert data["upload"]["method"] == "PUT"
    assert data["upload"]["headers"] == {"Content-Type": "image/png"}
    assert data["upload"]["url"].startswith(server.url)
    assert data["upload"]["expires_at"].endswith("Z")


def test_ticket_follows_the_proxy(server: LiveServer) -> None:
    headers = {**KEY, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    body = {"filename": "a.png", "size": 1}
    data = server.http.post(server.url + TICKETS, json=body, headers=headers).json()["data"]
    assert data["upload"]["url"].startswith("https://edit.example.org/api/")
    assert data["download_url"].startswith("https://edit.example.org/uploads/")


def test_put_and_download_need_no_key(server: LiveServer) -> None:
    """Rule 8."""
    data = ticket(server).json()["data"]
    assert httpx2.get(data["download_url"]).status_code == 404

    answer = put(data)

    assert answer.status_code == 200
    assert answer.json()["data"]["download_url"] == data["download_url"]
    assert httpx2.get(data["download_url"]).content == IMAGE


def test_urls_are_unguessable_and_unrelated(server: LiveServer) -> None:
    """Rule 8."""
    data = ticket(server).json()["data"]
    token = data["upload"]["url"].rpartition("/")[2]
    name = data["download_url"].rpartition("/")[2].partition(".")[0]
    assert (len(token), len(name)) == (64, 32)
    assert name not in token
    assert httpx2.put(f"{server.url}{TICKETS}/{name}", content=b"x").status_code == 404


def test_ticket_and_multipart_need_the_key(server: LiveServer) -> None:
    body = {"filename": "a.png", "size": 1}
    assert server.http.post(server.url + TICKETS, json=body).status_code == 401
    files = {"file": ("a.png", IMAGE)}
    path = "/api/v3/media/upload/binary"
    assert server.http.post(server.url + path, files=files).status_code == 401


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("change", [-1, 1])
def test_put_of_another_size_is_rejected_and_leaves_no_file(
    server: LiveServer, change: int, chunked: bool
) -> None:
    before = files(server)
    data = ticket(server).json()["data"]
    content = IMAGE[:change] if change < 0 else IMAGE + b"x"

    answer = put(data, iter([content]) if chunked else content)

    assert answer.status_code == 400
    assert f"for a file of {len(IMAGE)} bytes" in answer.json()["error"]
    assert files(server) == before
    assert put(data).status_code == 200


def test_put_with_another_type_is_rejected(server: LiveServer) -> None:
    data = ticket(server).json()["data"]
    answer = put(data, **{"Content-Type": "text/html"})
    assert answer.status_code == 400
    assert "'image/png', got 'text/html'" in answer.json()["error"]


def test_put_with_an_unknown_token_returns_404(server: LiveServer) -> None:
    answer = httpx2.put(f"{server.url}{TICKETS}/{'0' * 64}", content=b"x")
    assert answer.status_code == 404
    assert answer.json()["code"] == 404


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"size": 21 * 2**20}, 413, "size has 21.0 MiB; at most 20 MiB are allowed"),
        ({"size": 10**400}, 400, 'Error at "/size"'),
        ({"size": 0}, 400, 'Error at "/size"'),
        ({"size": None}, 400, "size is required"),
        ({"filename": ""}, 400, "filename is required"),
        ({"content_type": "image/png\r\nX: y"}, 400, 'Error at "/content_type"'),
    ],
)
def test_bad_ticket_request_is_rejected_with_a_message(
    server: LiveServer, body: dict[str, Any], status: int, message: str
) -> None:
    answer = ticket(server, **body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


@pytest.mark.parametrize("version", ["v3", "v2"])
def test_multipart_upload_is_accepted(server: LiveServer, version: str) -> None:
    path = f"/api/{version}/media/upload/binary"
    files = {"file": ("größe 1.webp", encoded(gradient(), "WEBP"), "image/webp")}

    data = server.http.post(server.url + path, files=files, headers=KEY).json()["data"]

    assert list(data) == ["type", "download_url", "filename", "size"]
    assert (data["type"], data["filename"]) == ("image", "größe 1.webp")
    assert data["download_url"].endswith(".webp")
    assert httpx2.get(data["download_url"]).headers["content-type"] == "image/webp"
    assert run(server, data["download_url"])["status"] == "completed"


def test_multipart_part_may_lack_a_content_type(server: LiveServer) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    answer = server.http.post(
        f"{server.url}/api/v3/media/upload/binary",
        content=part + IMAGE + b"\r\n--x--\r\n",
        headers={**KEY, "Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 200
    assert httpx2.get(answer.json()["data"]["download_url"]).content == IMAGE


def test_multipart_without_a_file_returns_400(server: LiveServer) -> None:
    answer = server.http.post(
        f"{server.url}/api/v3/media/upload/binary", data={"other": "x"}, headers=KEY
    )
    assert answer.status_code == 400
    assert "file is required" in answer.json()["error"]


def test_multipart_over_the_limit_returns_413(server: LiveServer) -> None:
    files = {"file": ("a.png", b"\0" * (21 * 2**20))}
    path = "/api/v3/media/upload/binary"
    assert server.http.post(server.url + path, files=files, headers=KEY).status_code == 413


def test_upload_is_read_from_disk_under_any_host(server: LiveServer) -> None:
    data = ticket(server).json()["data"]
    put(data)
    elsewhere = data["download_url"].replace(server.url, "https://edit.example.org/base")
    assert run(server, elsewhere)["status"] == "completed"


def test_upload_fails_when_used_if_it_is_no_image(server: LiveServer) -> None:
    page = b"<script>alert(1)</script>"
    data = ticket(server, filename="a.html", size=len(page), content_type="text/html").json()
    assert put(data["data"], page).status_code == 200

    url = data["data"]["download_url"]
    answer = httpx2.get(url)
    failed = run(server, url)

    assert data["data"]["type"] == "file"
    # Never HTML, which would run on this server's origin.
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert failed["status"] == "failed"
    assert "images/0 is not an image" in failed["error"]


def test_upload_is_served_with_the_type_of_its_bytes(server: LiveServer) -> None:
    """Rule 11."""
    data = ticket(server, filename="a.png", size=len(IMAGE), content_type="image/gif").json()
    put(data["data"])
    url = data["data"]["download_url"]
    assert httpx2.get(url).headers["content-type"] == "image/png"
    assert PIL.Image.open(io.BytesIO(httpx2.get(url).content)).format == "PNG"


def test_upload_survives_a_kill_and_expires_from_disk(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(KEEP_UPLOADS_H=2 / 3600, API_KEYS="right-key-for-tests")
    data = ticket(server).json()["data"]
    put(data)
    name = data["download_url"].rpartition("/")[2]
    (server.data_dir / "uploads" / f"{name}.abc.part").write_bytes(b"half")
    assert name in files(server)

    server.kill()
    until(lambda: _is_expired(server, name))
    server.start(wait_ready=False)

    assert until(lambda: files(server) == [])
    assert server.http.get(f"{server.url}/uploads/{name}").status_code == 404


def _is_expired(server: LiveServer, name: str) -> bool:

    return (server.data_dir / "uploads" / name).stat().st_mtime + 2.5 < time.time()


def test_upload_survives_a_restart_until_it_expires(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(wait_ready=False, API_KEYS="right-key-for-tests")
    data = ticket(server).json()["data"]
    put(data)
    name = data["download_url"].rpartition("/")[2]

    server.kill()
    server.start(wait_ready=False)

    assert server.http.get(f"{server.url}/uploads/{name}").content == IMAGE
