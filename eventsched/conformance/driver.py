"""Runs a client program in each scenario and judges it.

Owns: the process of the program, the verdict of each scenario.
Never does: print. Read next: producer_scenarios.py, node_scenarios.py, cli/conformance.py.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias

import anyio
import msgspec
from anyio.abc import Process

from eventsched.conformance.node_peer import NodePeer
from eventsched.conformance.node_scenarios import NODE_SCENARIOS
from eventsched.conformance.peer import WITHIN_S, Broken, Listener, listening
from eventsched.conformance.producer_peer import ProducerPeer
from eventsched.conformance.producer_scenarios import PRODUCER_SCENARIOS
from eventsched.conformance.rules import Violation, check
from eventsched.errors import InvalidMessage

Kind: TypeAlias = Literal["producer", "node"]
SCENARIOS: Mapping[Kind, Mapping[str, Any]] = {
    "producer": PRODUCER_SCENARIOS,
    "node": NODE_SCENARIOS,
}
PATHS = {"producer": "/v1/sessions", "node": "/v1/nodes"}
FINAL = {"gone", "superseded"}
"""Scenarios after which the client ends with a failure, and does not connect again."""
BROKEN = {"garbage": "UNKNOWN", "backpressure": "BACKPRESSURE", "drain": "DRAIN"}
"""The rule that a client violates by closing its connection, if it is not CONNECTION."""
SCENARIO_S = 120.0
LOG_LINES = 8


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How a program did in one scenario."""

    kind: str
    scenario: str
    ok: bool
    rule: str = ""
    """The rule that it violates."""
    detail: str = ""
    log: list[str] = msgspec.field(default_factory=list)
    """The end of what the program printed, if it did not pass."""
    ms: int = 0


def select(kinds: Sequence[str], names: Sequence[str]) -> list[tuple[Kind, str]]:
    """Return the scenarios of these kinds and names; all if none is named.

    Raises InvalidMessage for an unknown name.
    """
    chosen: list[tuple[Kind, str]] = []
    for kind, scenarios in SCENARIOS.items():
        if not kinds or kind in kinds:
            chosen += [(kind, name) for name in scenarios if not names or name in names]
    unknown = sorted(set(kinds) - set(SCENARIOS)) or sorted(set(names) - {n for _, n in chosen})
    if unknown:
        known = ", ".join(dict.fromkeys(n for each in SCENARIOS.values() for n in each))
        raise InvalidMessage.of(
            "--scenario", f"producer or node, and a scenario of {known}", f"not {unknown[0]!r:.80}"
        )
    return chosen


async def judge(
    program: Sequence[str], scenarios: Sequence[tuple[Kind, str]], within_s: float = WITHIN_S
) -> AsyncIterator[Verdict]:
    """Run the program in each scenario, one after the other, and yield the verdicts."""
    for kind, name in scenarios:
        yield await judge_one(program, kind, name, within_s)


async def judge_one(
    program: Sequence[str], kind: Kind, name: str, within_s: float = WITHIN_S
) -> Verdict:
    """Run the program in one scenario.

    Args:
        program: The program and its first arguments.
        kind: `producer` or `node`.
        name: Name of the scenario.
        within_s: How long the client may take for what is due.
    """
    token = f"conformance.{secrets.token_urlsafe(24)}"
    start = monotonic()
    with tempfile.TemporaryFile() as log:
        violation: Violation | None = None
        try:
            async with listening(PATHS[kind], token, within_s) as listener:
                words = (kind, "--url", listener.url, "--token", token, "--scenario", name)
                async with _running([*program, *words], log) as process:
                    await _play(kind, name, listener, process)
        except Violation as error:
            violation = error
        log.seek(0)
        lines = log.read().decode(errors="replace").splitlines()
    return Verdict(
        kind=kind,
        scenario=name,
        ok=violation is None,
        rule=violation.rule if violation else "",
        detail=violation.detail if violation else "",
        log=[line[:300] for line in lines[-LOG_LINES:]] if violation else [],
        ms=round((monotonic() - start) * 1_000),
    )


async def _play(kind: Kind, name: str, listener: Listener, process: Process) -> None:
    """Play one scenario, then judge the end of the program. Raises Violation."""
    peer: ProducerPeer | NodePeer
    if kind == "producer":
        peer = ProducerPeer(listener)
    else:
        peer = NodePeer(listener, lambda: process.send_signal(signal.SIGTERM))
    try:
        with anyio.fail_after(SCENARIO_S):
            await _during(process, SCENARIOS[kind][name](peer))
    except Broken as error:
        detail = f"the client has closed the connection: {error}"
        raise Violation(BROKEN.get(name, "CONNECTION"), detail) from None
    except TimeoutError:
        raise Violation("PACE", f"not at the end within {SCENARIO_S:.0f} s") from None
    tries = listener.tries
    code = await _ended(process, listener.within_s)
    check(listener.tries == tries, "FINAL", "the client has connected again")
    if name in FINAL:
        check(code not in (0, None), "FINAL", f"exit code {code}")
    else:
        check(code == 0, "END", f"exit code {code}")


async def _during(process: Process, playing: Any) -> None:
    """Await the scenario; raise Violation as soon as the program has ended before it."""

    async def watch() -> None:
        code = await process.wait()
        await anyio.sleep(1.0)  # the scenario may end with the program
        raise Violation("END", f"the program has ended with exit code {code}")

    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await playing
            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raised = group.exceptions[0]
    if raised is not None:
        raise raised


async def _ended(process: Process, within_s: float) -> int | None:
    """Return the exit code of the program; None if it does not end."""
    with anyio.move_on_after(within_s):
        await process.wait()
    return process.returncode


@asynccontextmanager
async def _running(words: Sequence[str], log: Any) -> AsyncIterator[Process]:
    """Run the program while the block lasts. Raises InvalidMessage."""
    try:
        process = await anyio.open_process(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    except OSError as error:
        raise InvalidMessage.of(
            "PROGRAM", f"{Path(words[0]).name}: {error.strerror}", "name a program"
        ) from error
    try:
        yield process
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
            await process.wait()
