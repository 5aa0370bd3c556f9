"""Moving the cell's slot to another primary of a cluster while clients use it.

Owns: both ways: key by key, as `redis-cli --cluster reshard` does it, and as one command of the
server (CLUSTER MIGRATESLOTS).
Must not: choose the target or the time (server_faults.py).
"""

from __future__ import annotations

import time
from typing import Any

from eventsched.server.testing import LocalServer
from tests.chaos.commands import call, call_until_accepted, has, wait_long
from tests.chaos.proxy import LOOPBACK
from tests.chaos.topologies import Cluster

BATCH = 10
"""Keys of one MIGRATE."""
MIGRATE_MS = 20_000


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
    slot, port = cluster.slot, target.options["port"]
    source_id, target_id = cluster.id_of(source), cluster.id_of(target)
    call_until_accepted(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    call_until_accepted(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    keys = int(call(source, "CLUSTER", "COUNTKEYSINSLOT", slot))
    pause_s = seconds / max(1, keys // BATCH)
    while names := call(source, "CLUSTER", "GETKEYSINSLOT", slot, BATCH):
        # REPLACE: a repeated MIGRATE finds keys that the failed one has moved.
        where = (LOOPBACK, port, "", 0, MIGRATE_MS, "REPLACE", "KEYS")
        call_until_accepted(source, "MIGRATE", *where, *names)
        time.sleep(pause_s)
    others = [each for each in cluster.primaries() if each not in (source, target)]
    for server in (target, source, *others):
        call_until_accepted(server, "CLUSTER", "SETSLOT", slot, "NODE", target_id)
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
