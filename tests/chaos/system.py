"""The system of a run: servers, roles and nodes, producers, and the operator's view of it.

Owns: starting the processes with their addresses and settings, the producers' plans and records,
waiting until the system serves and until everything has ended.
Must not: cause faults, or judge. Read next: run.py, epilogues.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec

from eventsched.errors import ServerUnavailable
from eventsched.projection.store import ProjectionStore
from eventsched.server.launch import free_ports
from eventsched.store.cell import Store
from tests.chaos.commands import run_command
from tests.chaos.conversations import LANGS
from tests.chaos.fleet import ROLES, Fleet
from tests.chaos.gateways import GATEWAYS, Gateways
from tests.chaos.log_follower import LogFollower
from tests.chaos.proxy import LOOPBACK, Proxy
from tests.chaos.record import Plan, Record
from tests.chaos.topologies import CELL, Topology

RTF = 0.3
SPEED = 6.0
NODES = ("async", "threads", "async", "async")
GATEWAY_NODES = 2
"""Nodes behind the gateways, beside the others."""
SLOTS = 3
EACH_ROLE = 2
READY_S = 60.0
QUIET_S = 150.0
"""After the faults, everything must have ended within this time after the last utterance."""
QUIET_S_MAX = 600.0
"""Everything must have ended within this time after the faults: a slow machine is given time for
the speech that producers have kept."""


class Producers:
    """One process of producers, and the record that it writes at its end."""

    def __init__(self, name: str, folder: Path, url: str, plan: Plan) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        plan_file, self._record_file = folder / f"{name}-plan.json", folder / f"{name}-record.json"
        plan_file.write_bytes(msgspec.json.encode(plan))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.producer", url, str(plan_file),
                 str(self._record_file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    async def has_ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self) -> str:
        """How the process ended, if not in order; empty otherwise."""
        if self.process.poll() == 0:
            return ""
        end = self.log.read_text(errors="replace")[-2_000:]
        return f"{self.name}: {self.process.returncode}, the end of its log: {end}"

    def record(self) -> Record | None:
        """The record; None if the process did not write it."""
        if not self._record_file.exists():
            return None
        return msgspec.json.decode(self._record_file.read_bytes(), type=Record)


class Scraped:
    """What Prometheus scrapes, in a file of its file-based service discovery."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports = iter(free_ports(EACH_ROLE * len(ROLES) + len(NODES)))
        self._processes: list[str] = []

    def next_address(self) -> str:
        """Where the next process serves its metrics."""
        self._processes.append(f"{LOOPBACK}:{next(self._ports)}")
        return self._processes[-1]

    def write(self, gateways: list[str]) -> None:
        groups = {"eventsched": gateways, "eventsched-processes": self._processes}
        found = [{"targets": targets, "labels": {"job": job}} for job, targets in groups.items()]
        self._file.write_bytes(msgspec.json.encode(found))


class System:
    """Everything that runs."""

    def __init__(
        self,
        folder: Path,
        topology: Topology,
        settings: Mapping[str, int],
        seed: int,
        metrics: Path | None = None,
    ) -> None:
        self.folder = folder
        self.topology = topology
        self.settings = settings
        self.fleet = Fleet(folder)
        self.archive = folder / "archive"
        self.gateways = Gateways(folder, seed)
        self._scraped = Scraped(metrics) if metrics is not None else None

    @property
    def proxies(self) -> list[Proxy]:
        """The proxies that faults may use."""
        return [*self.topology.proxies, self.gateways.proxy]

    def start_fleet(self) -> None:
        roles, nodes = self.topology.url("roles"), self.topology.url("nodes")
        settings = [f"--set={name}={value}" for name, value in self.settings.items()]
        for role in ROLES:
            archive = ["--archive", str(self.archive)] * (role == "archiver")
            for number in range(EACH_ROLE):
                self.fleet.add(
                    f"{role}-{number}", role, "eventsched.cli", "--url", roles, "run", role,
                    *settings, *archive, *self._listening(),
                )  # fmt: skip
        for number, kind in enumerate(NODES):
            self.fleet.add(
                f"node-{number}", "node", "tests.chaos.worker", nodes, f"{CELL}.node-{number}",
                str(SLOTS), ",".join(LANGS), str(RTF), str(SPEED), kind, *self._listening()[-1:],
            )  # fmt: skip
        for number in range(GATEWAYS):
            self.fleet.add(
                f"gateway-{number}", "gateway", "eventsched.cli", "--url", roles, "run",
                *self.gateways.arguments(number),
            )  # fmt: skip
        for number in range(GATEWAY_NODES):
            name = f"node-{len(NODES) + number}"
            self.fleet.add(
                name, "node", "tests.chaos.gateway_worker", self.gateways.url,
                self.gateways.token("node"), name, str(SLOTS), ",".join(LANGS), str(RTF),
                str(SPEED),
            )  # fmt: skip
        if self._scraped is not None:
            self._scraped.write(self.gateways.addresses)

    def _listening(self) -> list[str]:
        """The option that serves the metrics of the next process; none if nobody scrapes."""
        if self._scraped is None:
            return []
        return ["--metrics-listen", self._scraped.next_address()]

    @asynccontextmanager
    async def producers(self, name: str, plan: Plan) -> AsyncIterator[Producers]:
        """Producers that speak; they are killed if the block ends before them."""
        url = self.topology.url("producers")
        producers = Producers(name, self.folder, url, plan)
        try:
            yield producers
        finally:
            if producers.process.poll() is None:
                producers.process.kill()
                producers.process.wait()

    # --- waiting --------------------------------------------------------------------------------

    async def until_ready(self, store: Store) -> None:
        """Wait until all nodes serve and the cell has its archive."""
        await until(
            READY_S,
            lambda: _is_ready(store, len(NODES) + GATEWAY_NODES),
            "nodes serve and the archive is open",
        )

    async def until_quiet(
        self, store: Store, follower: LogFollower, producers: Producers
    ) -> list[str]:
        """Wait until what was accepted has ended; return what did not end in time, or badly."""
        broken = []
        try:
            await _until_ended(follower, producers)
            await until(QUIET_S, lambda: _is_quiet(store, follower), "all sessions have ended")
        except TimeoutError as late:
            broken.append(f"liveness: {late}")
        if failure := producers.failure():
            broken.append(failure)
        return broken

    async def eventsched(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command of the operator."""
        return await run_command("--url", self.topology.admin_url, "--json", *words)


async def until(seconds: float, holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until the condition holds, also while the server is away."""
    ends_at = time.monotonic() + seconds
    while True:
        try:
            if await holds():
                return
        except ServerUnavailable:
            pass  # the condition is checked again
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await anyio.sleep(0.2)


async def _until_ended(follower: LogFollower, producers: Producers) -> None:
    """Wait until the producers have ended. The wait begins again with each utterance."""

    def count() -> int:
        return sum(event.type == "UtteranceFinalized" for event in follower.events)

    ends_at = time.monotonic() + QUIET_S_MAX
    while not await producers.has_ended():
        utterances = count()

        async def has_gone_on(before: int = utterances) -> bool:
            return await producers.has_ended() or count() > before

        what = f"{producers.name} have ended"
        await until(min(QUIET_S, ends_at - time.monotonic()), has_gone_on, what)


async def _is_ready(store: Store, nodes: int) -> bool:
    records = [await store.read_hash(store.keys.node(f"node-{number}")) for number in range(nodes)]
    archive = await store.read_hash(store.keys.archive)
    return bool(archive) and all(record.get("status") == "alive" for record in records)


async def _is_quiet(store: Store, follower: LogFollower) -> bool:
    """Every session is closed, the dispatch queue is empty, the views are as new as the log."""
    ended = Counter(event.type for event in follower.events)
    last_id = await store.last_id(store.keys.log)
    views = ProjectionStore(store.transport, store.cell)
    return (
        ended["SessionOpened"] == ended["SessionClosed"]
        and follower.entries[-1][0] == last_id
        and await store.last_id(store.keys.dispatch) == "0-0"
        and await views.checkpoint("core") == last_id
    )
