"""The tab that shows what ``satcascade evaluate`` measured, as ``satcascade report`` does."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from satcascade.errors import SatcascadeError, one_line
from satcascade.web.markup import failure, figure, status
from satcascade.web.reports import find_reports, report_page


def report_tab(root: Path) -> None:
    """Lay the tab out, for the reports under ``root``."""
    with gr.Row(equal_height=False):
        names = gr.Dropdown(
            find_reports(root),
            value=[],
            multiselect=True,
            label="Reports",
            info=f"Folders of 'satcascade evaluate' under {root}; the first is the main one",
            elem_id="report-names",
            scale=4,
        )
        with gr.Column(scale=1, min_width=150):
            show = gr.Button("Open", variant="primary", elem_id="report-open")
            look = gr.Button("Look again", elem_id="report-look", size="md")
    line = gr.HTML(status(), elem_id="report-status", padding=False)
    page = gr.HTML(figure(None, "The report appears here."), elem_id="report-page", padding=False)

    def open_reports(chosen: list[str]) -> tuple[str, str]:
        try:
            # Sandboxed: nothing in a report may run, or reach the page around it.
            inner = escape(report_page(root, chosen), quote=True)
        except SatcascadeError as error:
            return failure(one_line(error)), figure(None, "The report appears here.")
        return status(), f'<iframe class="sc-report" title="Report" sandbox="" srcdoc="{inner}"></iframe>'

    show.click(open_reports, names, [line, page], api_visibility="private")
    look.click(lambda: gr.update(choices=find_reports(root)), None, names, api_visibility="private")
