"""The native contract on a live server."""

import io
import json
from collections.abc import Callable
from typing import Any

import httpx2
import PIL.Image
import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LONG, LiveServer, events, until
from tests.lora_files import random_pairs, write_lora

FINAL = ("succeeded", "failed", "canceled")


def post(server: LiveServer, body: dict[str, Any], wait: float = 240) -> dict[str, Any]:
    answer = server.http.post(f"{server.url}/v1/edits", params={"wait": wait}, json=body)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def error_of(response: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "message", "field"}
    return error


def image(server: LiveServer, job: dict[str, Any], index: int = 0) -> PIL.Image.Image:
    answer = server.http.get(job["outputs"][index]["url"])
    return PIL.Image.open(io.BytesIO(answer.content))


def test_edit_returns_the_finished_job(server: LiveServer, body: dict[str, Any]) -> None:
    job = post(server, body)

    assert job["status"] == "succeeded"
    assert (job["step"], job["steps"], job["seed"]) == (3, 3, 1)
    assert set(job["seconds"]) == {"queued", "prepare", "encode", "denoise", "decode", "deliver"}
    output = job["outputs"][0]
    assert output["content_type"] == "image/png"
    assert image(server, job).size == (output["width"], output["height"])
    assert len(server.http.get(output["url"]).content) == output["size_bytes"]


def test_edit_accepts_files_in_a_form(server: LiveServer) -> None:
    files = [
        ("image", ("cat.gif", encoded(gradient(shift=40 * index)), "image/gif"))
        for index in range(2)
    ]
    fields = {"prompt": "a", "seed": "3", "n": "2", "size": "256*288", "output_format": "webp"}
    answer = server.http.post(f"{server.url}/v1/edits?wait=240", data=fields, files=files)
    job = answer.json()

    assert answer.status_code == 201, answer.text
    assert [output["seed"] for output in job["outputs"]] == [3, 4]
    assert job["steps"] == 6
    assert image(server, job, 1).size == (256, 288)
    assert image(server, job).format == "WEBP"


def test_form_and_json_give_the_same_image(server: LiveServer, body: dict[str, Any]) -> None:
    as_json = post(server, body)
    answer = server.http.post(
        f"{server.url}/v1/edits?wait=240",
        data={"prompt": body["prompt"], "seed": "1"},
        files=[("image", ("a.png", encoded(gradient())))],
    )
    assert image(server, as_json).tobytes() == image(server, answer.json()).tobytes()


def test_output_carries_model_seed_and_steps_and_not_the_prompt(
    server: LiveServer, body: dict[str, Any]
) -> None:
    text = image(server, post(server, body)).text
    facts = json.loads(text["qwen_edit"])
    assert facts == {
        "model": "tiny",
        "steps": 3,
        "true_cfg_scale": 4.0,
        "sampling": "3 steps, CFG 4",
        "seed": 1,
    }


def test_random_seed_is_drawn_once_and_returned(server: LiveServer, body: dict[str, Any]) -> None:
    del body["seed"]
    first = post(server, body)
    again = post(server, body | {"seed": first["seed"]})
    assert image(server, first).tobytes() == image(server, again).tobytes()
    assert first["outputs"][0]["seed"] == first["seed"]


def test_events_report_every_step_and_end_with_the_job(
    server: LiveServer, body: dict[str, Any]
) -> None:
    ahead = post(server, body | LONG, wait=0)
    job = post(server, body | {"num_inference_steps": 100, "size": "512*512"}, wait=0)
    with server.http.stream("GET", f"{server.url}/v1/edits/{job['id']}/events") as stream:
        following = events(stream)
        seen = [next(following)]
        # Only once the stream is open, so that no step is missed.
        server.http.delete(f"{server.url}/v1/edits/{ahead['id']}")
        seen += following

    assert seen[0]["status"] == "queued"
    steps = [event["step"] for event in seen if event["stage"] == "denoise"]
    assert steps == sorted(steps)
    assert len(set(steps)) >= 10
    assert seen[-1]["status"] == "succeeded"
    assert len(seen[-1]["outputs"]) == 1


def test_events_of_a_finished_job_contain_only_the_final_state(
    server: LiveServer, body: dict[str, Any]
) -> None:
    job = post(server, body)
    with server.http.stream("GET", f"{server.url}/v1/edits/{job['id']}/events") as stream:
        assert [event["status"] for event in events(stream)] == ["succeeded"]


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/events"), ("DELETE", "")])
def test_unknown_job_returns_404(server: LiveServer, method: str, path: str) -> None:
    answer = server.http.request(method, f"{server.url}/v1/edits/nothing{path}")
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "There is no job nothing."


def test_list_is_newest_first_paged_and_filtered(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(wait_ready=False)
    ids = [post(server, body)["id"] for _ in range(3)]

    page = server.http.get(f"{server.url}/v1/edits", params={"limit": 2}).json()
    rest = server.http.get(f"{server.url}/v1/edits", params={"limit": 2, "offset": 2}).json()
    failed = server.http.get(f"{server.url}/v1/edits", params={"status": "failed"}).json()

    assert [item["id"] for item in page["items"] + rest["items"]] == ids[::-1]
    assert (page["total"], failed["total"]) == (3, 0)


def test_disconnect_cancels_the_job_while_the_client_waits(
    server: LiveServer, body: dict[str, Any]
) -> None:
    job_id = server.post_and_hang_up("/v1/edits?wait=240", body | LONG)

    def ended() -> str | None:
        status: str = server.http.get(f"{server.url}/v1/edits/{job_id}").json()["status"]
        return status if status in FINAL else None

    assert until(ended) == "canceled"


def test_cancel_ends_an_unfinished_job_and_ignores_a_finished_one(
    server: LiveServer, body: dict[str, Any]
) -> None:
    finished, unfinished = post(server, body), post(server, body | LONG, wait=0)
    edits = f"{server.url}/v1/edits"

    canceled = server.http.post(f"{edits}/{unfinished['id']}/cancel")
    kept = server.http.post(f"{edits}/{finished['id']}/cancel")
    missing = server.http.post(f"{edits}/none/cancel")

    assert canceled.status_code == 200
    assert until(lambda: server.http.get(f"{edits}/{unfinished['id']}").json()["finished_at"])
    assert server.http.get(f"{edits}/{unfinished['id']}").json()["status"] == "canceled"
    assert kept.json() == server.http.get(f"{edits}/{finished['id']}").json()
    assert missing.status_code == 404


def test_wait_returns_the_unfinished_job_when_it_times_out(
    server: LiveServer, body: dict[str, Any]
) -> None:
    job = post(server, body | LONG, wait=0.3)
    assert job["status"] in ("queued", "running")
    assert server.http.delete(f"{server.url}/v1/edits/{job['id']}").status_code == 202


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"images": []}, "images"),
        ({"size": "1537*256"}, "size"),
        ({"n": 7}, "n"),
        ({"true_cfg_scale": -1}, "true_cfg_scale"),
        ({"num_inference_steps": 101}, "num_inference_steps"),
        ({"loras": [{"path": "a", "scale": 5}]}, "loras/0/scale"),
        ({"loras": [{"path": "a", "weight": 1}]}, "loras/0/weight"),
        ({"promt": "typo"}, "promt"),
        ({"images": ["nonsense!"]}, "images/0"),
    ],
)
def test_bad_value_returns_400_and_names_the_field(
    server: LiveServer, body: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    answer = server.http.post(f"{server.url}/v1/edits", json=body | change)
    assert answer.status_code == 400
    assert error_of(answer)["field"] == field


def test_body_is_rejected_when_its_type_is_unsupported(server: LiveServer) -> None:
    answer = server.http.post(f"{server.url}/v1/edits", content=b"prompt=x")
    assert answer.status_code == 400
    assert "application/json or multipart/form-data" in error_of(answer)["message"]


def test_lora_changes_the_image_by_its_scale_and_is_removed_afterwards(
    server: LiveServer, body: dict[str, Any]
) -> None:
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    folder = server.weights_dir / "loras" / "styles"
    folder.mkdir(exist_ok=True)
    write_lora(folder / "oil.safetensors", random_pairs(linears, list(linears)))

    def pixels(*loras: dict[str, Any]) -> bytes:
        return image(server, post(server, body | {"loras": list(loras)})).tobytes()

    base = pixels()
    applied = pixels({"path": "styles/oil", "scale": 1.5})
    assert applied != base
    assert pixels({"path": "styles/oil.safetensors", "scale": 1.5}) == applied
    assert pixels({"path": "styles/oil", "scale": 0}) == base
    assert pixels() == base
    names = [lora["name"] for lora in _capabilities(server)["loras"]]
    assert "styles/oil.safetensors" in names


def test_incompatible_lora_is_rejected_at_submit(server: LiveServer, body: dict[str, Any]) -> None:
    wrong = {"transformer_blocks.0.attn.to_q": (32, 32)}
    path = server.weights_dir / "loras" / "wrong.safetensors"
    write_lora(path, random_pairs(wrong, list(wrong)))

    answer = server.http.post(f"{server.url}/v1/edits", json=body | {"loras": [{"path": "wrong"}]})
    assert answer.status_code == 400
    assert "wrong.safetensors does not fit this model" in error_of(answer)["message"]
    assert error_of(answer)["field"] == "loras/0/path"


def test_lora_with_nan_fails_its_job_but_not_the_next(
    real_server: LiveServer, body: dict[str, Any]
) -> None:
    """Only the worker reads the tensors."""
    server = real_server
    linears = {"proj_out": (64, 64)}
    pairs = random_pairs(linears, list(linears))
    pairs["proj_out"].down[0, 0] = float("nan")
    write_lora(server.weights_dir / "loras" / "nan.safetensors", pairs)

    failed = post(server, body | {"loras": [{"path": "nan"}]})
    assert failed["error"]["code"] == "lora_invalid"
    assert "nan.safetensors holds NaN or infinity" in failed["error"]["message"]
    assert post(server, body)["status"] == "succeeded"


def test_lora_is_downloaded_from_a_url(
    fetching_server: LiveServer, body: dict[str, Any], file_host: tuple[str, Any]
) -> None:
    url, folder = file_host
    linears = {"proj_out": (64, 64)}
    write_lora(folder / "my style.safetensors", random_pairs(linears, list(linears)))
    (folder / "page.safetensors").write_text("<!doctype html>")
    server = fetching_server

    base = post(server, body)
    styled = post(server, body | {"loras": [{"path": f"{url}/my%20style.safetensors?download=1"}]})
    page = post(server, body | {"loras": [{"path": f"{url}/page.safetensors"}]})

    assert image(server, base).tobytes() != image(server, styled).tobytes()
    assert page["error"]["code"] == "lora_invalid"
    host = url.removeprefix("http://")
    assert page["error"]["message"].startswith(
        f"loras/0/path: {host} answered with a web page instead of a LoRA: give the address of"
    )


def test_image_is_downloaded_from_a_url(
    fetching_server: LiveServer, body: dict[str, Any], file_host: tuple[str, Any]
) -> None:
    url, folder = file_host
    (folder / "cat.png").write_bytes(encoded(gradient()))
    (folder / "not.png").write_bytes(b"hello")
    server = fetching_server

    inline = post(server, body)
    fetched = post(server, body | {"images": [f"{url}/cat.png"]})
    failed = [
        post(server, body | {"images": [f"{url}/{name}"]})["error"]["message"]
        for name in ("not.png", "missing.png")
    ]

    assert image(server, inline).tobytes() == image(server, fetched).tobytes()
    assert "images/0 is not an image" in failed[0]
    assert "missing.png answered 404" in failed[1]


def test_capabilities_describe_the_model_and_its_bounds(server: LiveServer) -> None:
    found = _capabilities(server)
    by_format = found["bounds"]["image_pixels_max_by_format"]
    assert by_format == {
        "WEBP": 14_000_000,
        "AVIF": 12_500_000,
        "JPEG progressive 4:4:4": 46_000_000,
    }
    assert found["model"]["name"] == "tiny"
    assert found["profile"] == {"name": "quality", "num_inference_steps": 3, "true_cfg_scale": 4.0}
    assert found["bounds"]["size"] == {"min": 256, "max": 1536}
    assert found["bounds"]["loras_max"] == 3
    assert found["checks_safety"] is False
    assert found["model"]["forward"]["name"] == "stock"


def test_demo_model_is_announced_prominently(tmp_path: Any) -> None:
    server = LiveServer("demo", tmp_path)
    try:
        server.start()
        health = server.health()
        capabilities = _capabilities(server)
        job = post(server, {"prompt": "a", "images": [as_base64(encoded(gradient()))]})
    finally:
        server.close()

    assert health["model"]["is_demo"]
    assert "demo model answers" in health["model"]["warning"]
    assert capabilities["model"]["warning"] == health["model"]["warning"]
    assert "MODEL: the demo model" in server.log()
    assert job["steps"] == 8


def test_docs_page_loads_nothing_from_other_hosts(server: LiveServer) -> None:
    page = server.http.get(f"{server.url}/docs")
    assert page.status_code == 200
    assert "http://" not in page.text.replace(server.url, "")
    assert "https://" not in page.text
    assert server.http.get(f"{server.url}/openapi.json").json()["info"]["title"]


def test_unknown_page_returns_a_native_404(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/nothing")
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "Not Found"


@pytest.mark.parametrize("name", ["..%2f..%2fjobs.sqlite3", "jobs.sqlite3", "0" * 32 + ".png"])
def test_output_returns_404_for_another_name(server: LiveServer, name: str) -> None:
    assert server.http.get(f"{server.url}/outputs/{name}").status_code == 404


def _capabilities(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/capabilities").json()
    return found


def test_lora_is_uploaded_inspected_and_deleted(
    server: LiveServer, body: dict[str, Any], tmp_path: Any
) -> None:
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    pairs = random_pairs(linears, list(linears), rank=8)
    metadata = {"modelspec.trigger_phrase": "oil paint", "modelspec.title": "Oil"}
    data = write_lora(tmp_path / "x.safetensors", pairs, metadata=metadata).read_bytes()
    url = f"{server.url}/v1/loras"

    created = server.http.post(url, files={"file": ("uploaded.safetensors", data)})
    again = server.http.post(url, files={"file": ("uploaded.safetensors", data)})
    replaced = server.http.post(
        url, files={"file": ("uploaded.safetensors", data)}, data={"replace": "true"}
    )
    report = server.http.get(f"{url}/uploaded").json()
    used = post(server, body | {"loras": [{"path": "uploaded"}]})
    deleted = server.http.delete(f"{url}/uploaded.safetensors")

    assert [created.status_code, again.status_code, replaced.status_code] == [201, 400, 201]
    assert report["fits"]
    assert (report["modules"], report["ranks"], report["kind"]) == (2, {"8": 2}, "LoRA")
    assert (report["title"], report["trigger_words"]) == ("Oil", ["oil paint"])
    assert report["layout"] == "transformer.*.lora_A.weight"
    assert used["status"] == "succeeded"
    assert deleted.status_code == 204
    assert server.http.get(f"{url}/uploaded").status_code == 404


def test_upload_is_rejected_and_removed_when_it_is_no_lora(server: LiveServer) -> None:
    url = f"{server.url}/v1/loras"
    answer = server.http.post(url, files={"file": ("page.safetensors", b"<html>")})
    outside = server.http.post(url, files={"file": ("a", b"x")}, data={"name": "../a.safetensors"})
    assert answer.status_code == outside.status_code == 400
    assert "page.safetensors is not a safetensors file" in error_of(answer)["message"]
    assert server.http.get(f"{url}/page").status_code == 404


def test_real_worker_tells_its_forward(real_server: LiveServer) -> None:
    server = real_server
    expected = {"name": "fast", "reason": None}
    assert server.http.get(f"{server.url}/health").json()["forward"] == expected
    found = server.http.get(f"{server.url}/v1/capabilities").json()
    assert found["model"]["forward"] == expected
    assert "fast forward" in server.log()
