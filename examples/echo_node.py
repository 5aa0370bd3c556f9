"""A node that says how much it heard: the smallest handler that reads its audio.

eventsched node examples.echo_node:node
"""

from __future__ import annotations

import os

import eventsched

node = eventsched.Node(
    os.environ.get("NODE_NAME", "echo-1"), sources=["en"], targets=["en", "es"], slots=4
)


@node.job
async def echo(job: eventsched.Job) -> eventsched.Result:
    """Its result names the length of what it got, and how much was said before."""
    audio = await job.audio()
    heard = f"{len(audio)} bytes in {job.source}"
    return eventsched.Result(source_text=heard, text=f"{heard}, after {len(job.context)} others")
