"""The queue of jobs: one at a time, in order, with news, and ended when told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from satcascade.errors import SatcascadeError, UsageError
from satcascade.web.jobs import Job, JobCancelledError, JobQueue, Waiting


@pytest.fixture
def jobs() -> Iterator[JobQueue]:
    queue = JobQueue(longest=4)
    yield queue
    queue.close()


class Held:
    """Work that runs until it is released or cancelled, and counts its steps."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.released = threading.Event()
        self.steps = 0

    def __call__(self, job: Job) -> str:
        self.began.set()
        while not self.released.wait(0.005):
            job.tell(self.steps)
            self.steps += 1
        return "done"


def in_thread(news: Iterator[Any]) -> tuple[threading.Thread, list[Any]]:
    """Read a job's news beside the test; what it raises is the last of them."""
    read: list[Any] = []

    def run() -> None:
        try:
            read.extend(news)
        except SatcascadeError as error:
            read.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, read


def test_news_and_the_result_are_yielded(jobs):
    def work(job: Job) -> str:
        job.tell("half")
        return "done"

    *news, result = jobs.run("visit", "draw", work)
    # The reader may come too late for the news, which the result replaces.
    assert news in ([], ["half"])
    assert result == "done"
    assert len(jobs) == 0


def test_news_nobody_has_read_are_replaced():
    job = Job("visit", "draw")
    for number in range(3):
        job.tell(number)
    assert job._read(0) == 2
    assert job._read(0) is None


def test_one_job_runs_at_a_time_in_order(jobs):
    first, order = Held(), []
    news = jobs.run("a", "draw", first)
    assert next(news) is not None
    second = jobs.run("b", "draw", lambda job: order.append("b") or "second")
    third = jobs.run("c", "draw", lambda job: order.append("c") or "third")
    assert next(second) == Waiting(1)
    assert next(third) == Waiting(2)
    assert order == []
    first.released.set()
    assert list(news)[-1] == "done"
    assert list(third)[-1] == "third"
    assert list(second)[-1] == "second"
    assert order == ["b", "c"]


def test_cancel_ends_a_job_at_its_next_step(jobs):
    held = Held()
    thread, read = in_thread(jobs.run("a", "draw", held))
    assert held.began.wait(10)
    assert jobs.cancel("a") == 1
    thread.join(10)
    assert isinstance(read[-1], JobCancelledError)
    # The thread is free: the next job gets it.
    assert list(jobs.run("a", "draw", lambda job: held.steps))[-1] == held.steps


def test_a_job_cancelled_while_it_waits_never_begins(jobs):
    held, begun = Held(), []
    news = jobs.run("a", "draw", held)
    next(news)
    waiting = jobs.run("b", "draw", begun.append)
    assert next(waiting) == Waiting(1)
    jobs.cancel("b")
    with pytest.raises(JobCancelledError):
        list(waiting)
    held.released.set()
    assert list(news)[-1] == "done"
    assert begun == []
    assert len(jobs) == 0


def test_cancel_leaves_other_visits_and_tabs_alone(jobs):
    held = Held()
    thread, read = in_thread(jobs.run("a", "draw", held))
    assert held.began.wait(10)
    assert jobs.cancel("b") == 0
    assert jobs.cancel("a", "compare") == 0
    held.released.set()
    thread.join(10)
    assert read[-1] == "done"


def test_a_page_that_leaves_cancels_its_job(jobs):
    held = Held()
    news = jobs.run("a", "draw", held)
    next(news)
    news.close()
    assert list(jobs.run("b", "draw", lambda job: "free"))[-1] == "free"


def test_what_the_work_refuses_reaches_the_page(jobs):
    def work(job: Job) -> None:
        raise UsageError("no such thing")

    with pytest.raises(UsageError, match="no such thing"):
        list(jobs.run("a", "draw", work))
    assert len(jobs) == 0


def test_too_many_jobs_are_refused(jobs):
    held = Held()
    running = [jobs.run(str(number), "draw", held) for number in range(4)]
    for news in running:
        next(news)
    with pytest.raises(SatcascadeError, match="4 jobs are waiting"):
        next(jobs.run("late", "draw", held))
    held.released.set()
    assert [list(news)[-1] for news in running] == ["done"] * 4


def test_closing_ends_what_runs():
    jobs, held = JobQueue(), Held()
    thread, read = in_thread(jobs.run("a", "draw", held))
    assert held.began.wait(10)
    jobs.close()
    thread.join(10)
    assert isinstance(read[-1], JobCancelledError)
