"""One simulated node of a replay: a real process with the real node library.

    EVENTSCHED_URL=URL python -m eventsched.loadtest.worker NAME SLOTS LANGS RTF SPEED

Owns: holding each job for rtf times its audio, divided by speed; saying when its handler started
(the result's source text, in ms), so that the replay can tell how long dispatch took.
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


def make(name: str, slots: int, langs: list[str], rtf: float, speed: float) -> Node:
    """A node that serves every pair of a replay."""
    node = Node(name, sources=["en"], targets=langs, slots=slots, version="loadtest")

    @node.job
    async def hold(job: Job) -> Result:
        started_ms = time.time() * 1000
        await job.audio()
        await anyio.sleep(job.ms / 1000 * rtf / speed)
        return Result(text=job.target, source_text=f"{started_ms:.3f}")

    return node


async def _main(*arguments: str) -> int:
    name, slots, langs, rtf, speed = arguments
    node = make(name, int(slots), langs.split(","), float(rtf), float(speed))
    async with connect(os.environ["EVENTSCHED_URL"]) as es:
        sys.stdout.write(f"ready: {name}\n")
        sys.stdout.flush()
        return await drain_on_signal(lambda: node.run(es), lambda: node.drain(within_s=5))


if __name__ == "__main__":
    sys.exit(anyio.run(_main, *sys.argv[1:]))
