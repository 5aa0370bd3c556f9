"""One chaos run from its start to the verdict.

    python -m tests.chaos.run --seed 7 --minutes 5 --topology pair --server path --traces DIR

Owns: the phases of a run: start, faults, end of the faults, verdict, epilogues. The verdict is one
JSON object. Exit code 1 means a violation; the last line names seed and commit.
Read next: faults.py (what goes wrong), judge.py (what a violation is), seeds.md (what was found).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Annotated, Any, NoReturn

import anyio
import msgspec
import typer
from anyio.to_thread import run_sync

from eventsched.loadtest.rttm import SAMPLES
from eventsched.logs import configure_logs
from eventsched.schema.settings import Settings
from eventsched.server.discovery import Binary
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.chaos import conversations
from tests.chaos.epilogues import EpilogueReport, Epilogues
from tests.chaos.faults import GAP_S, Fault, choose_kinds, plan
from tests.chaos.injector import FaultInjector
from tests.chaos.judge import Judged, judge
from tests.chaos.log_follower import LogFollower, differences, read_history
from tests.chaos.record import Plan, Record
from tests.chaos.system import READY_S, SPEED, Producers, System, until
from tests.chaos.topologies import CELL, TOPOLOGIES
from tests.chaos.verification import Verification
from tests.server_kinds import _binary

GUESTS = 3
GATEWAY_GUESTS = 3
GAP_MS_SHORT = 3_000
SETTINGS = Settings(
    node_lost_ms=4_000,
    heartbeat_ms=1_000,
    queue_timeout_ms=3_000,
    delivery_gap_timeout_ms=15_000,
    idle_ms=45_000,
    close_wait_ms=10_000,
    lease_base_ms=15_000,
    session_retention_ms=60_000,
    archive_window_ms=5_000,
    log_keep_ms=10_000,
)


class Report(msgspec.Struct, kw_only=True):
    """What a run showed."""

    seed: int
    commit: str
    topology: str
    server: str
    minutes: float
    good: bool = False
    violations: list[str] = []
    faults: dict[str, int] = {}
    proxies: dict[str, dict[str, int]] = {}
    processes: dict[str, int] = {}
    producers: dict[str, int] = {}
    judged: Judged | None = None
    verified: dict[str, Any] = {}
    verified_during_faults: int = 0
    epilogues: dict[str, EpilogueReport] = {}
    quiet_after_s: float = 0.0
    wall_s: float = 0.0


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """What a run is started with."""

    seed: int
    length_s: float
    gap_s: float
    topology: str
    binary: Binary
    upgrade: Binary | None
    traces: Path
    rooms: int
    kinds: dict[str, int]
    has_epilogues: bool
    metrics: Path | None = None

    def faults(self) -> list[Fault]:
        return plan(self.seed, self.length_s, self.kinds, self.gap_s)


class Run:
    """Everything of one run."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._options = options
        self._rng = Random(f"run-{options.seed}")
        settings = msgspec.to_builtins(_settings(self._rng))
        topology = TOPOLOGIES[options.topology](folder, options.seed, options.binary)
        self._topology = topology
        self._system = System(folder, topology, settings, options.seed, options.metrics)
        self._verification = Verification(self._system)
        self._injector = FaultInjector(
            self._system.fleet, topology, self._system.proxies, options.upgrade
        )
        self.report = Report(
            seed=options.seed,
            commit=_commit(),
            topology=options.topology,
            server=str(options.binary),
            minutes=options.length_s / 60,
        )

    async def run(self) -> Report:
        begins = time.monotonic()
        async with AsyncExitStack() as stack:
            for proxy in [*self._topology.all_proxies(), self._system.gateways.proxy]:
                await stack.enter_async_context(proxy.listening())
            try:
                await run_sync(self._topology.start)
                await self._run_system()
            finally:
                with anyio.CancelScope(shield=True):
                    await run_sync(self._topology.stop)
        report = self.report
        report.good = not report.violations
        report.wall_s = round(time.monotonic() - begins, 1)
        return report

    async def _run_system(self) -> None:
        """Everything that happens while the servers run."""
        connecting = open_connection(self._topology.admin_url, settings=self._system.settings)
        async with connecting as connection, anyio.create_task_group() as tasks:
            store = connection.stores[CELL]
            self._system.start_fleet()
            tasks.start_soon(self._system.fleet.supervise)
            await self._system.until_ready(store)
            await self._run_faults(store)
            if self._options.has_epilogues:
                await self._run_epilogues(store)
            await self._system.fleet.end()
            self._add_processes()

    # --- the main phase -------------------------------------------------------------------------

    async def _run_faults(self, store: Store) -> None:
        follower = LogFollower(store)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follower.run)
            async with self._system.producers("producers", self._plan()) as producers:
                await self._until_opened(follower)
                self._note("the sessions are open, faults begin")
                await self._cause_faults()
                self._note("the faults have ended")
                await self._until_quiet(store, follower, producers)
                record = producers.record()
            tasks.cancel_scope.cancel()
        await follower.catch_up()
        if record is None:
            _fail([*self.report.violations, *self._system.fleet.unexpected_ends], self.report)
        await self._judge(store, follower, record)

    async def _cause_faults(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._verification.repeat)
            await self._injector.run(self._options.faults())
            tasks.cancel_scope.cancel()
        for proxy in self._system.proxies:
            proxy.faults.clear()

    def _plan(self) -> Plan:
        length_s = self._options.length_s
        chosen = conversations.choose(
            self._options.traces, self._rng, length_s * SPEED * 1_000, self._options.rooms
        )
        self._speakers = sum(len(conversation.speakers) for conversation in chosen)
        return Plan(
            conversations=conversations.as_plan(chosen),
            speed=SPEED,
            guests=GUESTS,
            gateway=self._system.gateways.url,
            token=self._system.gateways.token("producer"),
            gateway_guests=GATEWAY_GUESTS,
            guests_s=length_s,
            seed=self._options.seed,
        )

    async def _until_opened(self, follower: LogFollower) -> None:
        """Wait for the sessions of the conversations, which do not open in a fault."""

        async def are_open() -> bool:
            joined = sum(event.type == "RoomJoined" for event in follower.events)
            return joined >= self._speakers

        await until(READY_S, are_open, "the sessions are open")

    async def _until_quiet(self, store: Store, follower: LogFollower, producers: Producers) -> None:
        """What was accepted ends within its bound."""
        begins = time.monotonic()
        self.report.violations += await self._system.until_quiet(store, follower, producers)
        self.report.quiet_after_s = round(time.monotonic() - begins, 1)

    async def _judge(self, store: Store, follower: LogFollower, record: Record) -> None:
        report, verification = self.report, self._verification
        await verification.finish()
        report.violations += verification.violations
        report.verified = verification.counts
        report.verified_during_faults = verification.during_faults
        history = await read_history(store, self._system.archive)
        report.violations += differences(follower.entries, history)
        report.judged = judge(follower.events, record)
        report.violations += report.judged.violations
        report.faults = dict(sorted(self._injector.done.items()))
        report.proxies = {
            proxy.name: dict(sorted(proxy.seen.items())) for proxy in self._system.proxies
        }
        report.producers = {
            "unavailable": record.unavailable,
            "backpressure": record.backpressure,
            "resumed": record.resumed,
            "unfinished": record.unfinished,
        }

    # --- afterwards -----------------------------------------------------------------------------

    async def _run_epilogues(self, store: Store) -> None:
        epilogues = Epilogues(self._system, store, self._options.seed)
        for name, run in epilogues.all.items():
            self._note(f"epilogue {name}")
            self.report.epilogues[name] = report = await run()
            self.report.violations += [f"{name}: {each}" for each in report.violations]

    def _add_processes(self) -> None:
        fleet = self._system.fleet
        self.report.violations += [f"process: {each}" for each in fleet.unexpected_ends]
        self.report.processes = dict(fleet.ended) | {
            "started": sum(member.starts for member in fleet.members)
        }

    def _note(self, what: str) -> None:
        sys.stderr.write(f"chaos {self._options.seed}: {what}\n")


def _settings(rng: Random) -> Settings:
    """Gaps in the delivery order time out late or early: early, `missing` cuts work off."""
    return msgspec.structs.replace(
        SETTINGS,
        delivery_gap_timeout_ms=rng.choice([SETTINGS.delivery_gap_timeout_ms, GAP_MS_SHORT]),
    )


def _commit() -> str:
    output = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return os.environ.get("CHAOS_COMMIT") or output.stdout.strip() or "unknown"


# --- the command ----------------------------------------------------------------------------------


def main(
    seed: Annotated[int, typer.Option(help="The faults are drawn from it.")] = 1,
    minutes: Annotated[float, typer.Option(help="Length of the faults.")] = 5.0,
    gap: Annotated[float, typer.Option(help="Mean seconds between two faults.")] = GAP_S,
    topology: Annotated[str, typer.Option(help=f"One of {', '.join(TOPOLOGIES)}.")] = "standalone",
    server: Annotated[str, typer.Option(help="embedded (the wheel's) or path.")] = "embedded",
    upgrade: Annotated[
        str, typer.Option(help="embedded or path: the first rolling restart moves to it.")
    ] = "",
    traces: Annotated[Path, typer.Option(help="Folder of RTTM files.")] = SAMPLES,
    rooms: Annotated[int, typer.Option(help="Number of conversations.")] = conversations.ROOMS,
    kinds: Annotated[
        str, typer.Option(help="Cause only these kinds, such as unblock,memory.")
    ] = "",
    epilogues: Annotated[bool, typer.Option(help="Lose the tail, everything, then rights.")] = True,
    keep: Annotated[Path | None, typer.Option(help="Keep logs and data in this folder.")] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(help="Serve metrics, and list the processes in this file for Prometheus."),
    ] = None,
) -> None:
    """Run once; JSON on stdout; exit code 1 for any violation."""
    configure_logs(0, quiet=False, is_service=True)
    options = Options(
        seed=seed,
        length_s=minutes * 60,
        gap_s=gap,
        topology=topology,
        binary=_binary(server),
        upgrade=_binary(upgrade) if upgrade else None,
        traces=traces,
        rooms=rooms,
        kinds=choose_kinds(topology, kinds),
        has_epilogues=epilogues,
        metrics=metrics,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SystemExit(f"{folder} is not empty: the data of an earlier run would be judged")
        report = anyio.run(Run(folder, options).run)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    if not report.good:
        _fail(report.violations, report)


def _fail(violations: Sequence[str], report: Report) -> NoReturn:
    for violation in violations[:20]:
        sys.stderr.write(f"VIOLATION {violation}\n")
    sys.stderr.write(
        f"chaos failed: seed {report.seed}, {report.topology}, {report.server}, "
        f"commit {report.commit}\n"
    )
    raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
