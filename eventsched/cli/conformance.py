"""`eventsched conformance`: judge a client of the gateway's protocol.

Owns: the printed verdicts, the exit code. Never does: judge. Read next: conformance/driver.py.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventsched.cli.options import Options, command
from eventsched.errors import require_packages

Program = Annotated[
    list[str], typer.Argument(metavar="PROGRAM...", help="The client and its arguments.")
]
Kinds = Annotated[
    list[str] | None, typer.Option("--kind", help="producer or node; both unless named.")
]
Scenarios = Annotated[
    list[str] | None,
    typer.Option("--scenario", metavar="NAME", help="Scenario; repeatable; all unless named."),
]
Within = Annotated[
    float,
    typer.Option("--within", metavar="SECONDS", min=0.1, help="Time for what is due [20]."),
]


@command
async def conformance(
    options: Options,
    program: Program,
    kind: Kinds = None,
    scenario: Scenarios = None,
    within: Within = 20.0,
) -> int:
    """Run a client in each scenario of docs/conformance.md and judge it by the protocol's rules.

    The program is called as PROGRAM producer|node --url URL --token TOKEN --scenario NAME. Write --
    before it if it has options. The exit code is 0 if it passes everywhere.
    """
    require_packages("joserfc", "starlette", "uvicorn", "websockets", extra="gateway")
    from eventsched.cli.output import print_json, print_line
    from eventsched.conformance.driver import judge, select

    failures = 0
    async for verdict in judge(program, select(kind or [], scenario or []), within):
        failures += not verdict.ok
        if options.json:
            print_json(verdict)
            continue
        name = f"{verdict.kind} {verdict.scenario}"
        if verdict.ok:
            print_line(f"ok    {name}  {verdict.ms:,} ms")
            continue
        print_line(f"FAIL  {name}  {verdict.rule}: {verdict.detail}")
        for line in verdict.log:
            print_line(f"      | {line}")
    return 1 if failures else 0
