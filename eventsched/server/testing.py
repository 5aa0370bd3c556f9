"""Real servers for tests, which end with the process that started them.

Owns: one local server (standalone, or a cluster of one server), a local cluster of six servers,
and faults for tests: kill, pause, restart.
Never does: fixtures, fakes. Read next: watchdog.py (why no server outlives the tests).

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
_WAIT_S = 60.0
_POLL_S = 0.01
_VOLATILE = {"save": "", "appendonly": "no"}
_DURABLE = {"save": "", "appendonly": "yes", "appendfsync": "always"}
# `everysec` may delay an acknowledged write while the disk is busy, and a kill would lose it.


def wait_for(what: str, condition: Callable[[], bool], within_s: float = _WAIT_S) -> None:
    """Return as soon as `condition()` is true.

    Raises TimeoutError with the text `what` after `within_s` seconds.
    """
    ends_at = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(_POLL_S)


class LocalServer:
    """One server process in a folder, without data at first.

    Args:
        folder: the data folder of the server.
        binary: the server program; the default is the one that `find` returns.
        is_cluster: whether the server is a cluster of its own with all hash slots.
        has_port: whether the server listens on a loopback port, which other servers can reach.
        durable: whether acknowledged writes survive `kill`.
        options: further options of the server.
        ports: a port for clients and one for the bus of a cluster; the default is free ones.
    """

    def __init__(
        self,
        folder: Path,
        binary: Binary | None = None,
        *,
        is_cluster: bool = False,
        has_port: bool = False,
        durable: bool = False,
        options: Mapping[str, str] | None = None,
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.folder = folder
        self.binary = binary or find()
        self.is_cluster = is_cluster
        self.pid = 0
        make_private_folder(folder)
        if ports is None and (is_cluster or has_port):
            port, bus = free_ports(2)
            ports = port, bus
        self.url, listening = _address(folder, ports, is_cluster=is_cluster)
        self.options = listening | (_DURABLE if durable else _VOLATILE) | dict(options or {})
        self._users = FileLock(folder / watchdog.USERS)

    def start(self) -> None:
        """Start the server and wait until it answers; a durable server has its data again."""
        lock = FileLock(self.folder / SERVER_LOCK)
        wait_for("the previous server has ended", lock.try_exclusive)
        wait_for("its watchdog has ended", self._users.try_shared)
        launch(
            self.folder,
            lock,
            program=self.binary.path,
            options=self.options,
            url=self.url,
        )
        append_only = self.options["appendonly"]
        announcement = wait_until_answers(self.folder, url=self.url, append_only=append_only)
        self.pid = announcement.pid
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        """Assign all slots to a cluster of one server and wait until it is up."""
        if self.is_cluster:
            if self.cluster_info()["cluster_slots_assigned"] == "0":
                self.call("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
            wait_for("the cluster of one is up", self.sees_cluster_up)

    def stop(self) -> None:
        """Shut the server down and wait for its end; harmless if it has ended."""
        if self.is_running:
            self.resume()
        self._users.release()
        wait_for("the server has ended", lambda: is_free(self.folder / SERVER_LOCK))

    def kill(self) -> None:
        """Kill the server with SIGKILL and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for("the killed server has ended", lambda: not self.is_running)

    def restart(self) -> None:
        """Kill the server if it runs, then start it at the same address."""
        if self.is_running:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Stop the process with SIGSTOP: connections stay open, and the server does not answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process with SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    @property
    def is_running(self) -> bool:
        return not is_free(self.folder / SERVER_LOCK)

    def call(self, *command: str | int) -> Any:
        """Send one command to this server, also in a cluster; replies are text."""
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


def _address(
    folder: Path, ports: tuple[int, int] | None, *, is_cluster: bool
) -> tuple[str, dict[str, str]]:
    """Return an address as a URL and as the server's options.

    Servers reach each other, and clients reach a cluster, only on ports.
    """
    if ports is None:
        return listen_in(folder)
    port, bus = map(str, ports)
    options = {"port": port, "bind": "127.0.0.1", "repl-diskless-sync-delay": "0"}
    return f"redis://127.0.0.1:{port}", options | (_cluster_options(bus) if is_cluster else {})


def _cluster_options(bus: str) -> dict[str, str]:
    return {
        "cluster-enabled": "yes",
        "cluster-port": bus,
        "cluster-announce-ip": "127.0.0.1",
        "cluster-node-timeout": "1000",
        "cluster-require-full-coverage": "no",
    }


class ClusterMember(LocalServer):
    """One server of a LocalCluster, which assigns its slots."""

    def _wait_until_up(self) -> None:
        """Do nothing: LocalCluster waits for all of its servers."""


class LocalCluster:
    """Three primaries with one replica each; a failover takes some two seconds.

    At the start, `replicas[i]` is the replica of `primaries[i]`; a failover changes the roles.
    """

    is_cluster = True

    def __init__(
        self,
        folder: Path,
        binary: Binary | None = None,
        *,
        durable: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        ports = free_ports(12)  # at once, so that they differ
        servers: list[LocalServer] = [
            ClusterMember(
                folder / f"node{number}",
                binary,
                is_cluster=True,
                durable=durable,
                options=options,
                ports=(ports[2 * number], ports[2 * number + 1]),
            )
            for number in range(6)
        ]
        self.primaries, self.replicas = servers[:3], servers[3:]
        self.url = servers[0].url
        self._stack = ExitStack()

    @property
    def servers(self) -> list[LocalServer]:
        return [*self.primaries, *self.replicas]

    def start(self) -> None:
        """Start the cluster and wait until it is up and all replicas are connected."""
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
    """Return the port and the bus port for CLUSTER MEET."""
    return server.options["port"], server.options["cluster-port"]


def _knows_six(server: LocalServer) -> bool:
    return server.cluster_info()["cluster_known_nodes"] == "6"


def _is_linked(replica: LocalServer) -> bool:
    return bool(replica.call("INFO", "replication").get("master_link_status") == "up")
