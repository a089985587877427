"""The page's own HTML: what it says, and that nothing of a request is markup in it."""

import pytest

from pipelines.api.params import EditParams, LoraRef
from server.job import Job, JobError, JobStatus, Output
from server.jobs.job_queue import JobProgress, JobState
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
    ("state", "words"),
    [
        (JobState(job(), 0, None), "Waiting: next in line"),
        (JobState(job(), 3, None), "Waiting: 3 ahead in the queue"),
        (JobState(job(prepared_at=None), 0, None), "Fetching images and LoRAs…"),
        (JobState(job(status=JobStatus.RUNNING), None, None), "Starting…"),
        (running(2, 8), "Step 2 of 8"),
        (running(8, 8, "decode"), "Painting the image"),
        (
            JobState(job(status=JobStatus.RUNNING, cancel_requested=True), None, None),
            "Canceling at the next step…",
        ),
        (JobState(job(status=JobStatus.CANCELED), None, None), "Canceled"),
    ],
)
def test_progress_says_where_a_job_is(state: JobState, words: str) -> None:
    assert views.progress_words(state, READY)[1] == words
    assert words in views.progress(state, READY)


def test_progress_says_that_the_model_is_being_loaded() -> None:
    assert "model" in views.progress_words(JobState(job(), 0, None), ExecutorState.STARTING)[1]


def test_bar_shows_the_share_to_everybody() -> None:
    assert 'aria-valuenow="25"' in views.progress(running(2, 8), READY)
    assert "aria-valuenow" not in views.progress(JobState(job(), 0, None), READY)


def test_grid_counts_what_has_ended_and_the_steps_of_what_runs() -> None:
    states = [JobState(job(status=JobStatus.CANCELED), None, None), running(4, 8)]

    shown = views.grid_progress(states, 4)

    assert "1 of 4 done" in shown
    assert 'aria-valuenow="38"' in shown


def test_nothing_of_a_request_is_markup() -> None:
    failed = job(status=JobStatus.FAILED, error=JobError("a", EVIL))
    done = job(status=JobStatus.SUCCEEDED, outputs=(OUTPUT,))
    pieces = [
        views.history([failed, done], 2, shown_keys=True),
        views.grid([EVIL], [JobState(failed, None, None)], READY),
        views.field_error(EVIL),
        views.notice(EVIL),
        views.head(views.Status(EVIL, EVIL, ExecutorState.FAILED, EVIL, EVIL)),
    ]

    for piece in pieces:
        assert "<img src=x" not in piece
        assert "&lt;img src=x" in piece


def test_head_says_that_the_demo_model_answers() -> None:
    shown = views.head(views.Status("demo", "cpu", READY, None, "The small demo model answers."))

    assert "The small demo model answers." in shown
    assert "qe-banner" not in views.head(views.Status("big", "cuda", READY, None, None))


def test_result_offers_each_output() -> None:
    outputs = (OUTPUT, OUTPUT)
    done = job(status=JobStatus.SUCCEEDED, outputs=outputs)

    shown = views.result(done)

    assert shown.count('download="edit-5.png"') == 2
    assert f'data-value="{done.id}:1"' in shown


def test_comparison_shows_the_output_alone_where_its_input_is_gone() -> None:
    both, alone = views.compare(OUTPUT, "/uploads/cat.png"), views.compare(OUTPUT, None)

    assert 'src="./uploads/cat.png"' in both
    assert ("range" in both, "range" in alone) == (True, False)
    assert all(f"/{OUTPUT.name}" in shown for shown in (both, alone))
    assert "no longer kept" in alone


def test_history_offers_what_is_not_shown() -> None:
    assert "8 more" in views.history([job()], 9, shown_keys=False)
    assert views.history([], 0, shown_keys=False) == views.EMPTY_HISTORY
