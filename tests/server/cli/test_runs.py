"""Edits followed to their end over a live server: what is left of those that did not succeed."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from server.cli.client import Client, ClientError, EditOptions
from server.cli.runs import Finished, run_edits
from tests.live_server import LiveServer, until


def two_edits(image: Path, prompt: str, *loras: str) -> list[EditOptions]:
    first = EditOptions(
        prompt=prompt,
        images=(image,),
        loras=tuple((lora, 1.0) for lora in loras),
        size="256*256",
        seed=1,
        num_inference_steps=2,
        true_cfg_scale=None,
        negative_prompt=None,
        output_format="png",
    )
    return [first, replace(first, seed=2)]


def states(client: Client, prompt: str) -> list[str]:
    """The states of the jobs with this prompt, newest first."""
    return [job["status"] for job in client.jobs(100)["items"] if job["prompt"] == prompt]


def test_failed_edit_stays_listed_as_failed(
    fetching_server: LiveServer, image: Path, file_host: tuple[str, Path]
) -> None:
    prompt = "a LoRA that is not there"
    edits = two_edits(image, prompt, f"{file_host[0]}/nosuch.safetensors")
    with Client(fetching_server.url, None) as client:
        with pytest.raises(ClientError, match=r"nosuch\.safetensors answered 404"):
            run_edits(client, edits, lambda _, one: None)
        second, first = states(client, prompt)

    assert first == "failed"
    assert second in ("failed", "canceled")


def test_edit_that_ended_unseen_is_not_deleted_when_an_earlier_one_cannot_be_kept(
    server: LiveServer, image: Path
) -> None:
    prompt = "done before it is looked at"

    def keep(index: int, one: Finished) -> None:
        until(lambda: states(client, prompt) == ["succeeded"] * 2)
        raise typer.Exit(1)

    with Client(server.url, None) as client:
        with pytest.raises(typer.Exit):
            run_edits(client, two_edits(image, prompt), keep)
        assert states(client, prompt) == ["succeeded"] * 2
