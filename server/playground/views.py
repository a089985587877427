"""HTML of the parts of the page that no Gradio component covers.

- `progress`: `gr.Progress` has no progressbar role, covers what it updates and ends with its event;
  this bar is announced, leaves the last result in view and resumes after a reload.
- `compare`: `gr.ImageSlider` has no keyboard control, and needs both images.
- `result`, `grid`, `history`: `gr.Gallery` shows images only; edits that wait or failed have none,
  and each edit needs its own buttons. Gradio also copies images to its cache, where a deleted
  output would remain for a day; these pieces link to the server's files.
- `field_error`: Gradio's validators run before an event; a job may fail after it.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from server.job import Job, JobStatus, Output
from server.jobs.job_state import JobState
from server.media.outputs import ROUTE
from server.workers.executor import ExecutorState

EMPTY_RESULT = (
    '<div class="qe-empty"><p class="qe-empty-title">Your edit appears here</p>'
    "<p>Add an image, describe the change, and press Run.</p></div>"
)
EMPTY_GRID = (
    '<div class="qe-empty"><p class="qe-empty-title">Find the right strength</p>'
    "<p>Compare one edit at several scales of the first LoRA, or with several seeds.</p>"
    "</div>"
)
EMPTY_HISTORY = '<div class="qe-empty"><p>Your edits appear here.</p></div>'
MAX_SHOWN_PROMPT = 140
_STATUS_TEXTS = {
    JobStatus.QUEUED: "Waiting",
    JobStatus.RUNNING: "Running",
    JobStatus.SUCCEEDED: "Done",
    JobStatus.FAILED: "Failed",
    JobStatus.CANCELED: "Canceled",
}
_STAGE_TEXTS = {
    "load": "Loading LoRAs…",
    "encode": "Reading prompt and images…",
    "decode": "Decoding the image…",
}


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the model, as the header shows it."""

    model: str
    device: str | None
    state: ExecutorState
    failure: str | None
    warning: str | None


def header(status: Status) -> str:
    """The title, the model and its state, and a warning for the demo model."""
    state = {
        ExecutorState.STARTING: "is loading…",
        ExecutorState.FAILED: "failed to load",
    }.get(status.state, f"on {status.device}" if status.device else "")
    parts = [
        '<header class="qe-head"><h1>Edit images with a sentence</h1>',
        f'<p class="qe-model qe-{_text(status.state)}"><span class="qe-dot"></span>'
        f"<span>{_text(status.model)} {_text(state)}</span></p></header>",
    ]
    if status.failure:
        parts.append(f'<p class="qe-banner qe-failure" role="alert">{_text(status.failure)}</p>')
    if status.warning:
        parts.append(f'<p class="qe-banner">{_text(status.warning)}</p>')
    return "".join(parts)


def field_error(message: str, *, is_new: bool = True) -> str:
    """An error message; screen readers announce a new one."""
    role = ' role="alert"' if is_new else ""
    return f'<p class="qe-error"{role}>{_text(message)}</p>'


def notice(message: str) -> str:
    """A message that is not an error."""
    return f'<p class="qe-notice" role="status">{_text(message)}</p>'


def progress(state: JobState, executor: ExecutorState) -> str:
    """The progress of a job, as a bar with a text."""
    return _bar(*progress_text(state, executor))


def progress_text(state: JobState, executor: ExecutorState) -> tuple[float | None, str]:
    """The share of a job that is done, None while unknown, and a text."""
    job, step = state.job, state.progress
    if job.cancel_requested and not job.status.is_final:
        return None, "Canceling at the next step…"
    if job.status is JobStatus.QUEUED:
        if executor is ExecutorState.STARTING:
            return None, "Waiting for the model to load…"
        if job.prepared_at is None:
            return None, "Fetching images and LoRAs…"
        ahead = state.position or 0
        return None, f"Waiting: {ahead} ahead in the queue" if ahead else "Waiting: next in line"
    if job.status is JobStatus.RUNNING:
        if step is None or not step.total:
            return 0.0, "Starting…"
        share = step.step / step.total
        return share, _STAGE_TEXTS.get(step.stage, "") or f"Step {step.step} of {step.total}"
    return 1.0, _STATUS_TEXTS[job.status]


def grid_progress(states: Sequence[JobState], total: int) -> str:
    """The progress of a grid: its finished edits and the steps of the running ones."""
    finished = sum(state.job.status.is_final for state in states)
    running = [state.progress for state in states if state.progress and state.progress.total]
    share = (finished + sum(step.step / step.total for step in running)) / total
    return _bar(share, f"{finished} of {total} done")


def result(job: Job) -> str:
    """The outputs of an edit, each with its seed, download and use as input."""
    size = "×".join(map(str, (job.outputs[0].width, job.outputs[0].height)))
    took = (job.finished_at or 0) - (job.started_at or 0)
    outcome = job.outcome
    steps = outcome.num_inference_steps if outcome else None
    used = str(outcome.sampling) if outcome and outcome.sampling else f"{steps} steps"
    facts = [size, used, f"{took:.1f} s"]
    warnings = "".join(notice(warning) for warning in (outcome.warnings if outcome else ()))
    cards = "".join(_output(job, index) for index in range(len(job.outputs)))
    return (
        f'<p class="qe-meta">{" · ".join(facts)}</p>{warnings}'
        f'<div class="qe-outputs" data-job="{job.id}">{cards}</div>'
    )


def compare(output: Output, before: str | None) -> str:
    """An output over its input. The input is hidden until the line is moved or the button held.

    `before` is the route of the input (`/uploads/…`); without it the output is shown alone.
    """
    # CSS derives the width from the largest height
    shape = f"--width: {output.width}; --height: {output.height}"
    after = f'<img class="qe-after" src="{_url(output)}" alt="After">'
    if before is None:
        message = notice("The original image is no longer kept.")
        return f'<div class="qe-compare" style="{shape}">{after}</div>{message}'
    return (
        f'<div class="qe-compare" style="{shape}">{after}<span class="qe-tag">After</span>'
        f'<div class="qe-overlay"><img class="qe-before" src=".{_text(before)}" alt="Before">'
        '<span class="qe-tag">Before</span></div><span class="qe-line"></span>'
        '<input type="range" min="0" max="100" step="1" value="0" '
        'aria-label="Before and after: share of the original shown, in percent">'
        '<button type="button" class="qe-button qe-hold">Hold to compare</button></div>'
    )


def grid(labels: Sequence[str], states: Sequence[JobState | None], executor: ExecutorState) -> str:
    """The cells of a grid with their labels; images appear as they finish."""
    cells = []
    for label, state in zip(labels, states, strict=True):
        inside = _cell(state, executor) if state else '<div class="qe-placeholder">Deleted</div>'
        cells.append(f'<figure class="qe-cell"><figcaption>{_text(label)}</figcaption>{inside}')
        cells.append("</figure>")
    return f'<div class="qe-grid">{"".join(cells)}</div>'


def history(jobs: Sequence[Job], total: int, *, shows_all: bool) -> str:
    """The given edits, newest first, and a button when there are more.

    `shows_all` says that they are everybody's.
    """
    if not jobs:
        return EMPTY_HISTORY
    parts = []
    if shows_all:
        parts.append(notice("Your key is an admin's: you see the edits of every key."))
    parts.append(f'<div class="qe-history">{"".join(map(_entry, jobs))}</div>')
    if total > len(jobs):
        parts.append(f'<button class="qe-button" data-action="more">Show {total - len(jobs)} more')
        parts.append("</button>")
    return "".join(parts)


def button(action: str, value: str, inside: str) -> str:
    """A button that sends `action` and `value` to the server; `value` and `inside` are HTML."""
    return (
        f'<button type="button" class="qe-button qe-{action}" data-action="{action}" '
        f'data-value="{value}">{inside}</button>'
    )


def _output(job: Job, index: int) -> str:
    output = job.outputs[index]
    shown = ""
    if len(job.outputs) > 1:
        shown = button("show", f"{job.id}:{index}", _image(output, f"Show output {index + 1}"))
    unsafe = '<span class="qe-error">flagged as unsafe</span>' if output.is_unsafe else ""
    return (
        f'<div class="qe-output">{shown}<span class="qe-seed">seed {output.seed}</span>{unsafe}'
        f"{_download(output)}{button('input', f'{job.id}:{index}', 'Use as input')}</div>"
    )


def _cell(state: JobState, executor: ExecutorState) -> str:
    job = state.job
    if job.outputs:
        buttons = f"{button('settings', job.id, 'Use settings')}{_download(job.outputs[0])}"
        image = button("show", f"{job.id}:0", _image(job.outputs[0], "Compare with the original"))
        return f'{image}<div class="qe-actions">{buttons}</div>'
    if job.error:
        return f'<div class="qe-placeholder">{field_error(job.error.message, is_new=False)}</div>'
    _, text = progress_text(state, executor)
    return f'<div class="qe-placeholder">{_text(text)}</div>'


def _entry(job: Job) -> str:
    prompt = job.request.params.prompt
    short = prompt if len(prompt) <= MAX_SHOWN_PROMPT else prompt[: MAX_SHOWN_PROMPT - 1] + "…"
    when = datetime.fromtimestamp(job.created_at).astimezone()
    buttons = [button("settings", job.id, "Use settings")]
    if job.outputs:
        buttons += [button("input", f"{job.id}:0", "Use as input"), _download(job.outputs[0])]
    if job.status.is_final:
        buttons.append(button("delete", job.id, "Delete"))
    else:
        buttons.append(button("cancel", job.id, "Cancel"))
    shown = (
        button("show", f"{job.id}:0", _image(job.outputs[0], f"Show: {short}"))
        if job.outputs
        else f'<div class="qe-placeholder">{_STATUS_TEXTS[job.status]}</div>'
    )
    error = field_error(job.error.message, is_new=False) if job.error else ""
    return (
        f'<article class="qe-entry" data-job="{job.id}" data-status="{_text(job.status)}">{shown}'
        f'<div class="qe-details"><p class="qe-prompt" title="{_text(prompt)}">{_text(short)}</p>'
        f'<p class="qe-meta">{_text(" · ".join(_facts(job)))} · '
        f'<time datetime="{when.isoformat()}">{when:%d %b, %H:%M}</time></p>{error}'
        f'</div><div class="qe-actions">{"".join(buttons)}</div></article>'
    )


def _facts(job: Job) -> list[str]:
    loras = [
        f"{lora.path.rpartition('/')[2].removesuffix('.safetensors')} × {lora.scale:g}"
        for lora in job.request.params.loras
    ]
    count = len(job.outputs)
    return [f"seed {job.request.params.seed}", *loras, *([f"{count} outputs"] if count > 1 else [])]


def _bar(done: float | None, text: str) -> str:
    share = "" if done is None else f' aria-valuenow="{done * 100:.0f}"'
    style = "" if done is None else f' style="width:{done * 100:.1f}%"'
    waiting = " qe-waiting" if done is None else ""
    return (
        f'<div class="qe-progress"><div class="qe-bar{waiting}" role="progressbar" '
        f'aria-label="Progress" aria-valuemin="0" aria-valuemax="100"{share}>'
        f'<div class="qe-fill"{style}></div></div>'
        f'<p class="qe-progress-text" role="status">{_text(text)}</p></div>'
    )


def _image(output: Output, alt: str) -> str:
    return (
        f'<img src="{_url(output)}" alt="{_text(alt)}" loading="lazy" '
        f'width="{output.width}" height="{output.height}">'
    )


def _download(output: Output) -> str:
    name = f"edit-{output.seed}.{output.name.rpartition('.')[2]}"
    return f'<a class="qe-button" href="{_url(output)}" download="{name}">Download</a>'


def _url(output: Output) -> str:
    # relative to the page, so that it works behind a proxy's prefix
    return f".{ROUTE}/{output.name}"


def _text(text: str) -> str:
    return html.escape(text)
