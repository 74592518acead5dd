"""The tab that shows one caption over guidance scales and seeds, as a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import gradio as gr

from satcascade.config.stage_settings import StageSettings
from satcascade.errors import UsageError
from satcascade.web.backend import Backend
from satcascade.web.contact_sheet import write_sheet
from satcascade.web.controls import StageControls, caption_box, examples_of
from satcascade.web.conversation import JobControls, Parts
from satcascade.web.markup import figure, grid, making, status
from satcascade.web.pictures import DrawRequest, Making, Picture, Stages, bundle, make_pictures

MOST_CELLS = 24


def compare_tab(backend: Backend) -> None:
    """Lay the tab out."""
    own = backend.pipeline.sampler("base").guidance.scale
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            caption = caption_box("compare")
            examples_of(caption)
            guidance = gr.Textbox(
                f"1, {own:g}, {2 * own:g}",
                label="Guidance scales",
                info="A column each; numbers with commas",
                elem_id="compare-guidance",
            )
            seeds = gr.Textbox(
                "0, 1",
                label="Seeds",
                info="A row each; whole numbers with commas",
                elem_id="compare-seeds",
            )
            with gr.Accordion("Steps, solver", open=False):
                stages = StageControls(backend, "compare", guidance=False)
        with gr.Column(scale=6, min_width=300):
            controls = JobControls(backend, "compare", "Compare")
            stage = gr.HTML(
                figure(None, "A row for each seed and a column for each guidance scale appear here."),
                elem_id="compare-stage",
                padding=False,
            )
            download = gr.DownloadButton(
                "Download grid and PNGs", elem_id="compare-download", interactive=False, size="md"
            )

    def compare(
        request: gr.Request, caption: str, guidance: str, seeds: str, *settings: Any
    ) -> Iterator[Parts]:
        scales: tuple[float, ...] = ()
        rows: tuple[int, ...] = ()

        def begin() -> Any:
            nonlocal scales, rows
            scales, rows = _numbers("guidance scales", guidance, float), _numbers("seeds", seeds, int)
            if len(scales) * len(rows) > MOST_CELLS:
                raise UsageError(
                    f"{len(scales)} guidance scales and {len(rows)} seeds are {len(scales) * len(rows)} "
                    f"pictures: at most {MOST_CELLS} are possible"
                )
            chosen = stages.read(settings)
            requests = [
                DrawRequest(caption, seed, 1, _guided(chosen, scale)) for seed, scale in product(rows, scales)
            ]
            return lambda job: make_pictures(backend, requests, job)

        def show(news: Making) -> Parts:
            parts: Parts = {controls.status: making(news)}
            if news.progress is None or news.progress.step == 1:
                parts[stage] = grid(_cells(news, len(scales)), *_labels(scales, rows), caption)
            return parts

        def finish(news: Making) -> Parts:
            sheet = news.made[0].path.with_name("grid.png")
            write_sheet(sheet, _cells(news, len(scales)), *_labels(scales, rows), caption)
            return {
                controls.status: status(f"{len(news.made)} pictures drawn"),
                download: gr.update(
                    value=str(bundle([Picture(sheet, "grid"), *news.made], "comparison")), interactive=True
                ),
            }

        yield from controls.converse(request, begin, show, finish)

    gr.on(
        [controls.start.click, caption.submit],
        compare,
        [caption, guidance, seeds, *stages.components],
        [*controls.parts, stage, download],
        show_progress="hidden",
        concurrency_limit=None,
        trigger_mode="once",
        api_visibility="private",
    )


def _numbers(what: str, text: str, kind: type[Any]) -> tuple[Any, ...]:
    """The numbers of a list with commas, each once.

    Raises:
        UsageError: there is none, or something in it is no such number.
    """
    try:
        found = tuple(dict.fromkeys(kind(part) for part in text.split(",") if part.strip()))
    except ValueError as error:
        raise UsageError(f"the {what} '{text}' are not possible: give numbers with commas") from error
    if not found:
        raise UsageError(f"the {what} are missing: give numbers with commas")
    return found


def _guided(stages: Stages, scale: float) -> Stages:
    base = stages["base"]
    return {**stages, "base": StageSettings(base.steps, scale, base.scheduler)}


def _labels(scales: Sequence[float], rows: Sequence[int]) -> tuple[list[str], list[str]]:
    return [f"guidance {scale:g}" for scale in scales], [f"seed {seed}" for seed in rows]


def _cells(news: Making, columns: int) -> list[list[Path | None]]:
    paths: list[Path | None] = [picture.path for picture in news.made]
    paths += [None] * (news.total - len(paths))
    return [paths[start : start + columns] for start in range(0, news.total, columns)]
