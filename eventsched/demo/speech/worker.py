"""A process with one speech node, which loads its model before it registers.

    EVENTSCHED_URL=URL python -m eventsched.demo.speech.worker NAME

Owns: the life of this process. It prints one line when it is connected, registers once its model is
loaded, and drains at SIGTERM or SIGINT, in bounded time even if the server is away.
Must not: process speech (nodes.py).
Read next: demo/run.py, which starts it.
"""

from __future__ import annotations

import os
import sys

import anyio

from eventsched.client.client import connect
from eventsched.demo.speech.nodes import make_node
from eventsched.interrupts import drain_on_signal
from eventsched.logs import configure_logs

DRAIN_S = 5.0
"""How long running attempts may take after a signal, before other nodes get them."""
MARGIN_S = 2.0
"""How much longer the drain itself may take, if the server does not answer."""


async def serve(url: str, name: str) -> int:
    """Run the node until a signal drains it; return the exit code."""
    node = make_node(name)

    async def run() -> None:
        async with connect(url) as es:
            sys.stdout.write(f"ready: {name}\n")
            sys.stdout.flush()
            await node.run(es)

    return await drain_on_signal(
        run, lambda: node.drain(within_s=DRAIN_S), drain_s_max=DRAIN_S + MARGIN_S
    )


def main() -> None:
    configure_logs(0, quiet=True, is_service=True)
    (name,) = sys.argv[1:]
    sys.exit(anyio.run(serve, os.environ["EVENTSCHED_URL"], name))


if __name__ == "__main__":
    main()
