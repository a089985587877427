"""Where on the page a sentence stands."""

import pytest

from pipelines.api.errors import InvalidParameter
from server.errors import InvalidImage, InvalidLora, InvalidRequest, QueueFull
from server.job import JobError
from server.playground.form import Form, LoraField
from server.playground.problems import PLACES, field_error_of, field_error_of_job

# The request's first LoRA stands in the second row.
FORM = Form(loras=(LoraField(), LoraField("a"), LoraField("b")))


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (InvalidParameter("prompt", "must not be empty"), "prompt"),
        (InvalidParameter("size", "is wrong"), "size"),
        (InvalidParameter("loras.2.scale", "is wrong"), "lora_3"),
        (InvalidImage("images/1 is none", field="images/1"), "images"),
        (InvalidRequest("images must", field="images"), "images"),
        (InvalidLora("no", field="loras/0/path"), "lora_2"),
        (InvalidLora("no", field="loras/1/path"), "lora_3"),
        (InvalidLora("no", field="loras/9/path"), "lora_3"),
        (InvalidRequest("no", field="something"), "run"),
        (QueueFull("full", retry_after_s=1), "run"),
        (RuntimeError("a secret"), "run"),
    ],
)
def test_error_stands_at_its_field(error: Exception, place: str) -> None:
    assert field_error_of(error, FORM).place == place
    assert place in PLACES


def test_inside_of_the_server_is_not_told() -> None:
    assert "secret" not in field_error_of(RuntimeError("a secret"), None).sentence


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("images/1: http://a gave 404.", "images"),
        ("loras/0/path: http://a gave nothing.", "lora_2"),
        ("The device has too little memory.", "run"),
    ],
)
def test_failed_job_stands_at_the_field_it_names(message: str, place: str) -> None:
    assert field_error_of_job(JobError("fetch_failed", message), FORM).place == place


def test_sentence_ends_as_one() -> None:
    assert field_error_of(InvalidParameter("prompt", "is no"), None).sentence == "prompt is no."
    assert field_error_of(InvalidRequest("It is so."), None).sentence == "It is so."
