"""The tab that makes a scene of any size: of a caption, or of captions whose parts are painted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from satcascade.generation.scene_job import SceneSpec
from satcascade.sampling.scene import SceneSettings
from satcascade.web.backend import Backend
from satcascade.web.controls import StageControls, caption_box, examples_of, seed_row, whole
from satcascade.web.conversation import JobControls, Parts
from satcascade.web.markup import figure, file_figure, making, status
from satcascade.web.painted_regions import BRUSHES, painted_regions
from satcascade.web.pictures import LONGEST_CAPTION, Making
from satcascade.web.scenes import check_scene, check_size, make_scene_picture, most_square, sides

_EMPTY = "The scene appears here, step by step."
# The longer side of what is painted on, in pixels, and its colour: all brushes are seen on it.
_CANVAS = 512
_GROUND = "#1f2937"


def scene_tab(backend: Backend) -> None:
    """Lay the tab out."""
    least, most = sides(backend.size)
    usual = 2 * backend.size
    largest = most_square(backend.size)
    with gr.Row(equal_height=False, elem_classes="sc-scene"):
        with gr.Column(scale=4, min_width=300):
            caption = caption_box("scene")
            examples_of(caption)
            with gr.Row():
                width, height = (
                    gr.Number(
                        usual,
                        label=f"{name} in pixels",
                        precision=0,
                        elem_id=f"scene-{name.lower()}",
                        min_width=110,
                    )
                    for name in ("Width", "Height")
                )
            gr.HTML(
                f'<p class="sc-note">Sides from {least} to {most} pixels, and at most as many as '
                f"{largest} x {largest} has. Where a size does not fit the model's windows, a little more is "
                "made and cut off.</p>",
                padding=False,
            )
            wrap = gr.Checkbox(
                False,
                label="A tile that repeats",
                info="Laid side by side, it shows no seam; its size has to fit the windows",
                elem_id="scene-wrap",
            )
            seed = seed_row("scene")
            with gr.Accordion("Captions of parts", open=False, elem_id="scene-parts") as parts_of:
                brush = gr.Radio(
                    [*BRUSHES], value=next(iter(BRUSHES)), label="Paint in", elem_id="scene-brush"
                )
                editor = gr.ImageEditor(
                    type="pil",
                    height=380,
                    label="Paint where each part is",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=_brush(next(iter(BRUSHES))),
                    canvas_size=(_CANVAS, _CANVAS),
                    buttons=[],
                    elem_id="scene-editor",
                )
                parts = [
                    gr.Textbox(
                        "",
                        label=f"Caption of what is {name}",
                        placeholder="Empty where nothing is painted in it",
                        max_length=LONGEST_CAPTION,
                        elem_id=f"scene-{name}",
                        elem_classes=f"sc-brush sc-{name}",
                    )
                    for name in BRUSHES
                ]
            with gr.Accordion("Steps, guidance, solver", open=False, elem_id="scene-more"):
                stages = StageControls(backend, "scene")
        with gr.Column(scale=5, min_width=300):
            controls = JobControls(backend, "scene", "Make the scene")
            stage = gr.HTML(figure(None, _EMPTY), elem_id="scene-stage", padding=False)
            download = gr.DownloadButton(
                "Download PNG", elem_id="scene-download", interactive=False, size="md"
            )

    def make(
        request: gr.Request,
        caption: str,
        width: float,
        height: float,
        wrap: bool,
        seed: float,
        painting: Any,
        *more: Any,
    ) -> Iterator[Parts]:
        shown: Any = None

        def begin() -> Any:
            size = whole(height, "the height"), whole(width, "the width")
            # Before anything is drawn to that size.
            check_size(size, backend.size)
            written = dict(zip(BRUSHES, more, strict=False))
            layers = (painting or {}).get("layers") or []
            spec = SceneSpec(
                painted_regions(caption, written, layers, size),
                size,
                seed=whole(seed, "the seed"),
                scene=SceneSettings(wrap=wrap),
                stages=stages.read(more[len(BRUSHES) :]),
            )
            check_scene(backend, spec)
            return lambda job: make_scene_picture(backend, spec, job)

        def show(news: Making) -> Parts:
            nonlocal shown
            parts: Parts = {controls.status: making(news)}
            preview = None if news.progress is None else news.progress.preview
            if preview is not None and preview is not shown:
                shown = preview
                parts[stage] = figure(preview, f"{caption}, not finished")
            return parts

        def finish(news: Making) -> Parts:
            (picture,) = news.made
            return {
                controls.status: status("Scene drawn"),
                stage: file_figure(picture.path, picture.label),
                download: gr.update(value=str(picture.path), interactive=True),
            }

        yield from controls.converse(request, begin, show, finish)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.on(
        [parts_of.expand, width.blur, width.submit, height.blur, height.submit],
        _canvas,
        [width, height, editor],
        editor,
        # The size that was typed last counts, also where the answer to the one before has not come.
        trigger_mode="always_last",
        **private,
    )
    brush.change(lambda name: gr.update(brush=_brush(name)), brush, editor, queue=False, **private)
    gr.on(
        [controls.start.click, caption.submit],
        make,
        [caption, width, height, wrap, seed, editor, *parts, *stages.components],
        [*controls.parts, stage, download],
        concurrency_limit=None,
        trigger_mode="once",
        **private,
    )


def _brush(name: str) -> gr.Brush:
    """A brush of one colour: which of them it is, is chosen beside the canvas, with the keyboard too."""
    colour = BRUSHES[name]
    return gr.Brush(default_size=60, colors=[colour], default_color=colour, color_mode="fixed")


def _canvas(width: float | None, height: float | None, painting: Any) -> Any:
    """What is painted on, of the shape of the scene; what was painted before is stretched to it."""
    if not width or not height:
        return gr.skip()
    scale = _CANVAS / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    before = (painting or {}).get("background")
    if before is not None and before.size == shape:
        return gr.skip()
    layers = [layer.resize(shape, Image.Resampling.NEAREST) for layer in (painting or {}).get("layers") or []]
    return {"background": Image.new("RGB", shape, _GROUND), "layers": layers, "composite": None}
