"""A primary and its replica: whether the replica is complete, and exchanging their roles.

Owns: the order of steps in which no acknowledged write is lost.
Must not: lead clients to the new primary (topologies.py), or choose a time (server_faults.py).
"""

from __future__ import annotations

import time

from eventsched.server.discovery import Binary
from eventsched.server.testing import LocalServer
from tests.chaos.commands import call, call_until_accepted, info, wait_long

PAUSE_MS = 20_000
"""The longest pause of writes during an exchange by hand."""
FAILOVER_MS = 20_000
CLUSTER_FAILOVER_S = 10.0
"""Longer than the servers try it."""
POLL_S = 0.05
TRIES = 5


def is_primary(server: LocalServer) -> bool:
    return bool(info(server, "replication")["role"] == "master")


def is_complete(replica: LocalServer) -> bool:
    """Whether the replica has the data of its primary, and its own append-only file has them too.

    After a full synchronization the replica writes a new append-only file. Until that file is
    complete, a replica that becomes the primary and is killed would lose acknowledged writes.
    """
    link, files = info(replica, "replication"), info(replica, "persistence")
    return (
        link.get("master_link_status") == "up"
        and not link.get("master_sync_in_progress")
        and bool(files["aof_enabled"])
        and not (files["aof_rewrite_in_progress"] or files["aof_rewrite_scheduled"])
        and not (files["loading"] or files.get("async_loading"))
    )


def wait_until_complete(replica: LocalServer) -> None:
    wait_long("the replica is complete", lambda: is_complete(replica))


def exchange(primary: LocalServer, replica: LocalServer) -> None:
    """Exchange the roles by the command FAILOVER; the server gives up if it takes too long."""
    for _ in range(TRIES):
        target = ("TO", *_address(replica), "TIMEOUT", FAILOVER_MS)
        call_until_accepted(primary, "FAILOVER", *target)
        wait_long("the failover has ended", lambda: _failover_has_ended(primary))
        if is_primary(replica):
            return
    raise TimeoutError(f"FAILOVER was repeated {TRIES} times in vain")


def _failover_has_ended(server: LocalServer) -> bool:
    return bool(info(server, "replication")["master_failover_state"] == "no-failover")


def exchange_by_hand(primary: LocalServer, replica: LocalServer) -> None:
    """Exchange the roles as on a server without FAILOVER: pause writes, wait, exchange."""
    call(primary, "CLIENT", "PAUSE", PAUSE_MS, "WRITE")
    offset = info(primary, "replication")["master_repl_offset"]
    wait_long("the replica has every write", lambda: _offset(replica) >= offset)
    call(replica, "REPLICAOF", "NO", "ONE")
    call(primary, "REPLICAOF", *_address(replica))
    call(primary, "CLIENT", "UNPAUSE")


def _offset(replica: LocalServer) -> int:
    return int(info(replica, "replication").get("slave_repl_offset", 0))


def exchange_in_cluster(primary: LocalServer, replica: LocalServer) -> None:
    """Exchange the roles by CLUSTER FAILOVER; the servers give up after 5 s, so it is repeated."""
    for _ in range(TRIES):
        call_until_accepted(replica, "CLUSTER", "FAILOVER")
        ends_at = time.monotonic() + CLUSTER_FAILOVER_S
        while time.monotonic() < ends_at:
            if _are_exchanged(primary, replica):
                return
            time.sleep(POLL_S)
    raise TimeoutError(f"CLUSTER FAILOVER was repeated {TRIES} times in vain")


def _are_exchanged(primary: LocalServer, replica: LocalServer) -> bool:
    return is_primary(replica) and not is_primary(primary)


def restart(server: LocalServer, binary: Binary) -> None:
    """Stop the server in order and start it with this program."""
    server.stop()
    server.binary = binary
    server.start()


def _address(server: LocalServer) -> tuple[str, str]:
    return "127.0.0.1", server.options["port"]
