"""The page's components and their arrangement. Imports Gradio, which takes seconds."""

from typing import Any

import gradio as gr

from pipelines.api.params import CFG_RANGE, MAX_OUTPUTS, STEPS_RANGE
from pipelines.api.sizes import SizeBounds
from server.job import OutputFormat
from server.playground import views
from server.playground.components import ACTIONS_JS, Layout, uploaded_path
from server.playground.examples import EXAMPLES, example_html
from server.playground.form import AUTO_SIZE, DEFAULT_SIDE, NO_PRESET, sizes_within
from server.playground.grid import DEFAULT_SCALES, MAX_CELLS, Vary
from server.playground.lora_layout import add_loras
from server.playground.problems import ERROR_FIELDS

# Components whose value the browser stores, with their storage keys. Browsers out there have
# these keys: they never change.
BROWSER_STATES = {
    "last": "qwen-edit-last",
    "last_grid": "qwen-edit-last_grid",
    "stored_form": "qwen-edit-draft",
}
# Moves the line between before and after to the value of the range.
COMPARE_JS = """
element.addEventListener('input', (event) => {
  event.target.closest('.qe-compare')?.style.setProperty('--line', event.target.value + '%');
});
"""


def build_layout(sizes: SizeBounds) -> Layout:
    """Add all components to the current Blocks. `sizes` are those that the model edits well."""
    page = Layout()
    page.components["header"] = gr.HTML("", elem_id="header")
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=5, min_width=320, elem_id="edit-form"):
            _add_images(page)
            _add_prompt(page)
            _add_preset(page)
            _add_size(page, sizes)
            add_loras(page, _add_error)
            _add_seed(page)
            _add_advanced(page)
            _add_run(page)
        with gr.Column(scale=6, min_width=320, elem_id="results"):
            _add_results(page)
    _add_history(page)
    _add_states(page)
    return page


def _add_results(page: Layout) -> None:
    with gr.Tabs() as page.components["tabs"]:
        with gr.Tab("Result", id="result"):
            _add_result(page)
        with gr.Tab("Grid", id="grid"):
            _add_grid(page)
        with gr.Tab("As code", id="code") as page.components["code_tab"]:
            _add_code(page)


def _add_error(page: Layout, field: str) -> None:
    assert field in ERROR_FIELDS, field
    page.errors[field] = gr.HTML("", elem_id=f"error-{field}")


def _add_images(page: Layout) -> None:
    with gr.Row(elem_id="slots"):
        for number in range(1, 4):
            page.components[f"image_{number}"] = gr.Image(
                label=f"Image {number}",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                buttons=["fullscreen"],
                min_width=90,
                height=190,
                placeholder="Drop, paste or choose" if number == 1 else "Add another",
                elem_id=f"image-{number}",
            )
            # Gradio's own opens the file with Pillow, in this process
            page.components[f"image_{number}"].preprocess = uploaded_path
    with gr.Row(elem_id="url-row"):
        page.components["url"] = gr.Textbox(
            show_label=False,
            label="Image URL",
            placeholder="…or paste an image URL",
            max_lines=1,
            scale=5,
            min_width=120,
            container=False,
            elem_id="image-url",
        )
        page.components["add_url"] = gr.Button(
            "Add", size="sm", scale=1, min_width=60, elem_id="add-url"
        )
    _add_error(page, "images")
    page.components["examples"] = gr.Dataset(
        components=[gr.HTML(render=False)],
        samples=[[example_html(example)] for example in EXAMPLES],
        type="index",
        label="Or try an example",
        elem_id="examples",
    )


def _add_prompt(page: Layout) -> None:
    page.components["prompt"] = gr.Textbox(
        label="Prompt",
        lines=3,
        max_lines=12,
        placeholder=f"What should change? For example: {EXAMPLES[0].prompt}",
        elem_id="prompt",
    )
    _add_error(page, "prompt")


def _add_preset(page: Layout) -> None:
    # shown once there is one
    with gr.Row(visible=False) as page.components["preset_row"]:
        page.components["preset"] = gr.Dropdown(
            [NO_PRESET], value="", label="Preset", elem_id="preset", min_width=160,
        )  # fmt: skip
    _add_error(page, "preset")


def _add_size(page: Layout, sizes: SizeBounds) -> None:
    with gr.Row():
        page.components["size"] = gr.Dropdown(
            sizes_within(sizes), value=AUTO_SIZE, label="Size", scale=3, min_width=160,
            elem_id="size",
        )  # fmt: skip
        page.components["num_outputs"] = gr.Number(
            1, label="Outputs", precision=0, step=1, minimum=1, maximum=MAX_OUTPUTS, scale=1,
            min_width=80, elem_id="outputs-count",
        )  # fmt: skip
    with gr.Row(visible=False) as page.components["sides"]:
        for name in ("width", "height"):
            # not a slider: it changes a typed size that is out of bounds, instead of refusing it
            page.components[name] = gr.Number(
                DEFAULT_SIDE, label=name.title(), info=f"{sizes} pixels", step=1,
                minimum=sizes.min_side, maximum=sizes.max_side, min_width=140, elem_id=name,
            )  # fmt: skip
    _add_error(page, "size")
    _add_error(page, "num_outputs")


def _add_seed(page: Layout) -> None:
    with gr.Row(elem_id="seed-row"):
        page.components["seed"] = _optional_number("Seed", "Random", "seed", scale=3)
        page.components["is_seed_locked"] = gr.Checkbox(
            False, label="Lock", scale=1, min_width=90, elem_id="seed-lock"
        )
    _add_error(page, "seed")


def _add_advanced(page: Layout) -> None:
    with gr.Accordion("Advanced", open=False, elem_id="advanced") as page.components["advanced"]:
        page.components["negative_prompt"] = gr.Textbox(
            label="Negative prompt",
            lines=2,
            placeholder="What to avoid. Needs a CFG scale above 1.",
            elem_id="negative-prompt",
        )
        _add_error(page, "negative_prompt")
        with gr.Row():
            for name, label, (low, high), elem_id in (
                ("num_inference_steps", "Steps", STEPS_RANGE, "steps"),
                ("true_cfg_scale", "CFG scale", CFG_RANGE, "cfg"),
            ):
                hint = f"Default, or {low:g}–{high:g}"
                page.components[name] = _optional_number(label, hint, elem_id)
        _add_error(page, "num_inference_steps")
        _add_error(page, "true_cfg_scale")
        page.components["output_format"] = gr.Radio(
            [(each.upper(), str(each)) for each in OutputFormat],
            value=str(OutputFormat.PNG),
            label="Format",
            elem_id="format",
        )


def _optional_number(label: str, hint: str, name: str, scale: int | None = None) -> Any:
    # a text field: gr.Number shows 0 for None, with a placeholder too
    return gr.Textbox(
        label=label,
        placeholder=hint,
        max_lines=1,
        scale=scale,
        min_width=120,
        html_attributes=gr.InputHTMLAttributes(autocomplete="off"),
        elem_id=name,
    )


def _add_run(page: Layout) -> None:
    with gr.Row(elem_id="run-row"):
        page.components["run"] = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
        page.components["cancel"] = gr.Button(
            "Cancel", variant="stop", elem_id="cancel", min_width=120
        )
    _add_error(page, "run")


def _add_result(page: Layout) -> None:
    page.components["progress"] = gr.HTML("", elem_id="progress")
    gr.HTML(views.EMPTY_RESULT, elem_id="empty-result")
    page.components["compare"] = gr.HTML("", js_on_load=COMPARE_JS, elem_id="compare")
    page.components["outputs"] = gr.HTML("", js_on_load=ACTIONS_JS, elem_id="outputs")


def _add_grid(page: Layout) -> None:
    page.components["vary"] = gr.Radio(
        [("LoRA scale", str(Vary.LORA_SCALE)), ("Seed", str(Vary.SEED))],
        value=str(Vary.LORA_SCALE), label="Vary", elem_id="vary",
    )  # fmt: skip
    page.components["scales"] = gr.Textbox(
        DEFAULT_SCALES, label="Scales of the first LoRA", max_lines=1, elem_id="grid-scales"
    )
    page.components["seeds"] = gr.Slider(
        2, MAX_CELLS, value=6, step=1, label="Seeds, counting up from the one in the form",
        visible=False, elem_id="grid-seeds",
    )  # fmt: skip
    with gr.Row():
        page.components["run_grid"] = gr.Button(
            "Run the grid", variant="primary", elem_id="run-grid"
        )
        page.components["cancel_grid"] = gr.Button(
            "Cancel all", variant="stop", elem_id="cancel-grid"
        )
    _add_error(page, "grid")
    page.components["grid_progress"] = gr.HTML("", elem_id="grid-progress")
    page.components["grid"] = gr.HTML(views.EMPTY_GRID, js_on_load=ACTIONS_JS, elem_id="grid")


def _add_code(page: Layout) -> None:
    page.components["code_note"] = gr.HTML("", elem_id="code-note")
    page.components["curl"] = gr.Code(
        language="shell", label="curl", interactive=False, wrap_lines=True, elem_id="curl"
    )
    page.components["python"] = gr.Code(
        language="python", label="Python", interactive=False, wrap_lines=True, elem_id="python"
    )


def _add_history(page: Layout) -> None:
    gr.HTML('<h2 class="qe-title">History</h2>', elem_id="history-title")
    page.components["notice"] = gr.HTML("", elem_id="notice")
    page.components["history"] = gr.HTML(
        views.EMPTY_HISTORY, js_on_load=ACTIONS_JS, elem_id="history"
    )


def _add_states(page: Layout) -> None:
    for name, storage_key in BROWSER_STATES.items():
        page.components[name] = gr.BrowserState("", storage_key=storage_key, secret="qwen-edit")
    # the running edit, and the one that was followed to its end; likewise for the grid
    for name in ("jobs", "ended", "grid_jobs", "grid_ended"):
        page.components[name] = gr.State([])
    # the form of the running edit, and the image that was just fetched by URL
    page.components["submitted"] = gr.State(None)
    page.components["fetched"] = gr.State(None)
    # how many edits the history shows; 0 is one page
    page.components["shown"] = gr.State(0)
    page.components["timer"] = gr.Timer(2, active=False)
