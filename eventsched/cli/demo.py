"""`eventsched demo`: a conversation of three speakers with bundled recordings.

Owns: the printed result. Never does: speech. Read next: demo/run.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    from eventsched.demo.run import Verdict
    from eventsched.store.connection import Connection

NODES_MAX = 16
SPEED_MAX = 20.0

Nodes = Annotated[int, typer.Option(help="Number of worker processes.")]
Speed = Annotated[float, typer.Option(help="Speed of the speech; 1 is real time.")]


@command
async def demo(options: Options, nodes: Nodes = 3, speed: Speed = 1.0) -> int:
    """Run a conversation of three people in a room, and show jobs, nodes and latencies.

    The command starts roles and worker processes, streams bundled recordings, recognises and
    translates them, and prints the history of one session. The exit code is 1 if results are
    missing or wrong.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise InvalidMessage.of("--nodes", f"1 to {NODES_MAX}, not {nodes}", "choose another")
    if not 0.1 <= speed <= SPEED_MAX:
        raise InvalidMessage.of("--speed", f"0.1 to {SPEED_MAX:g}, not {speed:g}", "choose another")
    from eventsched.demo.speech.recogniser import require_recogniser

    require_recogniser()  # fail before a server is started
    from eventsched.cli.serve import settings_of

    async with options.connect(create=True, settings=settings_of([])) as connection:
        return await _run(options, connection, nodes, speed)


async def _run(options: Options, connection: Connection, nodes: int, speed: float) -> int:
    from rich.console import Console

    from eventsched.cli.output import console, print_json
    from eventsched.demo.run import run_demo
    from eventsched.demo.view import show_for
    from eventsched.roles.runner import running

    output = Console(quiet=True) if options.json else console()
    with show_for(output) as show:
        async with running(connection):
            verdict = await run_demo(connection, show, nodes=nodes, speed=speed)
    if options.json:
        print_json(_as_json(verdict))
    else:
        await _show(options, connection, verdict)
    return 0 if verdict.is_good else 1


async def _show(options: Options, connection: Connection, verdict: Verdict) -> None:
    from eventsched.cli.output import console
    from eventsched.cli.timeline import Timeline
    from eventsched.demo.view import jobs_table, sessions_table
    from eventsched.formatting import plural
    from eventsched.history.reader import EventFilter, Reader
    from eventsched.history.source import HistorySource
    from eventsched.tables import Text

    out = console()
    if not out.is_terminal:  # a terminal shows both tables already
        out.print(sessions_table(verdict.board))
        out.print(jobs_table(verdict.board))
    session, speaker = next(iter(verdict.board.speakers.items()))
    timeline = Timeline(f"{speaker}'s session {session}")
    async for event in Reader(HistorySource(connection)).history(EventFilter(session=session)):
        timeline.show(event)
    for problem in verdict.problems:
        out.print(Text(problem, "red"))
    jobs = plural(len(verdict.board.rows), "job")
    summary = f"{jobs}, {verdict.received} results, word accuracy {verdict.accuracy:.2f}"
    out.print(Text(summary, "bold green" if verdict.is_good else "bold red"))
    where = f" --data {options.data}" if options.data and not options.url else ""
    out.print(Text(f"next: eventsched{where} history {session}", "dim"))


def _as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "passed": verdict.is_good,
        "problems": verdict.problems,
        "word_accuracy": round(verdict.accuracy, 3),
        "results": verdict.received,
        "sessions": verdict.board.speakers,
        "jobs": list(verdict.board.rows.values()),
    }
