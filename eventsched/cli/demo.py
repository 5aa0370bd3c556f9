"""`eventsched demo`: a conversation of three speakers with bundled recordings.

Owns: the printed result. Never does: speech. Read next: demo/run.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import InvalidMessage

if TYPE_CHECKING:
    from eventsched.cli.gateway_options import MakeGateway
    from eventsched.demo.run import Verdict
    from eventsched.store.connection import Connection

NODES_MAX = 16
SPEED_MAX = 20.0

Nodes = Annotated[int, typer.Option(help="Number of worker processes.")]
Speed = Annotated[float, typer.Option(help="Speed of the speech; 1 is real time.")]
WithConsole = Annotated[
    bool,
    typer.Option("--console", help="Serve the console during the demo, and stay until Ctrl-C."),
]


@command
async def demo(
    options: Options, nodes: Nodes = 3, speed: Speed = 1.0, with_console: WithConsole = False
) -> int:
    """Run a conversation of three people in a room, and show jobs, nodes and latencies.

    The command starts roles and worker processes, streams bundled recordings, recognises and
    translates them, and prints the history of one session. The exit code is 1 if results are
    missing or wrong.

    With --console, a gateway serves the console, and the command prints a link that opens it, once,
    within a minute. After the conversation it prints another link, and nodes and console stay until
    Ctrl-C, so that you can look at what has happened, and speak.
    """
    if not 1 <= nodes <= NODES_MAX:
        raise InvalidMessage.of("--nodes", f"1 to {NODES_MAX}, not {nodes}", "choose another")
    if not 0.1 <= speed <= SPEED_MAX:
        raise InvalidMessage.of("--speed", f"0.1 to {SPEED_MAX:g}, not {speed:g}", "choose another")
    from eventsched.demo.speech.recogniser import require_recogniser

    require_recogniser()  # fail before a server is started
    from eventsched.cli.serve import settings_of

    gateway = _gateway(options) if with_console else None
    async with options.connect(create=True, settings=settings_of([])) as connection:
        return await _run(options, connection, nodes, speed, gateway)


def _gateway(options: Options) -> MakeGateway:
    """Return what makes the gateway of the console. Raises InvalidMessage."""
    from eventsched.cli.gateway_options import local_gateway

    gateway = local_gateway(options, "", None, is_wanted=True)
    if gateway is None:
        raise InvalidMessage.of(
            "--console", "a server of the data folder, and the extra gateway", "leave out --url"
        )
    return gateway


async def _run(
    options: Options,
    connection: Connection,
    nodes: int,
    speed: float,
    make_gateway: MakeGateway | None,
) -> int:
    from contextlib import AsyncExitStack

    import anyio
    from rich.console import Console

    from eventsched.cli.output import console, print_json
    from eventsched.cli.serve import serving_console
    from eventsched.demo.run import run_demo
    from eventsched.demo.view import show_for
    from eventsched.roles.runner import running

    output = Console(quiet=True) if options.json else console()
    with show_for(output) as show:
        async with running(connection), AsyncExitStack() as stack:
            stay = None
            if make_gateway is not None:
                link = await stack.enter_async_context(serving_console(connection, make_gateway))
                show.say(f"console: {link()}")

                async def stay() -> None:
                    show.say(f"console: {link()}  (Ctrl-C ends the demo)")
                    await anyio.sleep_forever()

            verdict = await run_demo(connection, show, nodes=nodes, speed=speed, stay=stay)
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
