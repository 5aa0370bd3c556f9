"""`eventsched node MODULE:NODE`: serve as a node that the user's own module declares."""

from __future__ import annotations

import sys
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
    typer.Argument(metavar="MODULE:NODE", help="Where the eventsched.Node is, such as gpu:node."),
]
Name = Annotated[
    str | None, typer.Option("--name", help="Serve under this name, not the declared one.")
]
EXAMPLE = "name it like workers:node"


@command(is_service=True)
async def node(options: Options, target: Target, name: Name = None, keys: Keys = None) -> int:
    """Serve with the node of a module, found as from the present folder.

    SIGTERM or Ctrl-C drains: no new work, what is in hand is finished. A second one cancels what is
    in hand and ends the program within 10 s, a third one at once.
    """
    from eventsched.client.client import connect

    declared = find_node(target)
    if name is not None:
        from eventsched.schema.validation import check_address

        declared.name = check_address("--name", name)
    async with connect(options.url, data=options.data, keys=keys) as es:
        return await drain_on_signal(lambda: declared.run(es), declared.drain)


def find_node(target: str) -> Node:
    """The Node that `MODULE:NODE` names. Raises InvalidMessage; what the module raises."""
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
            "node", f"cannot import {module_name}: {error}", "run it in the folder that holds it"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Node):
        what = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise InvalidMessage.of(
            "node", f"{attribute} in {module_name} is {what}, an eventsched.Node expected", EXAMPLE
        )
    return found
