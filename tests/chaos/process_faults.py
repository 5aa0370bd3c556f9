"""Faults of processes: killed, frozen, replaced by a second process of the same name.

Owns: the choice of the process, sending signals. Read next: fleet.py.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import anyio

from tests.chaos.faults import Fault
from tests.chaos.fleet import ROLES, Fleet, Member

BOTH_RUN_S = 2.0
"""The older process learns that it is superseded and ends, and the supervisor starts another."""


class ProcessFaults:
    """Causes faults in the processes of a fleet."""

    def __init__(self, fleet: Fleet, done: Counter[str]) -> None:
        self._fleet = fleet
        self._done = done
        self.actions: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill_role": self._kill,
            "freeze_role": self._freeze,
            "kill_gateway": self._kill,
            "freeze_gateway": self._freeze,
            "kill_node": self._kill,
            "freeze_node": self._freeze,
            "twin_node": self._start_twin,
        }

    def _pick(self, fault: Fault) -> Member | None:
        """A running process that no other fault affects; None if there is none."""
        _, affected = fault.kind.split("_")
        kinds: Sequence[str] = ROLES if affected == "role" else (affected,)
        free = [
            member
            for member in self._fleet.members
            if member.kind in kinds and member.is_running and not member.is_busy
        ]
        if not free:
            self._done["no process for " + fault.kind] += 1
            return None
        return free[int(fault.pick * len(free))]

    async def _kill(self, fault: Fault) -> None:
        member = self._pick(fault)
        if member is not None:
            self._done[f"killed {member.kind}"] += 1
            self._fleet.kill(member)

    async def _freeze(self, fault: Fault) -> None:
        member = self._pick(fault)
        if member is not None:
            self._done[f"froze {member.kind}"] += 1
            await self._freeze_member(member, fault.seconds)

    async def _freeze_member(self, member: Member, seconds: float) -> None:
        member.is_busy = True
        try:
            member.send(signal.SIGSTOP)
            await anyio.sleep(seconds)
        finally:
            member.send(signal.SIGCONT)
            member.is_busy = False

    async def _start_twin(self, fault: Fault) -> None:
        """Freeze a node, start a second process of its name, and let both run."""
        member = self._pick(fault)
        if member is None:
            return
        self._done["froze node and started its twin"] += 1
        twin = self._fleet.add_twin(member)
        await self._freeze_member(member, fault.seconds)
        await anyio.sleep(BOTH_RUN_S)
        self._fleet.kill(twin)
