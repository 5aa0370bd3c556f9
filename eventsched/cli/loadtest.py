"""`eventsched loadtest`: replay recorded conversations as load and check the outcomes.

Owns: the processes of a load test (roles, simulated nodes), the live table, the printed verdict.
Never does: the replay, the check. Read next: loadtest/replay.py, loadtest/judge.py.
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
from eventsched.history.log import History
from eventsched.loadtest.judge import Verdict, judge
from eventsched.loadtest.replay import Replay
from eventsched.loadtest.rttm import Conversation, Expected, expect, read_rttm
from eventsched.node.readiness import missing_node
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.schema.validation import check_language
from eventsched.store.connection import Connection
from eventsched.subprocesses import Children, children
from eventsched.tables import Text

NODES_MAX = 64
SPEED_MIN = 0.1
"""At a lower speed, the time between two chunks comes near to a pause, which ends utterances."""
LINE_S = 10.0
"""Time between two lines of progress, where standard error is no terminal."""

Files = Annotated[list[Path], typer.Argument(help="RTTM files: who spoke when.")]
Speed = Annotated[float, typer.Option(help="Speed of the replay; 1 is real time.")]
Nodes = Annotated[int, typer.Option(help="Number of simulated nodes, one process each.")]
Slots = Annotated[int, typer.Option(help="Slots of each node.")]
Langs = Annotated[str, typer.Option(help="Listen languages, assigned to the speakers in turn.")]
Rtf = Annotated[
    float, typer.Option(help="Real-time factor: processing time of a job per time of its audio.")
]


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
    """Replay recorded conversations as load; the exit code is 1 if an outcome is wrong or missing.

    Each recording is a room, and each speaker a session that listens to the others in one language.
    """
    languages = _check(speed, nodes, slots, langs, rtf)
    conversations = _read(files, languages, quiet=options.quiet)
    expected = expect(conversations)
    folder = ArchiveFolder.open(archive) if archive else None
    async with options.connect(create=True, cells=cells) as connection:
        if nodes < len(connection.cells):
            raise InvalidMessage.of(
                "nodes", f"at least one for each of {len(connection.cells)} cells", "add nodes"
            )
        with tempfile.TemporaryDirectory(prefix="eventsched-loadtest-") as temporary:
            async with (
                children(Path(temporary) / "log", connection.url) as fleet,
                running_client(Client(connection.stores, url=connection.url)) as es,
            ):
                run_id = secrets.token_hex(4)
                names = _names(connection.cells, nodes, run_id)
                await _start(fleet, names, slots, languages, rtf, speed)
                await fleet.until_ready(lambda: missing_node(connection.stores, names))
                replay = Replay(es, conversations, speed=speed, run_id=run_id)
                verdict = await _run(options, connection, replay, expected, folder)
    _show(options, verdict)
    return 0 if verdict.is_good else 1


def _read(files: Sequence[Path], langs: Sequence[str], *, quiet: bool) -> list[Conversation]:
    """Return the conversations of all files; unless quiet, print how many lines are not used."""
    conversations: list[Conversation] = []
    for path in files:
        recording = read_rttm(path, langs)
        unused = recording.describe_unused()
        if unused and not quiet:
            notes().print(Text(f"{path}: {unused}", "yellow"), soft_wrap=True)
        conversations += recording.conversations
    return conversations


def _check(speed: float, nodes: int, slots: int, langs: str, rtf: float) -> list[str]:
    """Check the arguments and return the languages. Raises InvalidMessage."""
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
    """Start the roles in one process and each node in another."""
    languages = ",".join(dict.fromkeys(langs))
    await fleet.start("eventsched.cli", "--quiet", "up")
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(
                fleet.start, "eventsched.loadtest.worker",
                name, str(slots), languages, str(rtf), str(speed),
            )  # fmt: skip


async def _run(
    options: Options,
    connection: Connection,
    replay: Replay,
    expected: Expected,
    archive: ArchiveFolder | None,
) -> Verdict:
    stores = list(connection.stores.values())
    first_ids = {store.cell: await store.last_id(store.keys.log) for store in stores}
    start_s = time.monotonic()
    async with anyio.create_task_group() as tasks:
        if not options.json and not options.quiet:
            tasks.start_soon(_show_progress, replay, expected)
        record = await replay.run()
        tasks.cancel_scope.cancel()
    wall_s = time.monotonic() - start_s
    core = load_core()
    histories = {
        store.cell: await History.open(ProjectionStore(store.transport, store.cell), archive, core)
        for store in stores
    }
    return await judge(histories, first_ids, record, expected, wall_s)


async def _show_progress(replay: Replay, expected: Expected) -> None:
    """Show the progress of the replay: a table on a terminal, else a line every LINE_S."""
    conversations, start_s = replay.conversations, time.monotonic()
    title = f"replaying {len(conversations)} conversations at {replay.speed:g}x"
    if not notes().is_terminal:
        while True:
            figures = _progress(replay, expected, time.monotonic() - start_s)
            line = ", ".join(f"{name} {figure}" for name, figure in figures.items())
            notes().print(Text(f"{title}: {line}"), soft_wrap=True)
            await anyio.sleep(LINE_S)
    with Live(console=notes(), refresh_per_second=4, transient=True) as live:
        while True:
            figures = _progress(replay, expected, time.monotonic() - start_s)
            table = Table(title=title)
            for column in figures:
                table.add_column(column, justify="right")
            table.add_row(*figures.values())
            live.update(table)
            await anyio.sleep(0.25)


def _progress(replay: Replay, expected: Expected, elapsed_s: float) -> dict[str, str]:
    """Return the figures of the progress by name."""
    record, conversations = replay.record, replay.conversations
    speech_s = sum(g.ms for c in conversations for s in c.speakers for g in s.segments) / 1000
    total_s = max(each.end_ms for each in conversations) / 1000 / replay.speed
    return {
        "time": f"{elapsed_s:.0f} of {total_s:.0f} s",
        "speech": f"{record.done_s / max(speech_s, 0.001):.0%}",
        "sessions": f"{len(record.sessions)} of {expected.sessions}",
        "chunks": f"{record.chunks:,}",
        "outcomes": f"{len(record.received):,}",
    }


def _show(options: Options, verdict: Verdict) -> None:
    figures = msgspec.to_builtins(verdict)
    if options.json:
        sys.stdout.buffer.write(msgspec.json.encode(figures) + b"\n")
        return
    table = Table(title="load test: passed" if verdict.is_good else "load test: FAILED")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, _cell(value))
    console().print(table)


def _cell(value: dict[str, float] | float) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number:,.1f}" for name, number in value.items())
    return f"{value:,}"
