"""The page's components and where they stand. Imports Gradio, which takes seconds."""

from typing import Any

import gradio as gr

from pipelines.api.params import CFG_RANGE, LORA_SCALE_RANGE, MAX_OUTPUTS, STEPS_RANGE
from server.job import OutputFormat
from server.playground import views
from server.playground.components import ACTIONS_JS, COMPARE_JS, Layout
from server.playground.examples import EXAMPLES
from server.playground.form import BOUNDS, PRESETS
from server.playground.grid import DEFAULT_SCALES, MAX_CELLS, Vary
from server.playground.problems import PLACES

# What the browser keeps, by component, and its key there: browsers out there hold these keys.
BROWSER_STATES = {
    "last": "qwen-edit-last",
    "last_grid": "qwen-edit-last_grid",
    "draft": "qwen-edit-draft",
}


def build_layout() -> Layout:
    """All components, inside the Blocks that is being built."""
    page = Layout()
    page.parts["head"] = gr.HTML("", elem_id="head")
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=5, min_width=320, elem_id="ask"):
            _add_images(page)
            _add_prompt(page)
            _add_size(page)
            _add_loras(page)
            _add_seed(page)
            _add_run(page)
        with gr.Column(scale=6, min_width=320, elem_id="answer"), gr.Tabs() as page.parts["tabs"]:
            with gr.Tab("Result", id="result"):
                _add_result(page)
            with gr.Tab("Grid", id="grid"):
                _add_grid(page)
            with gr.Tab("As code", id="code") as page.parts["code_tab"]:
                _add_code(page)
    _add_history(page)
    _add_states(page)
    return page


def _add_place(page: Layout, name: str) -> None:
    """Where the sentence about a field stands, when there is one."""
    assert name in PLACES, name
    page.places[name] = gr.HTML("", elem_id=f"error-{name}")


def _add_images(page: Layout) -> None:
    with gr.Row(elem_id="slots"):
        for number in range(1, 4):
            page.parts[f"image_{number}"] = gr.Image(
                label="Image" if number == 1 else f"Image {number}",
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                buttons=["fullscreen"],
                min_width=90,
                height=190,
                placeholder="Drop, paste or choose" if number == 1 else "Add another",
                elem_id=f"image-{number}",
            )
    with gr.Row(elem_id="url-row"):
        page.parts["url"] = gr.Textbox(
            show_label=False,
            label="Image URL",
            placeholder="…or the URL of an image",
            max_lines=1,
            scale=5,
            min_width=120,
            container=False,
            elem_id="image-url",
        )
        page.parts["add_url"] = gr.Button(
            "Add", size="sm", scale=1, min_width=60, elem_id="add-url"
        )
    _add_place(page, "images")
    page.parts["examples"] = gr.HTML("", js_on_load=ACTIONS_JS, elem_id="examples")


def _add_prompt(page: Layout) -> None:
    page.parts["prompt"] = gr.Textbox(
        label="Prompt",
        lines=3,
        max_lines=12,
        placeholder=f"What should change? For example: {EXAMPLES[0].prompt}",
        elem_id="prompt",
    )
    _add_place(page, "prompt")


def _add_size(page: Layout) -> None:
    with gr.Row():
        page.parts["size"] = gr.Dropdown(
            list(PRESETS), value=PRESETS[0][1], label="Size", scale=3, min_width=160,
            elem_id="size",
        )  # fmt: skip
        page.parts["num_outputs"] = gr.Number(
            1, label="Outputs", precision=0, step=1, minimum=1, maximum=MAX_OUTPUTS, scale=1,
            min_width=80, elem_id="outputs-count",
        )  # fmt: skip
    with gr.Row(visible=False) as sides:
        for name in ("width", "height"):
            page.parts[name] = gr.Slider(
                BOUNDS.min_side, BOUNDS.max_side, value=512, step=1, label=name.title(),
                min_width=140, elem_id=name,
            )  # fmt: skip
    page.parts["sides"] = sides
    _add_place(page, "size")
    _add_place(page, "num_outputs")


def _add_loras(page: Layout) -> None:
    low, high = LORA_SCALE_RANGE
    with gr.Accordion("LoRAs", open=False, elem_id="loras") as fold:
        for number in range(1, 4):
            with gr.Row(visible=number == 1, elem_classes="qe-lora") as row:
                page.parts[f"lora_{number}"] = gr.Dropdown(
                    [], value=None, label=f"LoRA {number}", allow_custom_value=True,
                    scale=3, min_width=170, elem_id=f"lora-{number}",
                    info="From the menu, or type a URL or hub id" if number == 1 else None,
                )  # fmt: skip
                page.parts[f"scale_{number}"] = gr.Slider(
                    low, high, value=1, step=0.05, label="Scale", scale=2, min_width=130,
                    elem_id=f"scale-{number}",
                )  # fmt: skip
            page.parts[f"lora_row_{number}"] = row
            _add_place(page, f"lora_{number}")
        page.parts["refresh"] = gr.Button(
            "Look again in weights/loras", size="sm", elem_id="refresh-loras"
        )
    page.parts["lora_fold"] = fold


def _add_seed(page: Layout) -> None:
    with gr.Row(elem_id="seed-row"):
        page.parts["seed"] = _optional_number("Seed", "a random one for each run", "seed", scale=3)
        page.parts["is_seed_locked"] = gr.Checkbox(
            False, label="Lock", scale=1, min_width=90, elem_id="seed-lock"
        )
    _add_place(page, "seed")
    with gr.Accordion("Advanced", open=False, elem_id="advanced") as fold:
        page.parts["negative_prompt"] = gr.Textbox(
            label="Negative prompt",
            lines=2,
            placeholder="What should not be in the image; counts at a CFG scale above 1",
            elem_id="negative-prompt",
        )
        _add_place(page, "negative_prompt")
        with gr.Row():
            for name, label, (low, high), elem_id in (
                ("num_inference_steps", "Steps", STEPS_RANGE, "steps"),
                ("true_cfg_scale", "CFG scale", CFG_RANGE, "cfg"),
            ):
                hint = f"{low:g}–{high:g}; empty: the model's own"
                page.parts[name] = _optional_number(label, hint, elem_id)
        _add_place(page, "num_inference_steps")
        _add_place(page, "true_cfg_scale")
        page.parts["output_format"] = gr.Radio(
            [(each.upper(), str(each)) for each in OutputFormat],
            value=str(OutputFormat.PNG),
            label="Format",
            elem_id="format",
        )
    page.parts["advanced"] = fold


def _optional_number(label: str, hint: str, name: str, scale: int | None = None) -> Any:
    # a field for text: Gradio's for numbers shows 0 where nothing was typed
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
        page.parts["run"] = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
        page.parts["cancel"] = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=120)
    _add_place(page, "run")


def _add_result(page: Layout) -> None:
    page.parts["progress"] = gr.HTML("", elem_id="progress", elem_classes="qe-live")
    gr.HTML(views.EMPTY_RESULT, elem_id="empty")
    # not Gradio's own: that one keeps copies of what was deleted, and no key moves its line
    page.parts["compare"] = gr.HTML("", js_on_load=COMPARE_JS, elem_id="compare")
    page.parts["outputs"] = gr.HTML("", js_on_load=ACTIONS_JS, elem_id="outputs")


def _add_grid(page: Layout) -> None:
    page.parts["vary"] = gr.Radio(
        [("LoRA scale", str(Vary.LORA_SCALE)), ("Seed", str(Vary.SEED))],
        value=str(Vary.LORA_SCALE), label="Vary", elem_id="vary",
    )  # fmt: skip
    page.parts["scales"] = gr.Textbox(
        DEFAULT_SCALES, label="Scales of the first LoRA", max_lines=1, elem_id="grid-scales"
    )
    page.parts["seeds"] = gr.Slider(
        2, MAX_CELLS, value=6, step=1, label="Seeds, from the one on the left on", visible=False,
        elem_id="grid-seeds",
    )  # fmt: skip
    with gr.Row():
        page.parts["run_grid"] = gr.Button("Run the grid", variant="primary", elem_id="run-grid")
        page.parts["cancel_grid"] = gr.Button("Cancel all", variant="stop", elem_id="cancel-grid")
    _add_place(page, "grid")
    page.parts["grid_progress"] = gr.HTML("", elem_id="grid-progress")
    page.parts["grid"] = gr.HTML(views.EMPTY_GRID, js_on_load=ACTIONS_JS, elem_id="grid")


def _add_code(page: Layout) -> None:
    page.parts["code_note"] = gr.HTML("", elem_id="code-note")
    page.parts["curl"] = gr.Code(
        language="shell", label="curl", interactive=False, wrap_lines=True, elem_id="curl"
    )
    page.parts["python"] = gr.Code(
        language="python", label="Python", interactive=False, wrap_lines=True, elem_id="python"
    )


def _add_history(page: Layout) -> None:
    gr.HTML('<h2 class="qe-title">History</h2>', elem_id="history-title")
    page.parts["notice"] = gr.HTML("", elem_id="notice")
    page.parts["history"] = gr.HTML(views.EMPTY_HISTORY, js_on_load=ACTIONS_JS, elem_id="history")


def _add_states(page: Layout) -> None:
    # kept by the browser, so that a reload finds it again: the last edit, the last grid, the fields
    for name, storage_key in BROWSER_STATES.items():
        page.parts[name] = gr.BrowserState("", storage_key=storage_key, secret="qwen-edit")
    # the edit that runs, and that which was followed to its end; so with the grid
    for name in ("jobs", "ended", "grid_jobs", "grid_ended"):
        page.parts[name] = gr.State([])
    # what the running edit was asked with, and the image that a URL has just given
    page.parts["asked"] = gr.State(None)
    page.parts["fetched"] = gr.State(None)
    page.parts["shown"] = gr.State(0)
    page.parts["timer"] = gr.Timer(2, active=False)
