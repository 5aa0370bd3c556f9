"""The processes of a chaos run, and a supervisor that starts again whatever ends.

Owns: starting, killing, freezing; noticing a process that ended although nobody ended it.
Never does: choose whom (faults.py).
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

Kind = Literal["dispatcher", "projector", "timer", "node"]
ROLES: tuple[Kind, ...] = ("dispatcher", "projector", "timer")
END_S = 15.0
POLL_S = 0.02


@dataclass
class Member:
    """One place in the fleet, held by one process after another."""

    name: str
    kind: Kind
    arguments: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    is_busy: bool = False
    """A fault is at work here: no second one at the same time."""
    was_killed: bool = False
    starts: int = 0
    log: Path = field(default_factory=Path)
    log_from: int = 0
    """Where in the log the present process begins."""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)


class Fleet:
    """All members, kept running until `end`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = False
        self.members: list[Member] = []
        self.twins: list[Member] = []
        self.odd_ends: list[str] = []
        """Processes that ended although nobody ended them."""
        self.ended: Counter[str] = Counter()

    def add(self, name: str, kind: Kind, *arguments: str) -> Member:
        member = Member(name, kind, arguments, log=self._folder / f"{name}.log")
        self.members.append(member)
        self._start(member)
        return member

    def add_twin(self, member: Member) -> Member:
        """A second process under the same name: a node's newer one ends the older one's service."""
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
        """Start again whatever has ended, until told to stop."""
        while not self._ends:
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
        assert member.process is not None
        code = member.process.returncode
        if member.was_killed:
            self.ended["killed"] += 1
        elif member.kind == "node" and code == SUPERSEDED:
            self.ended["superseded"] += 1
        elif code == 1 and not self._was_ready(member):
            self.ended["found no server"] += 1
        else:
            self.odd_ends.append(f"{member.name} ended with {code}: {_last_words(member.log)}")

    def _was_ready(self, member: Member) -> bool:
        """Whether the process that has ended ever said that it was."""
        lines = member.log.read_bytes()[member.log_from :].splitlines()
        return any(line.startswith(b"ready: ") for line in lines)

    async def end(self) -> None:
        """All have ended in order when this returns; who does not in time is odd."""
        self._ends = True
        everyone = [*self.members, *self.twins]
        for member in everyone:
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        ends_at = time.monotonic() + END_S
        for member in everyone:
            while member.is_running and time.monotonic() < ends_at:  # noqa: ASYNC110 - a process
                await asyncio.sleep(POLL_S)
            if member.is_running:
                self.odd_ends.append(f"{member.name} did not end in {END_S} s")
                member.send(signal.SIGKILL)
            assert member.process is not None
            member.process.wait()
            if not member.was_killed and member.process.returncode not in (0, -9, SUPERSEDED):
                self._account(member)


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:]
