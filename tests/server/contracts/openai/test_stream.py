"""Streamed responses."""

from tests.live_server import LiveServer
from tests.server.contracts.openai.client import EDITS, IMAGE, LONG, edit, events, image_of, pixels


def test_stream_has_named_events_with_every_field(server: LiveServer) -> None:
    fields = {"stream": "true", "partial_images": 3, "num_inference_steps": 12, "n": 2}
    answer = edit(server, **fields, output_format="jpeg", size="320x256")
    found = events(answer)

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"]
    partial = [data for name, data in found if name == "image_edit.partial_image"]
    last = [data for name, data in found if name == "image_edit.completed"]
    assert [data["type"] for _, data in found] == [name for name, _ in found]
    assert [data["partial_image_index"] for data in partial] == list(range(len(partial)))
    assert 1 <= len(partial) <= 3
    assert len(last) == 2
    common = {"b64_json", "created_at", "size", "quality", "background", "output_format", "type"}
    assert set(partial[0]) == common | {"partial_image_index"}
    assert set(last[0]) == common | {"usage"}
    assert [data["usage"]["output_tokens"] for data in last] == [320, 320]
    for data in (*partial, *last):
        image = image_of({"data": [data]})
        assert (image.format, image.size, data["size"]) == ("JPEG", (320, 256), "320x256")
    assert image_of({"data": [last[0]]}).tobytes() != image_of({"data": [last[1]]}).tobytes()


def test_partial_images_are_ignored_without_stream(server: LiveServer) -> None:
    assert pixels(edit(server, partial_images=3)) == pixels(edit(server))


def test_stream_returns_the_image_of_the_plain_response(server: LiveServer) -> None:
    streamed = events(edit(server, stream="true", partial_images=2, response_format="url"))[-1][1]
    assert image_of({"data": [streamed]}).tobytes() == pixels(edit(server))


def test_canceled_job_ends_its_response_and_its_stream(server: LiveServer) -> None:
    fields = {"prompt": "a", "stream": "true", "size": "1024x1024", **LONG}
    files = [("image", ("a.png", IMAGE)), *((k, (None, str(v))) for k, v in fields.items())]
    with server.http.stream("POST", server.url + EDITS, files=files) as answer:
        server.http.delete(f"{server.url}/v1/edits/{answer.headers['x-request-id']}")
        answer.read()
        name, data = events(answer)[-1]
    assert (name, data["type"]) == ("error", "error")
    assert data["error"]["code"] == "canceled"
