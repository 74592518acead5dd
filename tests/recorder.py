"""A job of the page that keeps what it is told."""

from __future__ import annotations

from satcascade.web.jobs import Job
from satcascade.web.pictures import Making


class Recorder(Job):
    """A job that keeps all of its news, and may cancel itself after some of them."""

    def __init__(self, cancel_after: int | None = None):
        super().__init__("visit", "draw")
        self.news: list[Making] = []
        self._cancel_after = cancel_after

    def tell(self, news: Making) -> None:
        super().tell(news)
        self.news.append(news)
        if len(self.news) == self._cancel_after:
            self.cancel()
