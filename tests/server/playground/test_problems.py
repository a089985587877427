"""Errors in the page's words, each at its field."""

import pytest

from pipelines.api.errors import InvalidParameter
from server.errors import InvalidImage, InvalidLora, InvalidRequest, QueueFull
from server.job import JobError
from server.playground.form import Form, LoraField, SlotImage
from server.playground.problems import ERROR_FIELDS, FieldError, field_error_of, field_error_of_job

IMAGE = SlotImage("/x/a.png", "a.png")
# The first image and the first LoRA are in the second slot and row.
FORM = Form(images=(None, IMAGE, IMAGE), loras=(LoraField(), LoraField("a"), LoraField("b")))


@pytest.mark.parametrize(
    ("error", "field"),
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
def test_error_belongs_to_its_field(error: Exception, field: str) -> None:
    assert field_error_of(error, FORM).field == field
    assert field in ERROR_FIELDS


def test_unexpected_error_is_not_disclosed() -> None:
    assert "secret" not in field_error_of(RuntimeError("a secret"), None).message


@pytest.mark.parametrize(
    ("message", "field", "shown"),
    [
        ("images/1: http://a gave 404.", "images", "Image 3: http://a gave 404."),
        ("loras/0/path: http://a gave nothing.", "lora_2", "LoRA 2: http://a gave nothing."),
        ("The device has too little memory.", "run", "The device has too little memory."),
    ],
)
def test_job_error_belongs_to_the_field_it_names(message: str, field: str, shown: str) -> None:
    error = field_error_of_job(JobError("fetch_failed", message), FORM)

    assert error == FieldError(field, shown)


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InvalidParameter("prompt", "must not be empty"), "Prompt must not be empty."),
        (InvalidParameter("num_inference_steps", "must be 2"), "Steps must be 2."),
        (InvalidParameter("true_cfg_scale", "must be 2"), "CFG scale must be 2."),
        (InvalidParameter("num_outputs", "must be 2"), "Outputs must be 2."),
        (InvalidParameter("loras.2.scale", "must be 2"), "LoRA 3: scale must be 2."),
        (InvalidImage("images/1 is damaged", field="images/1"), "Image 2 is damaged."),
        (InvalidRequest("images: http://a is refused", field="images"),
         "Image URL: http://a is refused."),
        (InvalidLora("loras/0/path is no file", field="loras/0/path"), "LoRA 2 is no file."),
        (InvalidLora("There is no LoRA 'x'.", field="loras/0/path"), "There is no LoRA 'x'."),
        (InvalidParameter("grid", "needs a LoRA"), "The grid needs a LoRA."),
        (InvalidRequest("Add an image first.", field="images"), "Add an image first."),
    ],
)  # fmt: skip
def test_message_uses_the_labels_of_the_page(error: Exception, shown: str) -> None:
    assert field_error_of(error, FORM).message == shown


def test_message_ends_with_a_full_stop() -> None:
    assert field_error_of(InvalidRequest("It is so"), None).message == "It is so."
    assert field_error_of(InvalidRequest("It is so."), None).message == "It is so."
