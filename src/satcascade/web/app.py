"""The page: its tabs, around one model."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from satcascade.generation.provenance import NOTICE
from satcascade.web.backend import KEPT_SECONDS, Backend
from satcascade.web.compare_tab import compare_tab
from satcascade.web.draw_tab import draw_tab
from satcascade.web.edit_tab import edit_tab
from satcascade.web.report_tab import report_tab
from satcascade.web.scene_tab import scene_tab

# Seconds after which Gradio looks for files to delete.
_CLEANING = 600


def build(backend: Backend, reports: Path) -> gr.Blocks:
    """The page of a model.

    Args:
        backend: the model and the queue of its jobs.
        reports: the folder under which reports are found.
    """
    with gr.Blocks(
        title="satcascade", analytics_enabled=False, delete_cache=(_CLEANING, KEPT_SECONDS)
    ) as page:
        gr.HTML(
            f"<h1>satcascade</h1><p>Satellite images of captions, by the model {backend.pipeline.name}. "
            f"Each picture is a {NOTICE}.</p>",
            elem_classes="sc-head",
            padding=False,
        )
        with gr.Tab("Draw", id="draw"):
            drawn = draw_tab(backend)
        with gr.Tab("Edit", id="edit"):
            edit_tab(backend, drawn)
        with gr.Tab("Scene", id="scene"):
            scene_tab(backend)
        with gr.Tab("Compare", id="compare"):
            compare_tab(backend)
        with gr.Tab("Report", id="report"):
            report_tab(reports)

        def leave(request: gr.Request) -> None:
            backend.jobs.cancel(str(request.session_hash))

        page.unload(leave)
    return page
