"""One chaos run from start to verdict.

    python -m tests.chaos.run --seed 7 --minutes 5 --traces DIR --server path

Owns: the whole of a run: server, wires, roles, nodes, producers, the faults of the seed, the end of
all faults, then the verdict as one JSON object. Exit code 1 names seed and commit.
Read next: faults.py (what goes wrong), judge.py (what is a violation), seeds.md (what was found).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Annotated, Any, NoReturn
from urllib.parse import unquote

import anyio
import anyio.to_thread
import msgspec
import typer

from eventsched.errors import ServerUnavailable
from eventsched.loadtest.rttm import SAMPLES, Conversation, Segment, Speaker, read_rttm
from eventsched.logs import configure_logs
from eventsched.projection.store import ProjectionStore
from eventsched.schema import codec
from eventsched.schema.events import Event
from eventsched.schema.settings import Settings
from eventsched.server.folder import PROGRAM
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import Connection, open_connection
from tests.chaos.faults import Mischief, plan
from tests.chaos.fleet import ROLES, Fleet
from tests.chaos.judge import Judged, judge
from tests.chaos.producer import Plan, Record
from tests.chaos.proxy import Proxy
from tests.server_kinds import _binary

LANGS = ("en", "es")
RTF = 0.3
SPEED = 6.0
ROOMS = 3
PAUSE_MS = 1_000
"""Before a conversation that is shorter than the run begins again."""
GUESTS = 3
NODES = ("async", "threads", "async", "async")
SLOTS = 3
EACH_ROLE = 2
READY_S = 30.0
QUIET_S = 150.0
"""After the faults everything must have ended within this."""
READ_COUNT = 5_000
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
)


def _settings(rng: Random) -> Settings:
    """Patient listeners, or such that give up soon: then `missing` cuts off what is under way."""
    return msgspec.structs.replace(
        SETTINGS,
        delivery_gap_timeout_ms=rng.choice([SETTINGS.delivery_gap_timeout_ms, GAP_MS_SHORT]),
    )


class Report(msgspec.Struct, kw_only=True):
    """What a run showed."""

    seed: int
    commit: str
    server: str
    minutes: float
    good: bool = False
    violations: list[str] = []
    faults: dict[str, int] = {}
    wires: dict[str, dict[str, int]] = {}
    processes: dict[str, int] = {}
    producers: dict[str, int] = {}
    judged: Judged | None = None
    verified: dict[str, Any] = {}
    verified_meanwhile: int = 0
    quiet_after_s: float = 0.0
    wall_s: float = 0.0


class Run:
    """Everything of one run."""

    def __init__(self, folder: Path, seed: int, minutes: float, traces: Path, source: str) -> None:
        self.folder, self.seed, self.length_s = folder, seed, minutes * 60
        self.traces, self.rng = traces, Random(f"run-{seed}")
        self.settings = msgspec.to_builtins(_settings(self.rng))
        binary = _binary(source)
        self.server = LocalServer(folder / "server", binary, durable=True)
        # With it, what is kept can be read afterwards: `eventsched --data <folder>/server …`.
        (folder / "server" / PROGRAM).write_text(str(self.server.binary.path))
        socket = Path(unquote(self.server.url.removeprefix("unix://")))
        self.wires = {
            name: Proxy(name, folder, socket, Random(f"{name}-{seed}"))
            for name in ("producers", "roles", "nodes")
        }
        self.fleet = Fleet(folder)
        self.mischief = Mischief(self.fleet, list(self.wires.values()), self.server)
        self.report = Report(seed=seed, commit=_commit(), server=str(binary), minutes=minutes)

    async def run(self) -> Report:
        begins = time.monotonic()
        with self.server:
            async with AsyncExitStack() as stack:
                for wire in self.wires.values():
                    await stack.enter_async_context(wire.listening())
                connection = await stack.enter_async_context(
                    open_connection(self.server.url, settings=self.settings)
                )
                record = await self._all(connection)
                log = await _read_log(connection.stores["c0"])
            await self._verify_at_last()
        self.report.judged = judged = judge(log, record)
        self._sum_up(record, judged)
        self.report.wall_s = round(time.monotonic() - begins, 1)
        return self.report

    async def _all(self, connection: Connection) -> Record:
        """Everything that happens while the server is there."""
        self._start_fleet()
        store = connection.stores["c0"]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.fleet.supervise)
            await _until(READY_S, lambda: _serve(store, len(NODES)), "nodes serve")
            async with self._producers() as producers:
                sessions = await self._opened(store)
                self._note(f"{sessions} sessions are open, faults begin")
                async with anyio.create_task_group() as during:
                    during.start_soon(self._verify_meanwhile)
                    await self.mischief.run(plan(self.seed, self.length_s))
                    during.cancel_scope.cancel()
                for wire in self.wires.values():
                    wire.weather.clear()
                self._note("faults are over")
                await self._until_quiet(store, producers)
            await self.fleet.end()
        return self._record()

    def _record(self) -> Record:
        """What the producers noted. Without it nothing can be judged."""
        file = self.folder / "record.json"
        if not file.exists():
            _fail(self.report.violations, self.seed, self.report.commit)
        return msgspec.json.decode(file.read_bytes(), type=Record)

    def _start_fleet(self) -> None:
        roles, nodes = self.wires["roles"].url, self.wires["nodes"].url
        for role in ROLES:
            for number in range(EACH_ROLE):
                self.fleet.add(
                    f"{role}-{number}", role, "eventsched.cli", "--url", roles, "run", role,
                )  # fmt: skip
        for number, kind in enumerate(NODES):
            self.fleet.add(
                f"node-{number}", "node", "tests.chaos.worker", nodes, f"c0.node-{number}",
                str(SLOTS), ",".join(LANGS), str(RTF), str(SPEED), kind,
            )  # fmt: skip

    # --- producers ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _producers(self) -> AsyncIterator[subprocess.Popen[bytes]]:
        conversations = _chosen(self.traces, self.rng, self.length_s * SPEED * 1_000)
        producer_plan = Plan(
            conversations=[
                (
                    one.name,
                    [
                        (
                            who.name,
                            who.listen_language,
                            [(part.start_ms, part.ms) for part in who.segments],
                        )
                        for who in one.speakers
                    ],
                )
                for one in conversations
            ],
            speed=SPEED,
            guests=GUESTS,
            guests_s=self.length_s,
            seed=self.seed,
        )
        self._sessions = sum(len(one.speakers) for one in conversations)
        plan_file, record_file = self.folder / "plan.json", self.folder / "record.json"
        plan_file.write_bytes(msgspec.json.encode(producer_plan))
        with (self.folder / "producers.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "tests.chaos.producer", self.wires["producers"].url,
                 str(plan_file), str(record_file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    async def _opened(self, store: Store) -> int:
        """The speakers' sessions are there: from now on nothing is spared."""

        async def are_open() -> bool:
            log = await _read_log(store)
            return sum(event.type == "RoomJoined" for event in log) >= self._sessions

        await _until(READY_S, are_open, "sessions are open")
        return self._sessions

    async def _until_quiet(self, store: Store, producers: subprocess.Popen[bytes]) -> None:
        """Liveness: what was accepted ends, within its bound."""
        begins = time.monotonic()
        try:
            await _until(QUIET_S, lambda: _has_ended(producers), "the producers have ended")
            await _until(QUIET_S, lambda: _is_quiet(store), "all is quiet")
        except TimeoutError as late:
            self.report.violations.append(f"liveness: {late}")
        if producers.poll() != 0:
            tail = (self.folder / "producers.log").read_text(errors="replace")[-2_000:]
            self.report.violations.append(f"producers: {producers.returncode}, last said: {tail}")
        self.report.quiet_after_s = round(time.monotonic() - begins, 1)

    # --- verdict --------------------------------------------------------------------------------

    async def _verify_meanwhile(self) -> None:
        """`verify` needs no pause: it is run again and again amid the faults."""
        while True:
            await anyio.sleep(8)
            output = await self._verify()
            if output is not None:
                self.report.verified_meanwhile += 1
                self._take(output, "meanwhile")

    async def _verify_at_last(self) -> None:
        output = await self._verify()
        if output is None:
            self.report.violations.append("verify could not be run")
            return
        self._take(output, "at last")
        for cell in output["cells"]:
            counts = ("events", "sessions", "jobs", "nodes", "records", "dead_letters")
            self.report.verified = {name: cell[name] for name in counts}
            if cell["dead_letters"] or cell["failed_entries"]:
                self.report.violations.append(
                    f"dead letters: {cell['dead_letters']}, {cell['failed_entries'][:3]}"
                )

    def _take(self, output: dict[str, Any], when: str) -> None:
        for cell in output["cells"]:
            self.report.violations += [
                f"verify {when}: {one['invariant']} {one['where']}: {one['what']}"
                for one in cell["violations"]
            ]

    async def _verify(self) -> dict[str, Any] | None:
        """What it says; none when the server went away under it."""
        done = await anyio.run_process(
            [sys.executable, "-m", "eventsched.cli", "--url", self.server.url, "--json", "verify"],
            check=False,
        )
        if not done.stdout:
            words = done.stderr.decode(errors="replace").strip().splitlines()
            if not any("server" in word for word in words[-1:]):
                self.report.violations.append(f"verify ended with: {words[-3:]}")
            return None
        return msgspec.json.decode(done.stdout)  # type: ignore[no-any-return]

    def _sum_up(self, record: Record, judged: Judged) -> None:
        report = self.report
        report.violations += [f"process: {one}" for one in self.fleet.odd_ends]
        report.violations += judged.violations
        report.good = not report.violations
        report.faults = dict(sorted(self.mischief.done.items()))
        report.wires = {name: dict(sorted(wire.seen.items())) for name, wire in self.wires.items()}
        report.processes = dict(self.fleet.ended) | {
            "started": sum(member.starts for member in self.fleet.members)
        }
        report.producers = {
            "unavailable": record.unavailable,
            "pressed": record.pressed,
            "resumed": record.resumed,
            "unfinished": record.unfinished,
        }

    def _note(self, what: str) -> None:
        sys.stderr.write(f"chaos {self.seed}: {what}\n")


# --- conversations --------------------------------------------------------------------------------


def _chosen(folder: Path, rng: Random, length_ms: float) -> list[Conversation]:
    """Some rooms of the folder, each a stretch of the recording that fits the run."""
    files = sorted(folder.glob("*.rttm"))
    if not files:
        raise SystemExit(f"no *.rttm in {folder}")
    rooms = rng.sample(files, min(ROOMS, len(files)))
    return [
        _stretch(conversation, rng, length_ms)
        for path in rooms
        for conversation in read_rttm(path, LANGS).conversations
    ]


def _stretch(conversation: Conversation, rng: Random, length_ms: float) -> Conversation:
    """A part of a long one; a short one again and again."""
    begin = int(rng.uniform(0, max(0.0, conversation.end_ms - length_ms)))
    period_ms = conversation.end_ms + PAUSE_MS
    speakers = []
    for speaker in conversation.speakers:
        moved = [
            Segment(one.start_ms + again * period_ms - begin, one.ms)
            for again in range(int(length_ms // period_ms) + 1)
            for one in speaker.segments
        ]
        selected = tuple(one for one in moved if 0 <= one.start_ms < length_ms)
        speakers.append(Speaker(speaker.name, speaker.listen_language, selected))
    return Conversation(conversation.name, tuple(speakers))


# --- waiting --------------------------------------------------------------------------------------


async def _until(seconds: float, holds: Any, what: str) -> None:
    ends_at = time.monotonic() + seconds
    while True:
        try:
            if await holds():
                return
        except ServerUnavailable:
            pass  # it is back in a moment
        if time.monotonic() > ends_at:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await anyio.sleep(0.2)


async def _serve(store: Store, nodes: int) -> bool:
    records = [await store.read_hash(store.keys.node(f"node-{number}")) for number in range(nodes)]
    return all(one.get("status") == "alive" for one in records)


async def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


async def _is_quiet(store: Store) -> bool:
    """Every session is closed, nothing is in `work`, and the views are as new as the log."""
    log = await _read_log(store)
    ended = Counter(event.type for event in log)
    views = ProjectionStore(store.transport, store.cell)
    return (
        ended["SessionOpened"] == ended["SessionClosed"]
        and await store.last_id(store.keys.dispatch) == "0-0"
        and await views.checkpoint("core") == log[-1].id
    )


async def _read_log(store: Store) -> list[Event]:
    events: list[Event] = []
    after = "0-0"
    while True:
        entries = await store.read_range(store.keys.log, f"({after}", "+", READ_COUNT)
        events += [codec.decode(entry_id, fields) for entry_id, fields in entries]
        if len(entries) < READ_COUNT:
            return events
        after = entries[-1][0]


def _commit() -> str:
    output = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return os.environ.get("CHAOS_COMMIT") or output.stdout.strip() or "unknown"


# --- the command ----------------------------------------------------------------------------------


def main(
    seed: Annotated[int, typer.Option(help="What goes wrong is drawn from it.")] = 1,
    minutes: Annotated[float, typer.Option(help="Length of the faults.")] = 5.0,
    traces: Annotated[Path, typer.Option(help="Folder of RTTM files.")] = SAMPLES,
    server: Annotated[str, typer.Option(help="embedded (the wheel's) or path.")] = "embedded",
    keep: Annotated[Path | None, typer.Option(help="Keep logs and data in this folder.")] = None,
) -> None:
    """Run once; JSON on stdout; exit code 1 when anything is violated."""
    configure_logs(0, quiet=False, is_service=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        place = keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise SystemExit(f"{place} is not empty: an earlier run's data would be judged too")
        run = Run(place, seed, minutes, traces, server)
        report = anyio.run(run.run)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(report)).decode() + "\n")
    if not report.good:
        _fail(report.violations, seed, report.commit)


def _fail(violations: Sequence[str], seed: int, commit: str) -> NoReturn:
    for violation in violations[:20]:
        sys.stderr.write(f"VIOLATION {violation}\n")
    sys.stderr.write(f"chaos failed: seed {seed} at commit {commit}\n")
    raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
