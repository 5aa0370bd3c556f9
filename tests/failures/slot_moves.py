"""Moves the slot of a cell to another primary of a cluster, as its operator would.

Owns: the steps of a move key by key, in the order of `redis-cli --cluster reshard`; the atomic
move of Valkey 9.
"""

from __future__ import annotations

from typing import Any

import redis

from eventsched.schema.keys import Keys
from eventsched.server.testing import LocalCluster, LocalServer, wait_for

BATCH_KEYS = 10
"""Keys of one MIGRATE, as `redis-cli --cluster reshard` sends them."""
MIGRATE_MS = 5_000
WITHIN_S = 60.0
NODE_TIMEOUT_MS = 15_000


class SlotMove:
    """The move of the slot of a cell from the primary that serves it to another one."""

    def __init__(self, cluster: LocalCluster, cell: str) -> None:
        self._others = cluster.servers
        for server in cluster.servers:  # a busy machine must not cause a failover as well
            server.call("CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
        self.slot = int(cluster.primaries[0].call("CLUSTER", "KEYSLOT", Keys(cell).log))
        self.source = next(each for each in cluster.primaries if _serves(each, self.slot))
        self.target = next(each for each in cluster.primaries if each is not self.source)

    @property
    def refusals(self) -> int:
        """Calls that the two servers have refused or redirected because of moves."""
        return sum(
            count_errors(server, word)
            for server in (self.source, self.target)
            for word in ("TRYAGAIN", "ASK")
        )

    def begin(self) -> None:
        """Open the slot on both servers; no key moves yet."""
        self.target.call("CLUSTER", "SETSLOT", self.slot, "IMPORTING", _id(self.source))
        self.source.call("CLUSTER", "SETSLOT", self.slot, "MIGRATING", _id(self.target))

    def move_keys(self, count: int) -> int:
        """Move up to `count` keys; return how many there were."""
        keys = self.source.call("CLUSTER", "GETKEYSINSLOT", self.slot, count)
        if keys:
            port = self.target.options["port"]
            # An expired or deleted key is not there any more, which MIGRATE accepts.
            self.source.call(
                "MIGRATE", "127.0.0.1", port, "", 0, MIGRATE_MS, "REPLACE", "KEYS", *keys
            )
        return len(keys)

    def key_count(self) -> int:
        """Keys of the slot that the source still has."""
        return int(self.source.call("CLUSTER", "COUNTKEYSINSLOT", self.slot))

    def end(self) -> None:
        """Move the rest of the keys and give the slot to the target: there first."""
        while self.move_keys(BATCH_KEYS):
            pass
        for server in (self.target, self.source, *self._others):
            if server.call("ROLE")[0] == "master":
                server.call("CLUSTER", "SETSLOT", self.slot, "NODE", _id(self.target))

    def atomic(self) -> None:
        """Move the slot by CLUSTER MIGRATESLOTS and wait until the target serves it."""
        self.source.call(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", self.slot, self.slot, "NODE", _id(self.target)
        )
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


def _id(server: LocalServer) -> str:
    return str(server.call("CLUSTER", "MYID"))


def _serves(server: LocalServer, slot: int) -> bool:
    shards: Any = server.call("CLUSTER", "SLOTS")
    own = int(server.options["port"])
    return any(
        first <= slot <= last and int(primary[1]) == own for first, last, primary, *_ in shards
    )
