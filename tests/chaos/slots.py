"""Moving the cell's slot to another primary of a cluster while clients use it.

Owns: both ways: key by key (tests/slot_moves.py), spread over some time, and as one command of the
server (CLUSTER MIGRATESLOTS).
Must not: choose the target or the time (server_faults.py).
"""

from __future__ import annotations

import time
from typing import Any

from eventsched.server.testing import LocalServer
from tests.chaos.commands import call, call_until_accepted, has, wait_long
from tests.chaos.topologies import Cluster
from tests.slot_moves import BATCH_KEYS, KeyMove


def moves_by_server(server: LocalServer) -> bool:
    """Whether the server itself moves slots."""
    return has(server, "cluster", "migrateslots")


def move_by_server(cluster: Cluster, source: LocalServer, target: LocalServer) -> bool:
    """Let the servers move the slot. False if they gave up, and the slot is where it was."""
    slot = cluster.slot
    where = ("SLOTSRANGE", slot, slot, "NODE", cluster.id_of(target))
    call_until_accepted(source, "CLUSTER", "MIGRATESLOTS", *where)
    wait_long("the servers have moved the slot", lambda: bool(_state(source)))
    if _state(source) != "success":
        return False
    _wait_until_all_know(cluster, target)
    return True


def _newest_move(source: LocalServer) -> dict[str, Any]:
    moves = call(source, "CLUSTER", "GETSLOTMIGRATIONS")
    newest = moves[0] if moves else {}
    if isinstance(newest, list):
        newest = dict(zip(newest[::2], newest[1::2], strict=True))
    return dict(newest)


def _state(source: LocalServer) -> str:
    state = str(_newest_move(source).get("state", ""))
    return state if state in ("success", "failed", "cancelled", "canceled") else ""


def move_by_keys(
    cluster: Cluster, source: LocalServer, target: LocalServer, seconds: float
) -> None:
    """Move the slot key by key; the batches are spread over this time."""
    primaries = cluster.primaries()
    move = KeyMove(cluster.slot, source, target, primaries, read=call, change=call_until_accepted)
    move.begin()
    pause_s = seconds / max(1, move.key_count() // BATCH_KEYS)
    while move.move_keys(BATCH_KEYS):
        time.sleep(pause_s)
    move.end()
    _wait_until_all_know(cluster, target)


def _wait_until_all_know(cluster: Cluster, target: LocalServer) -> None:
    target_id = cluster.id_of(target)
    wait_long(
        "every server knows the slot's new primary",
        lambda: all(_owner(server, cluster.slot) == target_id for server in cluster.servers),
    )


def _owner(server: LocalServer, slot: int) -> str:
    for first, last, owner, *_ in call(server, "CLUSTER", "SLOTS"):
        if first <= slot <= last:
            return str(owner[2])
    return ""
