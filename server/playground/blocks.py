"""Builds the page: its components, their events, its looks. Imports Gradio, which takes seconds."""

import base64
import html
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from server.playground import examples
from server.playground.context import PageContext
from server.playground.form import random_seed
from server.playground.form_events import FormEvents
from server.playground.grid_events import GridEvents
from server.playground.history_events import HistoryEvents
from server.playground.images import CACHE_AGE_S, ImageShelf
from server.playground.layout import build_layout
from server.playground.page_state import PageState
from server.playground.run_events import RunEvents
from server.playground.runner import Runner

TITLE = "qwen-edit"
CACHE_SWEEP_S = 3600
MAX_EVENTS = 10_000
_HERE = Path(__file__).parent


def build_app(parts: PageContext) -> FastAPI:
    """The page as an application of its own, that Gradio's paths are forwarded to."""
    processing_utils.async_ssrf_protected_download = _fetch_nothing
    shelf = ImageShelf(
        parts.uploads,
        parts.outputs,
        parts.fetcher,
        parts.cache,
        fetch_timeout_s=parts.settings.fetch_timeout_s,
        keep_s=parts.settings.keep_outputs_h * 3600,
    )
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(CACHE_SWEEP_S, CACHE_AGE_S)
    ) as blocks:
        page = build_layout()
        page_state = PageState(page, parts, Runner(parts.service, shelf, random_seed), shelf)
        page["examples"].value = _examples_html()
        FormEvents(page_state).wire(blocks)
        RunEvents(page_state).wire(blocks)
        GridEvents(page_state).wire(blocks)
        HistoryEvents(page_state).wire()
    # an edit that is followed holds one of these until it ends
    blocks.max_threads = MAX_EVENTS
    blocks.queue(default_concurrency_limit=None, api_open=False)
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        allowed_paths=[str(folder) for folder in parts.shown_folders],
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        theme=_theme(),
        css=(_HERE / "page.css").read_text(),
        head=f"<script>{(_HERE / 'page.js').read_text()}</script>",
    )
    # `launch` alone sets it, and without it a browser may name any file of this machine as its own
    blocks.has_launched = True
    return app


def _theme() -> Any:
    # fonts of the machine: Gradio's own would be asked of another host
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


async def _fetch_nothing(url: str, *_: Any, **__: Any) -> str:
    """Stands for Gradio's own download: the server's fetcher alone knows what may be fetched."""
    raise ValueError(f"the page fetches nothing by itself; {url[:80]} was not tried")


def _examples_html() -> str:
    buttons = []
    for example in examples.EXAMPLES:
        images = "".join(_inline_image(path) for path in example.paths)
        prompt = html.escape(example.prompt)
        buttons.append(
            f'<button type="button" class="qe-example" data-action="example" '
            f'data-value="{example.name}">{images}<span>{prompt}</span></button>'
        )
    return f'<p class="qe-label">Or try one</p><div class="qe-examples">{"".join(buttons)}</div>'


def _inline_image(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="">'
