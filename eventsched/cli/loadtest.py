"""`eventsched loadtest`: replay real conversations as load and say whether all came out right.

Owns: the processes of a replay (roles, simulated nodes), the live table, the verdict on screen.
Read next: loadtest/replay.py, loadtest/judge.py.
"""

from __future__ import annotations

import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.live import Live
from rich.table import Table

from eventsched.archive.layout import ArchiveFolder
from eventsched.cli.options import Archive, Options, command
from eventsched.cli.output import console, notes
from eventsched.cli.serve import Cells
from eventsched.client.client import Client, running_client
from eventsched.errors import InvalidMessage
from eventsched.formatting import Text
from eventsched.history.log import History
from eventsched.loadtest.judge import Verdict, judge
from eventsched.loadtest.replay import Replay
from eventsched.loadtest.rttm import Conversation, Expected, expect, read_rttm
from eventsched.node.readiness import missing_node
from eventsched.projection.protocol import indexing_set, load_sets
from eventsched.projection.store import ProjectionStore
from eventsched.schema.validation import check_language
from eventsched.store.connection import Connection
from eventsched.subprocesses import Children, children

NODES_MAX = 64
SPEED_MIN = 0.1
"""Slower, the time between two chunks would come near to a pause, which cuts utterances."""

Files = Annotated[list[Path], typer.Argument(help="RTTM files: who spoke when.")]
Speed = Annotated[float, typer.Option(help="Times the recorded pace.")]
Nodes = Annotated[int, typer.Option(help="Simulated nodes, each a process.")]
Slots = Annotated[int, typer.Option(help="Jobs at a time on each node.")]
Langs = Annotated[str, typer.Option(help="Speaker i hears the (i mod n)-th of these.")]
Rtf = Annotated[float, typer.Option(help="A job is held for so many times its audio.")]


@command
async def loadtest(
    options: Options,
    files: Files,
    speed: Speed = 1.0,
    nodes: Nodes = 4,
    slots: Slots = 4,
    langs: Langs = "en,es",
    rtf: Rtf = 0.3,
    cells: Cells = None,
    archive: Archive = None,
) -> int:
    """Replay conversations (RTTM) as load; exit code 1 unless everything came out right.

    A speaker is a session, a recording is a room: speakers hear each other, each in one language.
    """
    listed = _check(speed, nodes, slots, langs, rtf)
    conversations = _read(files, listed, quiet=options.quiet)
    expected = expect(conversations)
    sealed = ArchiveFolder.open(archive) if archive else None
    async with options.connect(create=True, cells=cells) as connection:
        if nodes < len(connection.cells):
            raise InvalidMessage.of(
                "nodes", f"at least one for each of {len(connection.cells)} cells", "add nodes"
            )
        with tempfile.TemporaryDirectory(prefix="eventsched-loadtest-") as folder:
            async with (
                children(Path(folder) / "log", connection.url) as fleet,
                running_client(Client(connection.stores, url=connection.url)) as es,
            ):
                run_id = secrets.token_hex(4)
                names = _names(connection.cells, nodes, run_id)
                await _start(fleet, names, slots, listed, rtf, speed)
                await fleet.until_ready(lambda: missing_node(connection.stores, names))
                replay = Replay(es, conversations, speed=speed, run_id=run_id)
                verdict = await _run(options, connection, replay, expected, sealed)
    _show(options, verdict)
    return 0 if verdict.is_good else 1


def _read(files: Sequence[Path], langs: Sequence[str], *, quiet: bool) -> list[Conversation]:
    """The recordings of all files; a note says which lines were not used."""
    conversations: list[Conversation] = []
    for path in files:
        found = read_rttm(path, langs)
        unused = found.describe_unused()
        if unused and not quiet:
            notes().print(Text(f"{path}: {unused}", "yellow"), soft_wrap=True)
        conversations += found.conversations
    return conversations


def _check(speed: float, nodes: int, slots: int, langs: str, rtf: float) -> list[str]:
    if not SPEED_MIN <= speed <= 1_000:
        raise InvalidMessage.of("speed", f"{SPEED_MIN} to 1000, not {speed:g}", "choose another")
    if not 1 <= nodes <= NODES_MAX:
        raise InvalidMessage.of("nodes", f"1 to {NODES_MAX}, not {nodes}", "choose another")
    if not 1 <= slots <= 256:
        raise InvalidMessage.of("slots", f"1 to 256, not {slots}", "choose another")
    if not 0 <= rtf <= 10:
        raise InvalidMessage.of("rtf", f"0 to 10, not {rtf:g}", "choose another")
    return [check_language("langs", language, auto=False) for language in langs.split(",")]


def _names(cells: Sequence[str], nodes: int, run_id: str) -> list[str]:
    return [f"{cells[number % len(cells)]}.loadtest-{run_id}-{number}" for number in range(nodes)]


async def _start(
    fleet: Children,
    names: Sequence[str],
    slots: int,
    langs: Sequence[str],
    rtf: float,
    speed: float,
) -> None:
    """Roles and nodes run in processes of their own; several of a role would do no harm."""
    told = ",".join(dict.fromkeys(langs))
    await fleet.start("eventsched.cli", "--quiet", "up")
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(
                fleet.start, "eventsched.loadtest.worker",
                name, str(slots), told, str(rtf), str(speed),
            )  # fmt: skip


async def _run(
    options: Options,
    connection: Connection,
    replay: Replay,
    expected: Expected,
    archive: ArchiveFolder | None,
) -> Verdict:
    stores = list(connection.stores.values())
    started = {store.cell: await store.last_id(store.keys.log) for store in stores}
    begins = time.monotonic()
    async with anyio.create_task_group() as tasks:
        if not options.json and not options.quiet:
            tasks.start_soon(_live, replay, expected)
        record = await replay.run()
        tasks.cancel_scope.cancel()
    wall_s = time.monotonic() - begins
    core = indexing_set(load_sets())
    histories = {
        store.cell: await History.open(ProjectionStore(store.transport, store.cell), archive, core)
        for store in stores
    }
    return await judge(histories, started, record, expected, wall_s)


async def _live(replay: Replay, expected: Expected) -> None:
    """A table that moves while the replay runs; on a terminal only."""
    if not notes().is_terminal:
        return
    begins, conversations, speed = time.monotonic(), replay.conversations, replay.speed
    spoken_s = sum(g.ms for c in conversations for s in c.speakers for g in s.segments) / 1000
    ends_s = max(conversation.end_ms for conversation in conversations) / 1000 / speed
    with Live(console=notes(), refresh_per_second=4, transient=True) as live:
        while True:
            record, at_s = replay.record, time.monotonic() - begins
            table = Table(title=f"replaying {len(conversations)} conversations at {speed:g}x")
            for column in ("time", "speech", "sessions", "chunks", "outcomes heard"):
                table.add_column(column, justify="right")
            table.add_row(
                f"{at_s:.0f} of {ends_s:.0f} s",
                f"{record.done_s / max(spoken_s, 0.001):.0%}",
                f"{len(record.sessions)} of {expected.sessions}",
                f"{record.chunks:,}",
                f"{len(record.heard):,}",
            )
            live.update(table)
            await anyio.sleep(0.25)


def _show(options: Options, verdict: Verdict) -> None:
    told = msgspec.to_builtins(verdict)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        return
    table = Table(title="replay: good" if verdict.is_good else "replay: NOT as expected")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in told.items():
        table.add_row(name, _cell(value))
    console().print(table)


def _cell(value: dict[str, float] | float) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:,.1f}" for name, number in value.items())
    return f"{value:,}"
