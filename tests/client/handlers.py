"""Handlers that a worker process can import."""

import os
import time
from pathlib import Path

import eventsched


def in_process(job: eventsched.BlockingJob) -> eventsched.Result:
    """Where it ran and what it was given."""
    return eventsched.Result(text=f"{os.getpid()} {len(job.audio())}")


def for_ever(job: eventsched.BlockingJob) -> eventsched.Result:
    """Names its process in the file that FOR_EVER_PID names, then keeps it busy."""
    Path(os.environ["FOR_EVER_PID"]).write_text(str(os.getpid()))
    while True:
        time.sleep(60)  # sleeps: work that no cancel ends


def busy(job: eventsched.BlockingJob) -> eventsched.Result:
    raise eventsched.JobError("GPU_BUSY", retry_in_ms=700)


def lacking(job: eventsched.BlockingJob) -> eventsched.Result:
    raise eventsched.JobError("GPU_LOST", retryable=True)
