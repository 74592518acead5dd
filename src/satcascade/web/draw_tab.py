"""The tab that draws pictures of a caption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from satcascade.web.backend import Backend
from satcascade.web.controls import StageControls, caption_box, examples_of, seed_row, whole
from satcascade.web.conversation import JobControls, Parts
from satcascade.web.markup import figure, file_figure, making, status
from satcascade.web.pictures import MOST_PICTURES, DrawRequest, Making, bundle, make_pictures

# Pictures of earlier draws that stay in the gallery.
_KEPT = 48


def draw_tab(backend: Backend) -> gr.Gallery:
    """Lay the tab out; its gallery is what other tabs take pictures from."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            caption = caption_box("draw")
            examples_of(caption)
            seed = seed_row("draw")
            number = gr.Slider(1, MOST_PICTURES, 1, step=1, label="How many", elem_id="draw-number")
            with gr.Accordion("Steps, guidance, solver", open=False, elem_id="draw-more"):
                stages = StageControls(backend, "draw")
        with gr.Column(scale=5, min_width=300):
            controls = JobControls(backend, "draw", "Draw")
            stage = gr.HTML(
                figure(None, "The picture appears here, step by step."), elem_id="draw-stage", padding=False
            )
            download = gr.DownloadButton(
                "Download PNG", elem_id="draw-download", interactive=False, size="md"
            )
            gallery = gr.Gallery(
                label="Pictures of this visit",
                columns=4,
                fit_columns=False,
                height="auto",
                object_fit="cover",
                buttons=["download", "fullscreen"],
                interactive=False,
                elem_id="draw-gallery",
            )

    def draw(
        request: gr.Request, caption: str, seed: float, number: float, earlier: Any, *settings: Any
    ) -> Iterator[Parts]:
        def begin() -> Any:
            wanted = DrawRequest(
                caption,
                whole(seed, "the seed"),
                whole(number, "the number of pictures"),
                stages.read(settings),
            )
            return lambda job: make_pictures(backend, [wanted], job)

        def show(news: Making) -> Parts:
            parts: Parts = {controls.status: making(news)}
            if news.progress is None:
                parts[stage] = file_figure(news.made[-1].path, news.made[-1].label)
                parts[gallery] = _newest_first(news, earlier)
            elif news.progress.preview is not None:
                parts[stage] = figure(news.progress.preview, f"{caption}, not finished")
            return parts

        def finish(news: Making) -> Parts:
            many = len(news.made) > 1
            return {
                controls.status: status(f"{len(news.made)} pictures drawn" if many else "Drawn"),
                download: gr.update(
                    value=str(bundle(news.made, "pictures")),
                    label=f"Download {len(news.made)} PNGs" if many else "Download PNG",
                    interactive=True,
                ),
            }

        yield from controls.converse(request, begin, show, finish)

    gr.on(
        [controls.start.click, caption.submit],
        draw,
        [caption, seed, number, gallery, *stages.components],
        [*controls.parts, stage, gallery, download],
        show_progress="hidden",
        concurrency_limit=None,
        trigger_mode="once",
        api_visibility="private",
    )
    return gallery


def _newest_first(news: Making, earlier: Any) -> list[tuple[str, str]]:
    made = [(str(picture.path), picture.label) for picture in reversed(news.made)]
    return [*made, *((str(path), label) for path, label in earlier or [])][:_KEPT]
