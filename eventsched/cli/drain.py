"""`eventsched drain NODE`: drain a node from outside, so that its process ends in order.

Owns: the wait for the end of the drain, the printed line. Never does: the drain itself.
Read next: store/operator_commands.py, lua/request_drain.lua.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from eventsched.cli.options import By, Options, Request, Why, act_of, command
from eventsched.errors import NodeUnknown, NotFound

if TYPE_CHECKING:
    from eventsched.store.cell import Store

POLL_S = 0.2
Node = Annotated[str, typer.Argument(metavar="NODE", help="Name or full id of the node.")]
Within = Annotated[
    float,
    typer.Option(
        "--within", metavar="S", min=0.0, max=300.0,
        help="Jobs that the node has not ended within S seconds go to other nodes.",
    ),
]  # fmt: skip
Wait = Annotated[bool, typer.Option("--wait", help="Return when the registration has ended.")]


@command
async def drain(
    options: Options,
    node: Node,
    within: Within = 60.0,
    wait: Wait = False,
    why: Why = "",
    by: By = "",
    request: Request = "",
) -> None:
    """Drain a node: it gets no new jobs and finishes those that it has; then its process ends.

    The node does not register again until its program is started again. A drain may be repeated,
    also with another time. `eventsched status` shows what a draining node still holds.
    """
    from eventsched.cli.output import print_json, print_line
    from eventsched.formatting import duration, plural
    from eventsched.schema.keys import complete, name_of

    act = act_of(why, by, request)
    async with options.connect() as connection:
        full_id = complete(node, connection.cells)
        store = connection.store_of(full_id)
        try:
            drained = await store.request_drain(full_id, act, within_ms=round(within * 1_000))
        except NodeUnknown:
            raise NotFound(f"no node {full_id} is registered") from None
        leases = drained.leases
        if leases and not options.json:
            held = plural(leases, "attempt")
            print_line(f"{full_id}: draining, {held} left, at most {duration(round(within * 1e3))}")
        if wait and leases:
            await _wait(store, name_of(full_id), drained.epoch)
            leases = 0
    if options.json:
        print_json({"node": full_id, "epoch": drained.epoch, "leases": leases})
    elif not leases:
        print_line(f"{full_id}: drained")


async def _wait(store: Store, name: str, epoch: int) -> None:
    """Return when the registration has ended."""
    while True:
        node = await store.read_hash(store.keys.node(name))
        if node.get("epoch") != str(epoch) or node.get("status") == "gone":
            return
        await store.transport.sleep(POLL_S)
