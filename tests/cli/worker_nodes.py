"""Nodes with handlers in processes, for `test_worker_signals`."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import structlog

import eventsched

waits = eventsched.Node("waits", sources=["en"], targets=["es"], slots=2)


@waits.job(processes=True)
def wait(_: eventsched.BlockingJob) -> eventsched.Result:
    """Log the process id, then wait for the file that RELEASE names."""
    structlog.get_logger().info("handler started", worker=os.getpid())
    logging.getLogger("library").warning("its library warns")
    sys.stdout.write("printed by the handler\n")
    while not Path(os.environ["RELEASE"]).exists():
        time.sleep(0.01)  # sleeps: work in small steps
    return eventsched.Result(text="finished")
