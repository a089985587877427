"""Edits followed over a live server, and the jobs they leave when they do not succeed."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from server.cli.client import Client, EditOptions
from server.cli.errors import ClientError
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
    """The statuses of the jobs with this prompt, newest first."""
    return [job["status"] for job in client.jobs(100)["items"] if job["prompt"] == prompt]


def test_run_edits_leaves_a_failed_job_in_the_list(
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


def test_run_edits_leaves_a_finished_job_when_an_earlier_result_cannot_be_kept(
    server: LiveServer, image: Path
) -> None:
    prompt = "finished before it is followed"

    def keep(index: int, one: Finished) -> None:
        until(lambda: states(client, prompt) == ["succeeded"] * 2)
        raise typer.Exit(1)

    with Client(server.url, None) as client:
        with pytest.raises(typer.Exit):
            run_edits(client, two_edits(image, prompt), keep)
        assert states(client, prompt) == ["succeeded"] * 2


def test_cancel_leaves_a_job_that_has_just_finished(server: LiveServer, image: Path) -> None:
    """Ctrl-C may arrive while the last step ends; a look before a delete would lose the job."""
    prompt = "finished before the cancel arrives"
    with Client(server.url, None) as client:
        job = client.submit(two_edits(image, prompt)[0])
        until(lambda: states(client, prompt) == ["succeeded"])

        assert client.cancel(job["id"])["status"] == "succeeded"
        assert states(client, prompt) == ["succeeded"]
