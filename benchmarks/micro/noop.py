"""A node whose handler does nothing: what remains is the scheduler.

    EVENTSCHED_URL=URL python -m benchmarks.micro.noop NAME SLOTS

Owns: telling when each handler started (its result's source text, in ns since the epoch).
Read next: jobs.py, latency.py.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import anyio

from eventsched.client.client import connect
from eventsched.client.results import Result
from eventsched.node.job import Job
from eventsched.node.node import Node
from eventsched.runtime import run_async


def make(name: str, slots: int) -> Node:
    """Serves en:es."""
    node = Node(name, sources=["en"], targets=["es"], slots=slots, version="bench")

    @node.job
    async def nothing(_: Job) -> Result:
        return Result(source_text=str(time.time_ns()))

    return node


async def serve(url: str, node: Node) -> None:
    """Until SIGTERM."""
    async with connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            async for _ in signals:
                tasks.cancel_scope.cancel()


if __name__ == "__main__":
    given_name, given_slots = sys.argv[1:]
    given_node = make(given_name, int(given_slots))
    run_async(lambda: serve(os.environ["EVENTSCHED_URL"], given_node))
