"""`eventsched node MODULE:NODE`: run the node that a module of the user declares.

Owns: importing the module. Read next: node/node.py.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.options import Keys, Options, command
from eventsched.errors import InvalidMessage
from eventsched.logs import get_logger

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
log = get_logger("eventsched.cli.node")


@command(is_service=True)
async def node(options: Options, target: Target, name: Name = None, keys: Keys = None) -> int:
    """Run the node of a module; the module is imported from the current folder.

    SIGTERM or Ctrl-C drains the node: it gets no new jobs and finishes those that it has. A second
    signal cancels these jobs and ends the program within 10 s, a third signal ends it at once. The
    command waits for a server that is away. A drain does not wait for it longer than 5 s.
    """
    declared = find_node(target)
    if name is not None:
        from eventsched.schema.validation import check_address

        declared.name = check_address("--name", name)
    return await declared.serve(options.url, data=options.data, keys=keys)


def find_node(target: str) -> Node:
    """Return the Node that `MODULE:NODE` names.

    Raises InvalidMessage; an error of the module's own code is named in one line, with its place.
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
    except (Exception, SystemExit) as error:
        raise _not_imported(module_name, error) from error
    value = getattr(module, attribute, None)
    if not isinstance(value, Node):
        kind = "missing" if value is None else f"a {type(value).__name__}"
        raise InvalidMessage.of(
            "node", f"{attribute} in {module_name} is {kind}, an eventsched.Node expected", EXAMPLE
        )
    return value


def _not_imported(module_name: str, error: BaseException) -> InvalidMessage:
    """Return the error for a module whose import raised `error`; -v logs its traceback."""
    from eventsched.node.cause import cause_of

    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and (module_name + ".").startswith(missing + "."):
        return InvalidMessage.of(
            "node", f"cannot import {module_name}: {error}", "run it in the module's folder"
        )
    log.debug("module not imported", module=module_name, exc_info=error)
    remedy = "install the package" if missing is not None else "mend the module"
    return InvalidMessage.of(
        "node", f"cannot import {module_name}: {cause_of(error)}", f"{remedy}; -v shows more"
    )
