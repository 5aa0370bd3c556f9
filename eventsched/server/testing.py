"""Real servers for tests: started in a moment, gone with the process that started them.

Owns: one local server (standalone or a cluster of one), a local cluster of six, and the faults
that tests put on them: kill, pause, restart.
Never does: fixtures, fakes. Read next: watchdog.py (why nothing is left running).

    with LocalServer(folder) as server:
        client = await open_client(server.url)
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from eventsched.private_files import make_private_folder
from eventsched.server import watchdog
from eventsched.server.discovery import Binary, find
from eventsched.server.launch import (
    SERVER_LOCK,
    free_ports,
    is_free,
    launch,
    listen_in,
    probe,
    wait_until_answers,
)
from eventsched.server.locks import FileLock

SLOTS = 16_384
_WAIT_S = 15.0
_POLL_S = 0.01
_VOLATILE = {"save": "", "appendonly": "no"}
_DURABLE = {"save": "", "appendonly": "yes", "appendfsync": "always"}
# `everysec` may hold an answered write back while the disk is busy, and a kill would lose it


def wait_for(what: str, holds: Callable[[], bool], within_s: float = _WAIT_S) -> None:
    """Return as soon as `holds()`; TimeoutError naming `what` after `within_s`."""
    ends_at = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(_POLL_S)


class LocalServer:
    """One server process in `folder`, empty at first.

    With `durable`, what it answered survives `kill`. With `is_cluster` it is a cluster of one
    process that holds every slot.
    """

    def __init__(
        self,
        folder: Path,
        binary: Binary | None = None,
        *,
        is_cluster: bool = False,
        durable: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.binary = binary or find()
        self.is_cluster = is_cluster
        self.pid = 0
        make_private_folder(folder)
        self.url, listening = _cluster_address() if is_cluster else listen_in(folder)
        self.options = listening | (_DURABLE if durable else _VOLATILE) | dict(options or {})
        self._users = FileLock(folder / watchdog.USERS)

    def start(self) -> None:
        """The server answers when this returns, with the data that a durable one had."""
        lock = FileLock(self.folder / SERVER_LOCK)
        wait_for("the server before this one has ended", lock.try_exclusive)
        wait_for("its watchdog has ended", self._users.try_shared)
        launch(
            self.folder,
            lock,
            program=self.binary.path,
            options=self.options,
            url=self.url,
        )
        append_only = self.options["appendonly"]
        told = wait_until_answers(self.folder, url=self.url, append_only=append_only)
        self.pid = told.pid
        self._settle()

    def _settle(self) -> None:
        if self.is_cluster:
            if self.cluster_info()["cluster_slots_assigned"] == "0":
                self.call("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_for("the cluster of one is up", self.sees_cluster_up)

    def stop(self) -> None:
        """The server has ended in order when this returns. Nothing to do if it is gone."""
        if self.is_running:
            self.resume()
        self._users.release()
        wait_for("the server has ended", lambda: is_free(self.folder / SERVER_LOCK))

    def kill(self) -> None:
        """The server is gone by SIGKILL when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for("the killed server is gone", lambda: not self.is_running)

    def restart(self) -> None:
        """Killed if it was running, then started anew at the same address."""
        if self.is_running:
            self.kill()
        self.start()

    def pause(self) -> None:
        """The process stands still (SIGSTOP): connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return not is_free(self.folder / SERVER_LOCK)

    def call(self, *command: str | int) -> Any:
        """One command to this very process, whatever slots it holds; text comes back."""
        client = probe(self.url)
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            client.close()

    def sees_cluster_up(self) -> bool:
        return self.cluster_info()["cluster_state"] == "ok"

    def cluster_info(self) -> dict[str, str]:
        lines = str(self.call("CLUSTER", "INFO")).split()
        return dict(line.split(":", 1) for line in lines)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _cluster_address() -> tuple[str, dict[str, str]]:
    """A loopback port and one for the bus: cluster clients connect by host and port only."""
    port, bus = map(str, free_ports(2))
    return f"redis://127.0.0.1:{port}", {
        "port": port,
        "bind": "127.0.0.1",
        "cluster-enabled": "yes",
        "cluster-port": bus,
        "cluster-announce-ip": "127.0.0.1",
        "cluster-node-timeout": "1000",
        "cluster-require-full-coverage": "no",
        "repl-diskless-sync-delay": "0",
    }


class ClusterMember(LocalServer):
    """One process of a LocalCluster, which gives it its slots."""

    def _settle(self) -> None:
        """Up is the cluster as a whole, once formed."""


class LocalCluster:
    """Three primaries, each with one replica, that fail over in some two seconds.

    `primaries[i]` and `replicas[i]` are a pair at the start; after a failover ask the servers.
    """

    is_cluster = True

    def __init__(
        self, folder: Path, binary: Binary | None = None, *, durable: bool = False
    ) -> None:
        servers: list[LocalServer] = [
            ClusterMember(folder / f"node{number}", binary, is_cluster=True, durable=durable)
            for number in range(6)
        ]
        self.primaries, self.replicas = servers[:3], servers[3:]
        self.url = servers[0].url
        self._stack = ExitStack()

    @property
    def servers(self) -> list[LocalServer]:
        return [*self.primaries, *self.replicas]

    def start(self) -> None:
        """The cluster takes commands and every replica's link is up when this returns."""
        with ExitStack() as starting:
            for server in self.servers:
                starting.enter_context(server)
            self._form()
            self._stack = starting.pop_all()

    def stop(self) -> None:
        self._stack.close()

    def _form(self) -> None:
        bounds = [SLOTS * part // 3 for part in range(4)]
        for primary, first, end in zip(self.primaries, bounds, bounds[1:], strict=False):
            primary.call("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        hub, *others = self.servers
        for epoch, server in enumerate(self.servers, start=1):
            server.call("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        for server in others:
            hub.call("CLUSTER", "MEET", "127.0.0.1", *_ports(server))
        wait_for("all nodes know each other", lambda: all(_knows_six(s) for s in self.servers))
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            replica.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID"))
        wait_for("the cluster is up", lambda: all(s.sees_cluster_up() for s in self.servers))
        wait_for("replicas are linked", lambda: all(_is_linked(s) for s in self.replicas))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def _ports(server: LocalServer) -> tuple[str, str]:
    """Port and bus port, as CLUSTER MEET wants them."""
    return server.options["port"], server.options["cluster-port"]


def _knows_six(server: LocalServer) -> bool:
    return server.cluster_info()["cluster_known_nodes"] == "6"


def _is_linked(replica: LocalServer) -> bool:
    return bool(replica.call("INFO", "replication").get("master_link_status") == "up")
