"""`eventsched node MODULE:NODE`: run the node that a module of the user declares.

Owns: importing the module, draining on a signal. Read next: node/node.py.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.options import Keys, Options, command
from eventsched.errors import InvalidMessage
from eventsched.interrupts import drain_on_signal

if TYPE_CHECKING:
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
    signal cancels these jobs and ends the program within 10 s, a third signal ends it at once. The
    command waits for a server that is away. A drain does not wait for it longer than 5 s.
    """
    import anyio

    from eventsched.client.client import Client, running_client
    from eventsched.encryption.keystore import find_key_store

    declared = find_node(target)
    if name is not None:
        from eventsched.schema.validation import check_address

        declared.name = check_address("--name", name)
    connecting = anyio.CancelScope()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            with connecting:
                connection = await stack.enter_async_context(
                    options.connect(create=True, wait=True)
                )
                client = Client(connection.stores, url=connection.url, keys=find_key_store(keys))
            if not connecting.cancelled_caught:
                await declared.run(await stack.enter_async_context(running_client(client)))

    def drain() -> None:
        connecting.cancel()
        declared.drain()

    return await drain_on_signal(main, drain)


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
