"""`eventsched node MODULE:NODE`: run the node that a module of the user declares.

Owns: importing the module, draining on a signal. Read next: node/node.py.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from eventsched.cli.options import Keys, Options, command
from eventsched.errors import InvalidMessage
from eventsched.interrupts import ForcedEnd, open_signals

if TYPE_CHECKING:
    from eventsched.client.client import Client
    from eventsched.node.node import Node

Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:NODE", help="Module and name of an eventsched.Node, such as gpu:node."
    ),
]
Name = Annotated[
    str | None, typer.Option("--name", help="Name of the node, instead of the declared name.")
]
EXAMPLE = "name it like workers:node"


@command(is_service=True)
async def node(options: Options, target: Target, name: Name = None, keys: Keys = None) -> int:
    """Run the node of a module; the module is imported from the current folder.

    SIGTERM or Ctrl-C drains the node: it gets no new jobs and finishes those that it has. A second
    signal cancels these jobs and ends the program within 10 s, a third signal ends it at once.
    """
    from eventsched.client.client import connect

    declared = find_node(target)
    if name is not None:
        from eventsched.schema.validation import check_address

        declared.name = check_address("--name", name)
    async with connect(options.url, data=options.data, keys=keys) as es:
        return await _serve(declared, es)


def find_node(target: str) -> Node:
    """Return the Node that `MODULE:NODE` names.

    Raises InvalidMessage, or any error of the module's own code.
    """
    from eventsched.node.node import Node

    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute.isidentifier()):
        raise InvalidMessage.of("node", f"MODULE:NODE expected, got {target!r}", EXAMPLE)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise InvalidMessage.of(
            "node", f"cannot import {module_name}: {error}", "run it in the module's folder"
        ) from error
    value = getattr(module, attribute, None)
    if not isinstance(value, Node):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise InvalidMessage.of(
            "node", f"{attribute} in {module_name} is {kind}, an eventsched.Node expected", EXAMPLE
        )
    return value


async def _serve(declared: Node, es: Client) -> int:
    """Until drained (0), or stopped by a second signal (130 after Ctrl-C, 143 after SIGTERM).

    After that signal the process ends within END_S, whatever its handlers do.
    """
    stop = Stop()
    signals = (signal.SIGINT, signal.SIGTERM)
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            while True:
                await received.get()
                if stop.code:
                    tasks.cancel_scope.cancel()
                declared.drain()

        with open_signals(*signals, also=stop.received) as received:
            tasks.start_soon(listen)
            await declared.run(es)
            tasks.cancel_scope.cancel()
    return stop.code


class Stop:
    """What the signals so far ask for."""

    def __init__(self) -> None:
        self._end = ForcedEnd()
        self._count = 0
        self.code = 0
        """The exit code, from the second signal on."""

    def received(self, number: signal.Signals) -> None:
        """Runs in the signal's handler, so the event loop need not turn for it."""
        self._count += 1
        if self._count == 2:
            self.code = 128 + number
            self._end.soon(self.code)
        elif self._count > 2:
            os._exit(128 + number)
