"""Handlers and hooks that a worker process can load; their states are of each process."""

from __future__ import annotations

import os

import eventsched

STARTED: list[int] = []
"""Process ids in which the startup hook has run."""
PROCESSES_VARIABLE = "EVENTSCHED_TEST_HOOK_FILE"
"""Names the file in which a hook notes its process."""


def start() -> None:
    STARTED.append(os.getpid())


def note_process() -> None:
    with open(os.environ[PROCESSES_VARIABLE], "a") as file:
        file.write(f"{os.getpid()}\n")


async def start_async() -> None:
    STARTED.append(os.getpid())


def fail_to_start() -> None:
    raise RuntimeError("no GPU\nand more lines")


def end() -> None:
    note_process()


def say_where_it_started(job: eventsched.BlockingJob) -> eventsched.Result:
    return eventsched.Result(text=f"{[os.getpid()] == STARTED}")


def send_and_extend(job: eventsched.BlockingJob) -> eventsched.Result:
    before_ms = job.deadline_ms
    job.partial("ho", source_text="he")
    after_ms = job.extend(200)
    return eventsched.Result(text=f"{after_ms - before_ms > 100_000} {job.deadline_ms == after_ms}")


def lose_the_lease(job: eventsched.BlockingJob) -> eventsched.Result:
    try:
        job.extend(200)
    except eventsched.LeaseLost as error:
        return eventsched.Result(text=error.code)
    return eventsched.Result(text="extended")
