"""A job and the page that asked for it: news become parts of the page, errors become a line in it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from satcascade.errors import SatcascadeError, one_line
from satcascade.web.backend import Backend
from satcascade.web.jobs import Job, JobCancelledError, Waiting
from satcascade.web.markup import failure, status, waiting

Parts = dict[Any, Any]


class JobControls:
    """The button that starts a job, the one that cancels it, and the line that says how it goes.

    Args:
        backend: whose jobs they are.
        tab: their name.
        start: what the first button says.
    """

    def __init__(self, backend: Backend, tab: str, start: str):
        self._backend = backend
        self._tab = tab
        with gr.Row(elem_classes="sc-buttons"):
            self.start = gr.Button(start, variant="primary", elem_id=f"{tab}-start", scale=3)
            self.cancel = gr.Button(
                "Cancel", variant="stop", elem_id=f"{tab}-cancel", interactive=False, scale=1, min_width=90
            )
        self.status = gr.HTML(status(), elem_id=f"{tab}-status", padding=False)
        self.cancel.click(self._cancel, None, None, queue=False, api_visibility="private")

    @property
    def parts(self) -> list[Any]:
        """The components that :meth:`converse` changes."""
        return [self.start, self.cancel, self.status]

    def converse(
        self,
        request: gr.Request,
        begin: Callable[[], Callable[[Job], Any]],
        show: Callable[[Any], Parts],
        finish: Callable[[Any], Parts],
    ) -> Iterator[Parts]:
        """Do a job, and yield what changes in the page.

        Args:
            request: of the page.
            begin: checks what was asked for, and returns the work.
            show: the parts of the page that news change.
            finish: those that the result changes.
        """
        end = failure("nothing was made")
        try:
            work = begin()
            yield self._busy(status("Starting"))
            last: Any = None
            for news in self._backend.jobs.run(str(request.session_hash), self._tab, work):
                last = news
                yield {self.status: waiting(news)} if isinstance(news, Waiting) else show(news)
            parts = finish(last)
            end = parts.pop(self.status, status("Done"))
            yield parts
        except JobCancelledError:
            end = status("Cancelled")
        except SatcascadeError as error:
            end = failure(one_line(error))
        except Exception as error:  # whatever it is, the page says it and stays usable
            traceback.print_exc()
            end = failure(f"unexpected {type(error).__name__}: {one_line(error)}")
        yield self._idle(end)

    def _cancel(self, request: gr.Request) -> None:
        self._backend.jobs.cancel(str(request.session_hash), self._tab)

    def _busy(self, line: str) -> Parts:
        return {
            self.start: gr.update(interactive=False),
            self.cancel: gr.update(interactive=True),
            self.status: line,
        }

    def _idle(self, line: str) -> Parts:
        return {
            self.start: gr.update(interactive=True),
            self.cancel: gr.update(interactive=False),
            self.status: line,
        }
