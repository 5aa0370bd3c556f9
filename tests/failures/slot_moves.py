"""Moves the slot of a cell to another primary of a cluster, as its operator would.

Owns: finding the servers of the slot; the atomic move of Valkey 9; counting refused calls.
Read next: tests/slot_moves.py (the steps key by key).
"""

from __future__ import annotations

from typing import Any

import redis

from eventsched.schema.keys import Keys
from eventsched.server.testing import LocalCluster, LocalServer, wait_for
from tests.slot_moves import KeyMove

WITHIN_S = 60.0
NODE_TIMEOUT_MS = 15_000


class SlotMove(KeyMove):
    """The move of the slot of a cell from the primary that serves it to another one."""

    def __init__(self, cluster: LocalCluster, cell: str) -> None:
        for server in cluster.servers:  # a busy machine must not cause a failover as well
            server.call("CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
        primaries = cluster.primaries
        slot = int(primaries[0].call("CLUSTER", "KEYSLOT", Keys(cell).log))
        source = next(each for each in primaries if _serves(each, slot))
        target = next(each for each in primaries if each is not source)
        super().__init__(slot, source, target, primaries)

    @property
    def refusals(self) -> int:
        """Calls that the two servers have refused or redirected because of moves."""
        return sum(
            count_errors(server, word)
            for server in (self.source, self.target)
            for word in ("TRYAGAIN", "ASK")
        )

    def atomic(self) -> None:
        """Move the slot by CLUSTER MIGRATESLOTS and wait until the target serves it."""
        target, slot = self._id_of(self.target), self.slot
        self.source.call("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", target)
        wait_for("the target serves", lambda: _serves(self.target, self.slot), WITHIN_S)

    def back(self) -> None:
        """Exchange source and target."""
        self.source, self.target = self.target, self.source


def count_errors(server: LocalServer, word: str) -> int:
    """How many errors with this word the server has sent."""
    counted = server.call("INFO", "errorstats").get(f"errorstat_{word}", {"count": 0})
    return int(counted["count"])


def has_atomic_moves(server: LocalServer) -> bool:
    """Whether the server has CLUSTER MIGRATESLOTS."""
    try:
        server.call("CLUSTER", "GETSLOTMIGRATIONS")
    except redis.ResponseError:
        return False
    return True


def _serves(server: LocalServer, slot: int) -> bool:
    shards: Any = server.call("CLUSTER", "SLOTS")
    own = int(server.options["port"])
    return any(
        first <= slot <= last and int(primary[1]) == own for first, last, primary, *_ in shards
    )
