"""The rows of LoRAs on the page. Imports Gradio, which takes seconds."""

from collections.abc import Callable

import gradio as gr

from pipelines.api.params import LORA_SCALE_RANGE
from server.playground.components import ACTIONS_JS, Layout


def add_loras(page: Layout, add_error: Callable[[Layout, str], None]) -> None:
    """Add three rows, each with a menu, a scale, and what is known about the LoRA."""
    low, high = LORA_SCALE_RANGE
    with gr.Accordion("LoRAs", open=False, elem_id="loras") as page.components["loras"]:
        for number in range(1, 4):
            with gr.Row(visible=number == 1) as row:
                page.components[f"lora_{number}"] = gr.Dropdown(
                    [], value=None, label=f"LoRA {number}", allow_custom_value=True,
                    scale=3, min_width=170, elem_id=f"lora-{number}",
                    info="Choose one, or enter a URL, hub id or civitai:1@2"
                    if number == 1 else None,
                )  # fmt: skip
                page.components[f"scale_{number}"] = gr.Slider(
                    low, high, value=1, step=0.05, label="Scale", scale=2, min_width=130,
                    elem_id=f"scale-{number}",
                )  # fmt: skip
            page.components[f"lora_row_{number}"] = row
            page.components[f"lora_about_{number}"] = gr.HTML(
                "", js_on_load=ACTIONS_JS, elem_id=f"lora-about-{number}"
            )
            add_error(page, f"lora_{number}")
        page.components["refresh"] = gr.Button(
            "Refresh the list", size="sm", elem_id="refresh-loras"
        )
