"""One job at a time, in the order in which they came; a job tells how far it is, and ends when it is told to.

The page hands its work to :class:`JobQueue` and reads the news of a job while another thread computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from satcascade.errors import SatcascadeError

# Seconds after which a reader looks again whether the job has ended.
_LOOK_AGAIN = 0.25


class JobCancelledError(SatcascadeError):
    """The job was cancelled; what computes it stops by this."""

    def __init__(self) -> None:
        super().__init__("cancelled")


@dataclass(frozen=True)
class Waiting:
    """News of a job whose turn has not come: how many are before it."""

    before: int


class Job:
    """Work that is waiting, computed, or done.

    Attributes:
        visit: of the page that asked for it.
        tab: of that page.
    """

    def __init__(self, visit: str, tab: str):
        self.visit = visit
        self.tab = tab
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._news: Any = None
        self._ended = False

    @property
    def cancelled(self) -> bool:
        """Whether it was told to end."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Tell the job to end; it does at its next :meth:`check` or :meth:`tell`."""
        self._cancelled.set()
        with self._changed:
            self._changed.notify_all()

    def check(self) -> None:
        """Called by the work, where it can stop.

        Raises:
            JobCancelledError: the job was told to end.
        """
        if self.cancelled:
            raise JobCancelledError

    def tell(self, news: Any) -> None:
        """Called by the work: how far it is. News that nobody has read yet are replaced.

        Raises:
            JobCancelledError: the job was told to end.
        """
        self.check()
        with self._changed:
            self._news = news
            self._changed.notify_all()

    def _read(self, seconds: float) -> Any:
        """The newest news that were not read yet, or None after that time."""
        with self._changed:
            if self._news is None and not (self.cancelled or self._ended):
                self._changed.wait(seconds)
            news, self._news = self._news, None
            return news

    def _end(self, _: Future[Any]) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class JobQueue:
    """Runs jobs one after the other in a thread of its own.

    Args:
        longest: jobs that may wait or run at once; one more is refused.
    """

    def __init__(self, longest: int = 16):
        self._longest = longest
        self._lock = threading.Lock()
        self._jobs: list[Job] = []
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="satcascade-job")

    def run(self, visit: str, tab: str, work: Callable[[Job], Any]) -> Iterator[Any]:
        """Do work when its turn comes, and yield its news until it is done.

        Closing the iterator cancels the job.

        Args:
            visit: of the page that asks for it, for :meth:`cancel`.
            tab: of that page.
            work: given the job; calls its ``tell`` as often as it likes.

        Yields:
            :class:`Waiting` each time the place in the queue changes, then what the work tells, then what it
            returns.

        Raises:
            JobCancelledError: the job was cancelled.
            SatcascadeError: too many jobs are waiting, or the work refused.
        """
        job = Job(visit, tab)
        with self._lock:
            if len(self._jobs) >= self._longest:
                raise SatcascadeError(f"{self._longest} jobs are waiting already: try again in a moment")
            self._jobs.append(job)
        future = self._worker.submit(self._do, job, work)
        future.add_done_callback(job._end)
        before = -1
        try:
            while True:
                news = job._read(_LOOK_AGAIN)
                if news is not None:
                    yield news
                elif future.done() or job.cancelled:
                    break
                elif (now := self._place(job)) != before and now:
                    before = now
                    yield Waiting(now)
            yield self._result(job, future)
        finally:
            job.cancel()
            future.cancel()
            # A job that never began is forgotten here, one that did by the thread that runs it.
            if future.cancelled():
                self._forget(job)

    def cancel(self, visit: str, tab: str | None = None) -> int:
        """Tell all jobs of a visit to end, or those of one tab of it; how many there were."""
        with self._lock:
            jobs = [job for job in self._jobs if job.visit == visit and tab in (None, job.tab)]
        for job in jobs:
            job.cancel()
        return len(jobs)

    def __len__(self) -> int:
        """How many jobs wait or run."""
        with self._lock:
            return len(self._jobs)

    def close(self) -> None:
        """Cancel all jobs, and wait for the one that runs to end."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _do(self, job: Job, work: Callable[[Job], Any]) -> Any:
        try:
            job.check()
            return work(job)
        finally:
            self._forget(job)

    @staticmethod
    def _result(job: Job, future: Future[Any]) -> Any:
        # A job that was cancelled may compute on to the end of its step: nobody waits for that.
        try:
            return future.result(timeout=0 if job.cancelled else None)
        except (CancelledError, FutureTimeoutError) as error:
            raise JobCancelledError from error

    def _place(self, job: Job) -> int:
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0

    def _forget(self, job: Job) -> None:
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
