"""A node with a handler that does nothing, so that only the scheduler is measured.

    EVENTSCHED_URL=URL python -m benchmarks.micro.noop NAME SLOTS

Owns: the handler. Its result's source text is the time of its start, in ns since the epoch.
Never does: measure. Read next: jobs.py, latency.py.
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
    """Return a node for the language pair en:es."""
    node = Node(name, sources=["en"], targets=["es"], slots=slots, version="bench")

    @node.job
    async def nothing(_: Job) -> Result:
        return Result(source_text=str(time.time_ns()))

    return node


async def serve(url: str, node: Node) -> None:
    """Run the node until a signal."""
    async with connect(url) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(node.run, es)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            async for _ in signals:
                tasks.cancel_scope.cancel()


if __name__ == "__main__":
    name_argument, slots_argument = sys.argv[1:]
    noop_node = make(name_argument, int(slots_argument))
    run_async(lambda: serve(os.environ["EVENTSCHED_URL"], noop_node))
