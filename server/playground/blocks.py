"""Builds the page: components, events, theme. Imports Gradio, which takes seconds."""

from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from server.playground.context import PageContext
from server.playground.form import random_seed
from server.playground.form_events import FormEvents
from server.playground.grid_events import GridEvents
from server.playground.history_events import HistoryEvents
from server.playground.images import CACHE_AGE_S, ImageStore
from server.playground.layout import build_layout
from server.playground.lora_events import LoraEvents
from server.playground.page_state import PageState
from server.playground.run_events import RunEvents
from server.playground.runner import Runner

TITLE = "qwen-edit"
CACHE_SWEEP_S = 3600
# Each page that follows an edit occupies one until the edit ends.
MAX_EVENTS = 10_000
_HERE = Path(__file__).parent


def build_app(context: PageContext) -> FastAPI:
    """The page as a separate application, to which Gradio's paths are forwarded."""
    processing_utils.async_ssrf_protected_download = _refuse_download
    blocks = _build_blocks(context)
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        allowed_paths=[str(folder) for folder in context.shown_folders],
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
    # only `launch` sets it; without it a browser may name any file of this machine as its upload
    blocks.has_launched = True
    return app


def _build_blocks(context: PageContext) -> Any:
    images = ImageStore(
        context.uploads,
        context.outputs,
        context.fetcher,
        context.decoders,
        context.cache,
        fetch_timeout_s=context.settings.fetch_timeout_s,
        keep_s=context.settings.keep_outputs_h * 3600,
    )
    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=(CACHE_SWEEP_S, CACHE_AGE_S)
    ) as blocks:
        sizes = context.choice.good_sizes
        page = build_layout(sizes)
        runner = Runner(context.service, images, random_seed, sizes)
        page_state = PageState(page, context, runner, images)
        FormEvents(page_state).wire(blocks)
        LoraEvents(page_state).wire()
        RunEvents(page_state).wire(blocks)
        GridEvents(page_state).wire(blocks)
        HistoryEvents(page_state).wire()
    blocks.max_threads = MAX_EVENTS
    blocks.queue(default_concurrency_limit=None, api_open=False)
    return blocks


def _theme() -> Any:
    # system fonts: Gradio's own come from another host
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


async def _refuse_download(url: str, *_: Any, **__: Any) -> str:
    """Replace Gradio's download: only the server's fetcher knows which addresses are allowed."""
    raise ValueError(f"the page downloads nothing; {url[:80]} was not tried")
