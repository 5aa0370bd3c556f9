"""One simulated node of a load test: a process of its own that uses the node library.

    EVENTSCHED_URL=URL python -m eventsched.loadtest.worker NAME SLOTS LANGS RTF SPEED

Owns: a handler that takes `rtf` times the length of the audio, divided by `speed`, and returns its
start time in ms as the source text, so that the replay can measure the time of dispatch.
Must not: process speech.
Read next: replay.py.
"""

from __future__ import annotations

import os
import sys
import time

import anyio

from eventsched.client.client import connect
from eventsched.client.results import Result
from eventsched.interrupts import drain_on_signal
from eventsched.node.job import Job
from eventsched.node.node import Node


def make_node(name: str, slots: int, langs: list[str], rtf: float, speed: float) -> Node:
    """Return a node that simulates jobs from English to `langs`.

    A job lasts its audio's duration * rtf / speed.
    """
    node = Node(name, sources=["en"], targets=langs, slots=slots, version="loadtest")

    @node.job
    async def simulate(job: Job) -> Result:
        started_ms = time.time() * 1000
        await job.audio()
        await anyio.sleep(job.ms / 1000 * rtf / speed)
        return Result(text=job.target, source_text=f"{started_ms:.3f}")

    return node


async def _main(*arguments: str) -> int:
    name, slots, langs, rtf, speed = arguments
    node = make_node(name, int(slots), langs.split(","), float(rtf), float(speed))
    async with connect(os.environ["EVENTSCHED_URL"]) as es:
        sys.stdout.write(f"ready: {name}\n")
        sys.stdout.flush()
        return await drain_on_signal(lambda: node.run(es), lambda: node.drain(within_s=5))


if __name__ == "__main__":
    sys.exit(anyio.run(_main, *sys.argv[1:]))
