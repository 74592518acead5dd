"""The tab that remakes a part of a picture: brush over it, say what it is to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from satcascade.data.captions import slug
from satcascade.errors import SatcascadeError, UsageError, one_line
from satcascade.generation.edit_source import EditSource
from satcascade.pipelines.edit import IMAGE_TO_IMAGE_STRENGTH, INPAINTING_STRENGTH
from satcascade.web.backend import Backend
from satcascade.web.controls import StageControls, caption_box, seed_row, whole
from satcascade.web.conversation import JobControls, Parts
from satcascade.web.markup import failure, figure, file_figure, making, status
from satcascade.web.pictures import EditRequest, Making, make_pictures
from satcascade.web.uploads import open_upload, painted_mask

_PART, _WHOLE = "what is painted over", "the whole picture"
_EMPTY = "The edited picture appears here, step by step."
# The canvas is larger than the model's pictures, so that a finger can paint on it.
_CANVAS = 512


def edit_tab(backend: Backend, drawn: gr.Gallery) -> None:
    """Lay the tab out.

    Args:
        backend: the model and its queue.
        drawn: the gallery of the pictures drawn, the newest first.
    """
    source = gr.State(None)
    result = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            with gr.Row(elem_classes="sc-buttons"):
                upload = gr.UploadButton(
                    "Open a picture", file_types=["image"], size="md", elem_id="edit-upload", min_width=130
                )
                take = gr.Button("Take the one drawn last", size="md", elem_id="edit-take", min_width=130)
            editor = gr.ImageEditor(
                type="pil",
                height=420,
                label="Paint here",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(
                    default_size=40, colors=["#ff3bd4"], default_color="#ff3bd4", color_mode="fixed"
                ),
                canvas_size=(_CANVAS, _CANVAS),
                fixed_canvas=True,
                placeholder="Open a picture, or take one that was drawn",
                buttons=[],
                elem_id="edit-editor",
            )
            caption = caption_box("edit")
            what = gr.Radio([_PART, _WHOLE], value=_PART, label="What changes", elem_id="edit-what")
            strength = gr.Slider(
                0,
                1,
                INPAINTING_STRENGTH,
                step=0.05,
                label="Strength",
                info="0 leaves the picture as it is, 1 makes it all new",
                elem_id="edit-strength",
            )
            seed = seed_row("edit")
            with gr.Accordion("Steps, guidance, solver", open=False):
                stages = StageControls(backend, "edit")
        with gr.Column(scale=5, min_width=300):
            controls = JobControls(backend, "edit", "Edit")
            stage = gr.HTML(figure(None, _EMPTY), elem_id="edit-stage", padding=False)
            with gr.Row(elem_classes="sc-buttons"):
                download = gr.DownloadButton(
                    "Download PNG", elem_id="edit-download", interactive=False, size="md", min_width=130
                )
                again = gr.Button(
                    "Edit this one further", elem_id="edit-again", interactive=False, size="md", min_width=130
                )

    def opened(path: str | None, name: str) -> Parts:
        """A picture in the editor, as a file of the model's size."""
        try:
            if path is None:
                raise UsageError("no picture was drawn yet: draw one, or open a file")
            image = open_upload(path, backend.size)
        except SatcascadeError as error:
            return {controls.status: failure(one_line(error))}
        kept = backend.new_folder() / f"{slug(name)}.png"
        image.save(kept)
        return {
            source: str(kept),
            editor: {"background": image.resize((_CANVAS, _CANVAS)), "layers": [], "composite": None},
            controls.status: status("Paint over what is to change"),
        }

    def edit(
        request: gr.Request,
        source: str | None,
        painting: Any,
        caption: str,
        what: str,
        strength: float,
        seed: float,
        *settings: Any,
    ) -> Iterator[Parts]:
        def begin() -> Any:
            if source is None:
                raise UsageError("there is no picture to edit: open one, or take one that was drawn")
            picture, mask = Path(source), None
            if what == _PART:
                mask = backend.new_folder() / "mask.png"
                painted_mask((painting or {}).get("layers") or [], backend.size).save(mask)
            wanted = EditRequest(
                caption,
                whole(seed, "the seed"),
                stages=stages.read(settings),
                source=EditSource(picture, mask, strength=float(strength)),
            )
            return lambda job: make_pictures(backend, [wanted], job)

        def show(news: Making) -> Parts:
            parts: Parts = {controls.status: making(news)}
            if news.progress is not None and news.progress.preview is not None:
                parts[stage] = figure(news.progress.preview, f"{caption}, not finished")
            return parts

        def finish(news: Making) -> Parts:
            picture = news.made[-1]
            return {
                controls.status: status("Edited"),
                stage: file_figure(picture.path, f"Edited picture: {picture.label}"),
                download: gr.update(value=str(picture.path), interactive=True),
                again: gr.update(interactive=True),
                result: str(picture.path),
            }

        yield from controls.converse(request, begin, show, finish)

    opens = [source, editor, controls.status]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    upload.upload(lambda path: opened(path, Path(path).stem), upload, opens, **private)
    take.click(
        lambda pictures: opened(*(pictures[0][0], Path(pictures[0][0]).stem) if pictures else (None, "")),
        drawn,
        opens,
        **private,
    )
    again.click(lambda path: opened(path, "edited"), result, opens, **private)
    what.change(
        lambda what: INPAINTING_STRENGTH if what == _PART else IMAGE_TO_IMAGE_STRENGTH,
        what,
        strength,
        queue=False,
        **private,
    )
    gr.on(
        [controls.start.click, caption.submit],
        edit,
        [source, editor, caption, what, strength, seed, *stages.components],
        [*controls.parts, stage, download, again, result],
        concurrency_limit=None,
        trigger_mode="once",
        **private,
    )
