"""A node that returns the length of the audio: the smallest handler that reads audio.

eventsched node eventsched.examples.echo_node:node
"""

from __future__ import annotations

import os

import eventsched

node = eventsched.Node(
    os.environ.get("NODE_NAME", "echo-1"), sources=["en"], targets=["en", "es"], slots=4
)


@node.job
async def echo(job: eventsched.Job) -> eventsched.Result:
    """Return the length of the audio and the number of earlier results in the context."""
    audio = await job.audio()
    length = f"{len(audio)} bytes in {job.source}"
    return eventsched.Result(source_text=length, text=f"{length}, after {len(job.context)} others")
