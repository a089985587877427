"""The page's HTML, in which nothing from a request is markup."""

import pytest

from pipelines.api.params import EditParams, LoraRef
from server.job import Job, JobError, JobStatus, Output
from server.jobs.job_state import JobProgress, JobState
from server.playground import views
from server.workers.executor import ExecutorState
from tests.make_job import make_job

EVIL = "<img src=x onerror=alert(1)>\"'&"
OUTPUT = Output("0" * 32 + ".png", "image/png", 10, 64, 48, 5)
READY = ExecutorState.READY


def job(**changes: object) -> Job:
    params = EditParams(EVIL, 5, loras=(LoraRef(f"{EVIL}.safetensors"),))
    return make_job(contract="page", params=params, **changes)


def running(step: int, total: int, stage: str = "denoise") -> JobState:
    return JobState(job(status=JobStatus.RUNNING), None, JobProgress(stage, step, total))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (JobState(job(), 0, None), "Waiting: next in line"),
        (JobState(job(), 3, None), "Waiting: 3 ahead in the queue"),
        (JobState(job(prepared_at=None), 0, None), "Fetching images and LoRAs…"),
        (JobState(job(status=JobStatus.RUNNING), None, None), "Starting…"),
        (running(2, 8), "Step 2 of 8"),
        (running(8, 8, "decode"), "Decoding the image…"),
        (
            JobState(job(status=JobStatus.RUNNING, cancel_requested=True), None, None),
            "Canceling at the next step…",
        ),
        (JobState(job(status=JobStatus.CANCELED), None, None), "Canceled"),
    ],
)
def test_progress_describes_the_state_of_a_job(state: JobState, text: str) -> None:
    assert views.progress_text(state, READY)[1] == text
    assert text in views.progress(state, READY)


def test_progress_mentions_the_model_while_it_loads() -> None:
    assert "model" in views.progress_text(JobState(job(), 0, None), ExecutorState.STARTING)[1]


def test_progress_exposes_the_share_to_screen_readers() -> None:
    assert 'aria-valuenow="25"' in views.progress(running(2, 8), READY)
    assert "aria-valuenow" not in views.progress(JobState(job(), 0, None), READY)


def test_grid_progress_counts_finished_edits_and_running_steps() -> None:
    states = [JobState(job(status=JobStatus.CANCELED), None, None), running(4, 8)]

    shown = views.grid_progress(states, 4)

    assert "1 of 4 done" in shown
    assert 'aria-valuenow="38"' in shown


def test_views_escape_everything_from_a_request() -> None:
    failed = job(status=JobStatus.FAILED, error=JobError("a", EVIL))
    done = job(status=JobStatus.SUCCEEDED, outputs=(OUTPUT,))
    pieces = [
        views.history([failed, done], 2, shows_all=True),
        views.grid([EVIL], [JobState(failed, None, None)], READY),
        views.field_error(EVIL),
        views.notice(EVIL),
        views.header(views.Status(EVIL, EVIL, ExecutorState.FAILED, EVIL, EVIL)),
    ]

    for piece in pieces:
        assert "<img src=x" not in piece
        assert "&lt;img src=x" in piece


def test_header_warns_of_the_demo_model() -> None:
    shown = views.header(views.Status("demo", "cpu", READY, None, "The small demo model answers."))

    assert "The small demo model answers." in shown
    assert "qe-banner" not in views.header(views.Status("big", "cuda", READY, None, None))


def test_result_offers_every_output() -> None:
    outputs = (OUTPUT, OUTPUT)
    done = job(status=JobStatus.SUCCEEDED, outputs=outputs)

    shown = views.result(done)

    assert shown.count('download="edit-5.png"') == 2
    assert f'data-value="{done.id}:1"' in shown


def test_compare_shows_the_output_alone_when_its_input_has_expired() -> None:
    both, alone = views.compare(OUTPUT, "/uploads/cat.png"), views.compare(OUTPUT, None)

    assert 'src="./uploads/cat.png"' in both
    assert ("range" in both, "range" in alone) == (True, False)
    assert all(f"/{OUTPUT.name}" in shown for shown in (both, alone))
    assert "no longer kept" in alone
    # opens on the output
    assert 'value="0"' in both


def test_history_offers_the_rest_when_it_shows_a_part() -> None:
    assert "8 more" in views.history([job()], 9, shows_all=False)
    assert views.history([], 0, shows_all=False) == views.EMPTY_HISTORY
