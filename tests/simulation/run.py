"""One seed from start to verdict, and many of them.

python -m tests.simulation.run --seed 7            one seed, with its index when it fails
python -m tests.simulation.run --seeds 1000        many, on two processes, and the report
"""

from __future__ import annotations

import logging
import random
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_args

import redis
import structlog
import typer
from rich.console import Console
from rich.progress import Progress

from eventsched.archive import threads, verifier
from eventsched.archive.commands import LEASE_MS, ArchiveCommands
from eventsched.archive.layout import ArchiveFolder
from eventsched.audit.verify import Verifier
from eventsched.errors import BY_CODE
from eventsched.history.log import History
from eventsched.schema import codec
from eventsched.schema.events import (
    AnyData,
    ArchiveSetAside,
    CellRepaired,
    DeadLettersDiscarded,
    DeadLettersRetried,
    Event,
    RebuildPromoted,
    RebuildStarted,
)
from eventsched.schema.keys import Keys
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer
from eventsched.store.lag import ARCHIVE
from eventsched.store.transport import Entry
from tests.functions import load_functions
from tests.simulation.actors import (
    CELL,
    KEY,
    Cluster,
    GroupReader,
    Mischief,
    Observations,
    Service,
    core_set,
    erase,
    lift_pressure,
)
from tests.simulation.check import violations
from tests.simulation.world import FAULTS, FOREIGN, QUIET, World, on_disk

CALLS_MIN, FAULTS_MIN, SESSIONS_MIN, NODES_MIN = 300, 5, 3, 3
EVERY = 4
"""One seed in so many trims its log by age meanwhile, and one in so many archives it first."""
ARCHIVED = 1
UNCACHED_EVERY = 3
"""In one seed of so many each call reads live state anew."""
QUEUED_EVERY = 5
"""In one seed of so many the dispatcher assigns all jobs."""
LONG_EVERY, LONG = 8, 5
"""In one seed of so many a session speaks for so long that the records of its old jobs retire."""
LIVENESS_MS = 240_000
RENEWED_MS = 90_000
"""Within this time each owner of a consumer group moves it back, once nobody else moves it: an
owner may be frozen, and its lease has to end."""
SETTINGS = Settings(
    pause_ms=1_500,
    audio_ms_max=3_000,
    idle_ms=9_000,
    close_wait_ms=6_000,
    playback_ms=2_000,
    delivery_gap_timeout_ms=3_000,
    queue_timeout_ms=3_000,
    heartbeat_ms=1_000,
    node_lost_ms=3_000,
    node_retention_ms=4_000,
    suspend_ms=4_000,
    retry_avoid_ms=800,
    failing_suspend_ms=2_000,
    failing_suspend_ms_max=6_000,
    session_retention_ms=5_000,
    outbox_retention_ms=3_000,
    log_keep_ms=1_000,
    archive_entries_max=60,
    archive_window_ms=10_000,
    audio_bytes_max=2_500,
    tenant_queue_max=40,
)


@dataclass
class Verdict:
    """The result of one seed."""

    seed: int
    calls: int
    broken: list[str]
    events: Counter[str]
    refusals: Counter[str]
    faults: Counter[str]
    index: list[str] = field(default_factory=list)


def simulate(server: redis.Redis, seed: int, cache_live_state: int | None = None) -> Verdict:
    """Faults first, then calm; the verdict holds every violation.

    Scripts cache live state as the seed says, or as the caller asks.
    """
    cached = int(seed % UNCACHED_EVERY != 0) if cache_live_state is None else cache_live_state
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive" if seed % EVERY == ARCHIVED else None
        return _simulate(server, seed, archive, cached)


def _simulate(
    server: redis.Redis, seed: int, archive: Path | None, cache_live_state: int
) -> Verdict:
    server.flushall()
    load_functions(server)
    random.seed(seed)  # for the random pauses of roles
    world, observations = World(server, seed), Observations()
    cluster = Cluster(world, observations)
    settings = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
    settings["log_retention_ms"] = 0 if seed % EVERY else 4_000
    settings["cache_live_state"] = cache_live_state
    settings["eager_dispatch"] = int(seed % QUEUED_EVERY != 0)
    world.complete(cluster.store.configure_cell(settings, overwrite=False, manual_clock=True))
    _populate(cluster)
    if archive is not None:
        cluster.start_archivers(archive, each=2)
    times = 5 if _is_long(seed) else 1
    world.run_until(lambda: False, calls_max=CALLS_MIN * 5 * times, ms_max=25_000 * times)
    world.run_until(lambda: _has_begun(world), calls_max=20_000, ms_max=60_000)
    cluster.is_calm, world.odds = True, QUIET
    ends_ms = world.now_ms + LIVENESS_MS
    while (open_ := _not_ended(server, observations, archive)) and world.now_ms < ends_ms:
        world.run_until(lambda: False, calls_max=100, ms_max=LIVENESS_MS)
    cluster.stop_role(GroupReader.NAME)
    ends_ms = world.now_ms + RENEWED_MS
    while _moved(server) and world.now_ms < ends_ms:
        world.run_until(lambda: False, calls_max=200, ms_max=RENEWED_MS)
    broken = _verified(cluster, world, archive)
    if archive is not None:
        broken += _archived(cluster, world, archive) + _given_up(cluster, world)
    has_trimmed = world.untrim(cluster.store.keys.log)
    log = _log(cluster, world)
    broken += violations(log, observations) + _tame(world, log)
    if has_trimmed:  # the log can be folded from its start again
        broken += _verified(cluster, world, None, passed_over=("I10", "log"))
    if open_:
        broken.append(f"never closed, or never sealed: {open_}")
    broken += _parked(server)
    world.close()
    events = Counter(event.type for event in log)
    events["AudioChunkAppended"] = sum(len(acked) for acked in observations.acked.values())
    faults = world.faults + world.foreign
    return Verdict(seed, world.calls, broken, events, world.refusals, faults, world.index)


def _has_begun(world: World) -> bool:
    """Enough faults have happened, and every node has registered; a node may be frozen before it
    registers.
    """
    nodes: Any = world.server.keys(f"es1:{{{CELL}}}:node:*")
    return sum(world.faults.values()) >= FAULTS_MIN and len(nodes) >= NODES_MIN


def _tame(world: World, log: Sequence[Event]) -> list[str]:
    """A seed with too few events proves nothing."""
    sessions = {event.session for event in log if event.type == "SessionOpened"}
    nodes = {event.node for event in log if event.type == "NodeRegistered"}
    happened = {
        "calls": (world.calls, CALLS_MIN),
        "faults": (sum(world.faults.values()), FAULTS_MIN),
        "sessions": (len(sessions), SESSIONS_MIN),
        "nodes": (len(nodes), NODES_MIN),
    }
    return [f"only {n} {what}" for what, (n, least) in happened.items() if n < least]


def _not_ended(server: redis.Redis, observations: Observations, archive: Path | None) -> list[str]:
    """Sessions that were opened and are neither closed nor retired; an archive without segments."""
    open_ = [] if archive is None or [*archive.glob("*/*.json")] else [archive.name]
    for session in sorted(observations.opened):
        status: Any = server.hget(f"es1:{{{CELL}}}:session:{session.partition('.')[2]}", "status")
        if status in (b"open", b"closing"):
            open_.append(session)
    return open_


def _moved(server: redis.Redis) -> list[str]:
    """The consumer groups of the log that are not where their owners have saved, and that of the
    dispatch queue if its lag is not the length of the queue.
    """
    keys, moved = Keys(CELL), []
    (dispatch,) = server.xinfo_groups(keys.dispatch)
    if dispatch["lag"] != server.xlen(keys.dispatch):
        moved.append("dispatch")
    groups: Any = server.xinfo_groups(keys.log) if server.exists(keys.log) else []
    for group in groups:
        name = group["name"].decode()
        saved: Any = server.get(keys.checkpoint(name))
        if name == ARCHIVE:
            saved = server.hget(keys.archive, "to")
        passed: Any = server.hget(keys.lease(name), "passed")
        if passed is None:
            continue  # the group of another program
        if (group["last-delivered-id"], group["entries-read"]) != (saved or b"0-0", int(passed)):
            moved.append(name)
    return moved


def _is_long(seed: int) -> bool:
    return seed % LONG_EVERY == LONG


def _populate(cluster: Cluster) -> None:
    rng = cluster.rng
    cluster.start_roles(each=2)
    cluster.start_node("n0", slots=2)
    cluster.start_node("n1", targets=["es", "fr"], features=["tts"], slots=1)
    cluster.start_node("n2", targets=["es", "fr", "en"], slots=2)
    chunks = rng.randint(20, 40)
    cluster.start_producer("s0", 8 * chunks if _is_long(cluster.world.seed) else chunks)
    cluster.start_producer("s1", rng.randint(20, 40), room=f"{CELL}.acme/r", listen_language="es")
    cluster.start_producer(
        "s2",
        rng.randint(20, 40),
        room=f"{CELL}.acme/r",
        listen_language=rng.choice(("fr", "en", "de")),
    )
    cluster.start_producer(
        "s3",
        rng.randint(20, 40),
        features=["tts"],
        tenant="globex",
        priority=rng.randint(0, 2),
        targets=["es", "fr"],
        room=f"{CELL}.globex/r",
        listen_language="es",
        key=KEY,
    )
    cluster.start_role("erasure", lambda: erase(cluster, "s3"))
    Mischief(cluster).start()
    GroupReader(cluster).start()
    Service(cluster).start()
    cluster.start_trimming()
    cluster.start_role("pressure", lambda: lift_pressure(cluster))


def _verified(
    cluster: Cluster,
    world: World,
    archive: Path | None,
    passed_over: tuple[str, str] | None = None,
) -> list[str]:
    """What `eventsched verify` finds, while views may still be on their way.

    `passed_over`: a violation of this invariant at this place is ignored.
    """
    history = _history(cluster, world, archive)
    violations_found = world.complete(
        Verifier(cluster.views, core_set(), history=history).run()
    ).violations
    return [
        str(violation)
        for violation in violations_found
        if (violation.invariant, violation.where) != passed_over
    ]


def _history(cluster: Cluster, world: World, archive: Path | None) -> History:
    folder = ArchiveFolder.open(archive) if archive is not None else None
    history: History = world.complete(History.open(cluster.views, folder, core_set()))
    return history


def _archived(cluster: Cluster, world: World, archive: Path) -> list[str]:
    """Archive and log together are complete, each entry once; the sealed segments are unchanged."""
    world.keep(cluster.store.keys.log)
    both = world.complete(_all(_history(cluster, world, archive)))
    audited = verifier.Verifier(archive, projection_set=core_set()).run()
    broken = [f"audit: {problem}" for problem in audited.problems]
    logged = [
        (entry_id.decode(), [part for field in fields.items() for part in field])
        for entry_id, fields in world.logged
    ]
    if both != logged:
        broken.append(f"{len(world.logged)} entries were logged, archive and log have {len(both)}")
    return broken


def _given_up(cluster: Cluster, world: World) -> list[str]:
    """Then the archive is lost: what is left of the log goes on without it."""
    commands = ArchiveCommands(cluster.views)
    key = world.complete(commands.read_state()).fingerprint
    world.now_ms += LEASE_MS
    world.complete(commands.abandon(key, why="the disk is lost", by="simulation"))
    broken = _verified(cluster, world, None)
    return [f"given up: {violation}" for violation in broken]


async def _all(history: History) -> list[Entry]:
    return [entry async for entry in history.entries()]


def _log(cluster: Cluster, world: World) -> list[Event]:
    entries = world.complete(cluster.store.read_range(cluster.store.keys.log, "-", "+", 1_000_000))
    return [codec.decode(entry_id, fields) for entry_id, fields in entries]


def _parked(server: redis.Redis) -> list[str]:
    """The scripts of the product add no dead letters."""
    entries: Any = server.xrange(f"es1:{{{CELL}}}:dead_letters")
    return [f"parked: {fields}" for _, fields in entries]


def some(seeds: list[int], cache_live_state: int | None = None) -> list[Verdict]:
    """These seeds, one after the other, on a server of their own."""
    threads.in_thread = on_disk
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as folder, LocalServer(Path(folder)) as server:
        client = redis.Redis.from_url(server.url)
        verdicts = [simulate(client, seed, cache_live_state) for seed in seeds]
        client.close()
        return verdicts


BY_OPERATORS = (
    ArchiveSetAside,
    CellRepaired,
    DeadLettersRetried,
    DeadLettersDiscarded,
    RebuildStarted,
    RebuildPromoted,
)
"""Events of operators: the first two follow a loss of writes, which no simulated server has. Chaos
draws the first one; tests/verify/test_repair.py has the second, tests/scripts/test_dead_letters.py
and tests/projector/test_projector.py have the others."""

TESTED_ELSEWHERE = {"NODE_DRAINED", "STATE_DAMAGED"}
"""Refusals of nodes that an operator has drained (tests/scripts/test_nodes.py), and of records that
no script writes (tests/verify/test_damaged_records.py).
"""


def report(verdicts: list[Verdict]) -> dict[str, Any]:
    """Occurrences over all seeds, and the faults that never occurred."""
    totals: dict[str, Counter[str]] = {
        "events": Counter(),
        "refusals": Counter(),
        "faults": Counter(),
    }
    for verdict in verdicts:
        for name, counter in totals.items():
            counter.update(getattr(verdict, name))
    wanted = {kind.__name__ for kind in get_args(AnyData) if kind not in BY_OPERATORS}
    wanted |= (set(BY_CODE) - TESTED_ELSEWHERE) | FAULTS | FOREIGN
    seen = set().union(*totals.values())
    return {
        "seeds": len(verdicts),
        "calls": sum(verdict.calls for verdict in verdicts),
        "failed": [verdict.seed for verdict in verdicts if verdict.broken],
        "never": sorted(wanted - seen),
        **{name: dict(sorted(counter.items())) for name, counter in totals.items()},
    }


def run_many(first: int, count: int, workers: int = 2) -> list[Verdict]:
    """Seeds from `first` on, spread over processes with a server each."""
    seeds = list(range(first, first + count))
    parts = [part for at in range(workers * 8) if (part := seeds[at :: workers * 8])]
    with ProcessPoolExecutor(workers) as pool, Progress(console=Console(stderr=True)) as progress:
        done: list[Verdict] = []
        for verdicts in progress.track(pool.map(some, parts), total=len(parts)):
            done += verdicts
    return sorted(done, key=lambda verdict: verdict.seed)


def _commit() -> str:
    completed = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return completed.stdout.strip() or "unknown"


def tell(verdict: Verdict, console: Console, *, index: bool) -> None:
    """A failure is a seed and a commit; for a single seed also the occurrences."""
    console.print(f"seed {verdict.seed} at {_commit()}:")
    for line in verdict.broken[:20] + (verdict.index if index else []):
        console.print(f"  {line}", markup=False)


def main(
    seed: Annotated[int | None, typer.Option(help="This one alone.")] = None,
    seeds: Annotated[int, typer.Option(help="How many.")] = 100,
    first: Annotated[int, typer.Option(help="The first of them.")] = 0,
) -> None:
    """Simulate whole clusters; exit code 1 if a seed fails or something never occurred."""
    console, started = Console(soft_wrap=True), time.monotonic()
    verdicts = run_many(first, seeds) if seed is None else some([seed])
    for verdict in verdicts:
        if verdict.broken:
            tell(verdict, console, index=seed is not None)
    summary = report(verdicts) | {"seconds": round(time.monotonic() - started, 1)}
    console.print_json(data=summary)
    is_short = len(verdicts) < 100
    raise typer.Exit(1 if summary["failed"] or (summary["never"] and not is_short) else 0)


if __name__ == "__main__":
    typer.run(main)
