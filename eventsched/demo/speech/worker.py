"""The speech node in a process of its own, warm before it registers.

    EVENTSCHED_URL=URL python -m eventsched.demo.speech.worker NAME

Owns: the life of that process: it says one line once it has a server, registers once its model is
loaded, and SIGTERM or SIGINT drains it, in a bounded time whether or not the server is still there.
Never does: handling (nodes.py). Read next: demo/run.py, which starts it.
"""

from __future__ import annotations

import os
import signal
import sys

import anyio

from eventsched.client.client import connect
from eventsched.demo.speech.nodes import make_node
from eventsched.logs import configure_logs

DRAIN_S = 5.0
MARGIN_S = 2.0


async def serve(url: str, name: str) -> None:
    """Serve until a signal, then finish what is in hand."""
    node = make_node(name)

    async def drain_on_signal() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                node.drain(within_s=DRAIN_S)
                tasks.cancel_scope.deadline = anyio.current_time() + DRAIN_S + MARGIN_S

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain_on_signal)
        async with connect(url) as es:
            sys.stdout.write(f"ready: {name}\n")
            sys.stdout.flush()
            await node.run(es)
        tasks.cancel_scope.cancel()


def main() -> None:
    configure_logs(0, quiet=True, is_service=True)
    (name,) = sys.argv[1:]
    anyio.run(serve, os.environ["EVENTSCHED_URL"], name)


if __name__ == "__main__":
    main()
