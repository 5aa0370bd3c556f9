"""The processes of a run, and a supervisor that starts each ended process again.

Owns: starting, killing; noticing a process that ended although the run did not end it.
Must not: choose a process (process_faults.py).
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import anyio

from eventsched.subprocesses import die_with_parent
from tests.chaos.worker import SUPERSEDED

Kind = Literal["dispatcher", "projector", "timer", "archiver", "gateway", "node"]
ROLES: tuple[Kind, ...] = ("dispatcher", "projector", "timer", "archiver")
NO_SERVER = {"node": 1}
"""Exit codes of a process that ended before it was ready: `connect` does not wait for a server."""
REFUSED = 2
"""Exit code of a role whose first call the server refused, for its password or its access list."""
END_S = 15.0
POLL_S = 0.02


@dataclass
class Member:
    """One place in the fleet, which one process after another fills."""

    name: str
    kind: Kind
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    is_busy: bool = False
    """A fault affects it: no second fault at the same time."""
    was_killed: bool = False
    starts: int = 0
    log: Path = field(default_factory=Path)
    log_from: int = 0
    """The offset in the log at which the output of the present process begins."""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def was_ready(self) -> bool:
        """Whether the process, which has ended, reported that it was ready."""
        lines = self.log.read_bytes()[self.log_from :].splitlines()
        return any(line.startswith(b"ready: ") for line in lines)

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class Fleet:
    """All members; each is started again when it ends, until `end`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_ending = False
        self.members: list[Member] = []
        self.twins: list[Member] = []
        self.unexpected_ends: list[str] = []
        """Processes that ended by themselves."""
        self.ended: Counter[str] = Counter()

    def add(self, name: str, kind: Kind, *arguments: str) -> Member:
        member = Member(name, kind, arguments, log=self._folder / f"{name}.log")
        self.members.append(member)
        self._start(member)
        return member

    def add_twin(self, member: Member) -> Member:
        """Start a second process of this name: it supersedes the older one."""
        twin = Member(f"{member.name}-twin", member.kind, member.arguments)
        twin.log = self._folder / f"{twin.name}-{len(self.twins)}-{member.starts}.log"
        self._start(twin)
        self.twins.append(twin)
        return twin

    def _start(self, member: Member) -> None:
        with member.log.open("ab") as log:
            member.log_from = log.tell()
            member.process = subprocess.Popen(
                [sys.executable, "-m", *member.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one call into libc
            )
        member.was_killed = False
        member.starts += 1

    def kill(self, member: Member) -> None:
        member.was_killed = True
        member.send(signal.SIGKILL)

    async def supervise(self) -> None:
        """Start each ended process again, until `end` is called."""
        while not self._is_ending:
            for member in self.members:
                if not member.is_running and not member.is_busy:
                    self._account(member)
                    self._start(member)
            self.twins = [twin for twin in self.twins if self._is_alive(twin)]
            await anyio.sleep(POLL_S)

    def _is_alive(self, twin: Member) -> bool:
        if not twin.is_running:
            self._account(twin)
        return twin.is_running

    def _account(self, member: Member) -> None:
        """Count the end of a process; the end of a process that had been ready is unexpected."""
        assert member.process is not None
        code = member.process.returncode
        if member.was_killed:
            self.ended["killed"] += 1
        elif member.kind == "node" and code == SUPERSEDED:
            self.ended["superseded"] += 1
        elif code == NO_SERVER.get(member.kind) and not member.was_ready:
            self.ended["no server at start"] += 1
        elif code == REFUSED and not member.was_ready:
            self.ended["refused at start"] += 1
        else:
            last_lines = _last_lines(member.log)
            self.unexpected_ends.append(f"{member.name} ended with {code}: {last_lines}")

    async def end(self) -> None:
        """Return when all processes have ended in order; one that does not is unexpected."""
        self._is_ending = True
        members = [*self.members, *self.twins]
        # Nodes behind gateways end in order as long as there are gateways.
        await self._end([member for member in members if member.kind != "gateway"])
        await self._end([member for member in members if member.kind == "gateway"])

    async def _end(self, members: Sequence[Member]) -> None:
        for member in members:
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        ends_at = time.monotonic() + END_S
        for member in members:
            while member.is_running and time.monotonic() < ends_at:  # noqa: ASYNC110 - a process
                await asyncio.sleep(POLL_S)
            if member.is_running:
                self.unexpected_ends.append(f"{member.name} did not end in {END_S} s")
                member.send(signal.SIGKILL)
            assert member.process is not None
            member.process.wait()
            if not member.was_killed and member.process.returncode not in (0, -9, SUPERSEDED):
                self._account(member)


def _last_lines(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:]
