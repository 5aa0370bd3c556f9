"""The servers of a run: standalone, a primary with its replica, or a cluster.

Owns: starting the servers, the address of each kind of client, the server that has the cell,
exchanging the roles of two servers together with the addresses.
Must not: choose a fault (faults.py), or know processes (fleet.py).
Read next: replication.py, slots.py, proxy.py.

A proxy is in front of every server, so that connections can be cut. A pair has one address for each
kind of client; its proxies lead to the present primary. A server of a cluster announces the port of
its own proxy, which all kinds of clients share.

Methods that are not `async` block: call them in a worker thread.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from urllib.parse import unquote, urlsplit

from anyio import from_thread
from redis.crc import key_slot

from eventsched.server.discovery import Binary
from eventsched.server.folder import PROGRAM
from eventsched.server.launch import free_ports
from eventsched.server.testing import LocalCluster, LocalServer
from tests.chaos import replication
from tests.chaos.commands import call, wait_long
from tests.chaos.proxy import LOOPBACK, SERVERS, Address, Proxy
from tests.chaos.users import USERS, with_user, write_acl_file

CELL = "c0"
APPEND_ONLY = "appendonlydir"


class Topology(ABC):
    """The servers of a run, and the proxies in front of them."""

    is_cluster = False
    has_replicas = True
    servers: list[LocalServer]
    proxies: list[Proxy]
    """The proxies that faults may use."""
    admin_url: str
    """For the checks of the run; without faults, except in a cluster."""

    def __init__(self, binary: Binary) -> None:
        self.binary = binary
        """The present program of all servers."""

    def start(self) -> None:
        """Start all servers and wait until replicas are complete."""
        for server in self.servers:
            server.start()

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def all_proxies(self) -> list[Proxy]:
        return self.proxies

    @abstractmethod
    def url(self, user: str) -> str:
        """The address of one kind of client, with its user and password."""

    @abstractmethod
    def primary(self) -> LocalServer:
        """The primary that has the cell."""

    def primaries(self) -> list[LocalServer]:
        return [self.primary()]

    def replica_of(self, primary: LocalServer) -> LocalServer:
        """The replica of this primary."""
        raise NotImplementedError

    def start_again(self, server: LocalServer) -> None:
        """Start a killed server in the role that it had."""
        server.start()

    def fail_over(self, primary: LocalServer, *, by_hand: bool, cuts: bool) -> None:
        """Exchange the roles of this primary and its replica. No acknowledged write is lost.

        Args:
            primary: a primary.
            by_hand: exchange the roles without the command FAILOVER.
            cuts: cut the connections to the old primary.
        """
        raise NotImplementedError

    def rolling_restart(self, binary: Binary, *, by_hand: bool, cuts: bool) -> None:
        """Restart each server in turn with this program: replica, exchange, old primary."""
        for primary in self.primaries():
            replica = self.replica_of(primary)
            replication.restart(replica, binary)
            self.fail_over(primary, by_hand=by_hand, cuts=cuts)
            replication.restart(primary, binary)
            replication.wait_until_complete(primary)
        self.binary = binary

    # --- lost data ------------------------------------------------------------------------------

    def copy_data(self, folder: Path) -> None:
        """Copy the append-only files of the cell's primary as they are at one moment."""
        primary = self.primary()
        primary.pause()
        try:
            shutil.copytree(primary.folder / APPEND_ONLY, folder)
        finally:
            primary.resume()

    def lose_tail(self, folder: Path) -> None:
        """Kill the cell's primary and start it again with the data of this copy."""
        primary = self.primary()
        primary.kill()
        shutil.rmtree(primary.folder / APPEND_ONLY)
        shutil.copytree(folder, primary.folder / APPEND_ONLY)
        primary.start()
        self._wait_until_complete(primary)

    def lose_everything(self) -> None:
        """Kill all primaries and start them again without any data."""
        primaries = self.primaries()
        for primary in primaries:
            primary.kill()
            shutil.rmtree(primary.folder / APPEND_ONLY)
        for primary in primaries:
            primary.start()
            self._wait_until_complete(primary)

    def _wait_until_complete(self, primary: LocalServer) -> None:
        if self.has_replicas:
            replication.wait_until_complete(self.replica_of(primary))


class Standalone(Topology):
    """One server."""

    has_replicas = False

    def __init__(self, folder: Path, seed: int, binary: Binary) -> None:
        super().__init__(binary)
        self.server = LocalServer(folder / "server", binary, durable=True)
        self.server.options.update(write_acl_file(self.server.folder))
        # With this file `eventsched --data <folder>/server …` reads the data after the run.
        (folder / "server" / PROGRAM).write_text(str(binary.path))
        self.servers = [self.server]
        self.admin_url = self.server.url
        self.proxies = _proxies_of_users(folder, _socket_of(self.server), seed)

    def url(self, user: str) -> str:
        return with_user(_url_of(self.proxies, user), user)

    def primary(self) -> LocalServer:
        return self.server


class Pair(Topology):
    """A primary and its replica behind one address."""

    def __init__(self, folder: Path, seed: int, binary: Binary) -> None:
        super().__init__(binary)
        self.servers = [
            LocalServer(folder / name, binary, has_port=True, durable=True)
            for name in ("server-0", "server-1")
        ]
        for server in self.servers:
            server.options.update(write_acl_file(server.folder))
        self._primary, self._replica = self.servers
        self.proxies = _proxies_of_users(folder, _port_of(self._primary), seed)
        self._admin = Proxy("admin", folder, _port_of(self._primary), Random(f"admin-{seed}"))
        self.admin_url = self._admin.url

    def start(self) -> None:
        super().start()
        call(self._replica, "REPLICAOF", LOOPBACK, _port_of(self._primary))
        replication.wait_until_complete(self._replica)

    def all_proxies(self) -> list[Proxy]:
        return [*self.proxies, self._admin]

    def url(self, user: str) -> str:
        return with_user(_url_of(self.proxies, user), user)

    def primary(self) -> LocalServer:
        return self._primary

    def replica_of(self, primary: LocalServer) -> LocalServer:
        assert primary is self._primary
        return self._replica

    def start_again(self, server: LocalServer) -> None:
        server.start()
        if server is self._replica:
            self._follow(server, self._primary)

    def fail_over(self, primary: LocalServer, *, by_hand: bool, cuts: bool) -> None:
        replica = self.replica_of(primary)
        self._follow(replica, primary)
        replication.wait_until_complete(replica)
        exchange = replication.exchange_by_hand if by_hand else replication.exchange
        exchange(primary, replica)
        self._primary, self._replica = replica, primary
        for proxy in self.all_proxies():
            proxy.leads_to(_port_of(replica))
            if cuts or proxy is self._admin:
                from_thread.run_sync(proxy.cut_all)
        replication.wait_until_complete(primary)

    def _follow(self, replica: LocalServer, primary: LocalServer) -> None:
        """A replica that was restarted is a primary, until it gets this command."""
        if replication.is_primary(replica):
            call(replica, "REPLICAOF", LOOPBACK, _port_of(primary))

    def rolling_restart(self, binary: Binary, *, by_hand: bool, cuts: bool) -> None:
        primary, replica = self._primary, self._replica
        replication.restart(replica, binary)
        self.fail_over(primary, by_hand=by_hand, cuts=cuts)
        replication.restart(primary, binary)
        self._follow(primary, replica)
        replication.wait_until_complete(primary)
        self.binary = binary

    def _wait_until_complete(self, primary: LocalServer) -> None:
        self._follow(self._replica, primary)
        super()._wait_until_complete(primary)


class Cluster(Topology):
    """Three primaries with a replica each; each server announces the port of its proxy."""

    is_cluster = True

    def __init__(self, folder: Path, seed: int, binary: Binary) -> None:
        super().__init__(binary)
        # A killed primary is waited for: an automatic failover may lose acknowledged writes.
        options = {"bind-source-addr": SERVERS, "cluster-replica-no-failover": "yes"}
        self.cluster = LocalCluster(folder / "cluster", binary, durable=True, options=options)
        self.servers = self.cluster.servers
        self.proxies = []
        ports = free_ports(len(self.servers))
        for number, (server, port) in enumerate(zip(self.servers, ports, strict=True)):
            name = f"server-{number}"
            server.options.update(write_acl_file(server.folder))
            server.options["cluster-announce-port"] = str(port)
            rng = Random(f"{name}-{seed}")
            self.proxies.append(Proxy(name, folder, _port_of(server), rng, port=port))
        self.admin_url = self.proxies[0].url
        self.slot = key_slot(CELL.encode())
        self.ids: dict[int, str] = {}
        """Node id by position in `servers`."""

    def start(self) -> None:
        self.cluster.start()
        for number, server in enumerate(self.servers):
            self.ids[number] = str(call(server, "CLUSTER", "MYID"))
        for replica in self.cluster.replicas:
            replication.wait_until_complete(replica)

    def stop(self) -> None:
        self.cluster.stop()

    def url(self, user: str) -> str:
        """Each kind of client begins at another server."""
        return with_user(self.proxies[USERS.index(user)].url, user)

    def wait_until_stable(self) -> None:
        """Wait until no server takes another one for failed, and the slot has one owner."""
        wait_long("all servers see each other", lambda: not self._failed())
        self.primary()

    def _failed(self) -> list[str]:
        """The lines of CLUSTER NODES about servers that another server takes for failed."""
        return [
            line
            for server in self.servers
            for line in str(call(server, "CLUSTER", "NODES")).splitlines()
            if {"fail", "fail?"} & set(line.split()[2].split(","))
        ]

    def primary(self) -> LocalServer:
        owner = ""

        def is_known() -> bool:
            nonlocal owner
            owner = self._owner_of_slot()
            return bool(owner)

        wait_long("a primary has the slot of the cell", is_known)
        return self.server_of(owner)

    def _owner_of_slot(self) -> str:
        """The id of the server that serves the slot by its own account; empty if none does."""
        for number, server in enumerate(self.servers):
            for first, last, owner, *_ in call(server, "CLUSTER", "SLOTS"):
                if first <= self.slot <= last and owner[2] == self.ids[number]:
                    return self.ids[number]
        return ""

    def server_of(self, node_id: str) -> LocalServer:
        (number,) = (number for number, each in self.ids.items() if each == node_id)
        return self.servers[number]

    def id_of(self, server: LocalServer) -> str:
        return self.ids[self.servers.index(server)]

    def primaries(self) -> list[LocalServer]:
        return [server for server in self.servers if replication.is_primary(server)]

    def replica_of(self, primary: LocalServer) -> LocalServer:
        for line in call(primary, "CLUSTER", "REPLICAS", self.id_of(primary)):
            return self.server_of(str(line).split()[0])
        raise LookupError("each primary has a replica")

    def fail_over(self, primary: LocalServer, *, by_hand: bool, cuts: bool) -> None:
        self.wait_until_stable()
        replica = self.replica_of(primary)
        replication.wait_until_complete(replica)
        replication.exchange_in_cluster(primary, replica)
        replication.wait_until_complete(primary)


TOPOLOGIES: dict[str, type[Standalone | Pair | Cluster]] = {
    "standalone": Standalone,
    "pair": Pair,
    "cluster": Cluster,
}


def _proxies_of_users(folder: Path, server: Address, seed: int) -> list[Proxy]:
    return [Proxy(user, folder, server, Random(f"{user}-{seed}")) for user in USERS]


def _url_of(proxies: list[Proxy], user: str) -> str:
    (url,) = (proxy.url for proxy in proxies if proxy.name == user)
    return url


def _socket_of(server: LocalServer) -> Path:
    return Path(unquote(urlsplit(server.url).path))


def _port_of(server: LocalServer) -> int:
    return int(server.options["port"])
