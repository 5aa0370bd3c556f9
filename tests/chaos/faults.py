"""What goes wrong, when, and to whom: all of it drawn from the seed before the run begins.

Owns: the kinds of fault, the plan of a run, doing each of them and undoing it.
Never does: judge. Read next: fleet.py, proxy.py.

A plan is the same for the same seed and length. What it meets is not: processes run in real time.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random

import anyio
import anyio.to_thread
import structlog

from eventsched.server.testing import LocalServer
from tests.chaos.fleet import ROLES, Fleet, Member
from tests.chaos.proxy import Proxy

log = structlog.get_logger("chaos")

GAP_S = 1.6
"""Faults begin so far apart, on average; they overlap."""
KINDS: dict[str, int] = {
    "kill_role": 10,
    "freeze_role": 8,
    "kill_node": 8,
    "freeze_node": 7,
    "twin_node": 3,
    "restart_server": 5,
    "freeze_server": 2,
    "storm": 8,
    "lag": 5,
    "blackout": 4,
    "stall": 3,
}
"""Weights: how often each is drawn beside the others."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at_s: float
    kind: str
    pick: float
    """Chooses whom: 0 to 1."""
    seconds: float
    strength: float


def plan(seed: int, length_s: float) -> list[Fault]:
    """Everything that goes wrong, in order of time; each kind comes before any comes again."""
    rng = Random(f"faults-{seed}")
    kinds = list(KINDS)
    rng.shuffle(kinds)
    faults, at_s = list[Fault](), rng.uniform(0.5, 1.5)
    while at_s < length_s:
        kind = kinds.pop() if kinds else rng.choices(list(KINDS), list(KINDS.values()))[0]
        seconds = _length(kind, rng)
        faults.append(Fault(at_s, kind, rng.random(), seconds, rng.random()))
        at_s += rng.expovariate(1 / GAP_S)
    return faults


def _length(kind: str, rng: Random) -> float:
    match kind:
        case "freeze_role":
            return rng.choice([rng.uniform(0.05, 1.0), *[rng.uniform(1.6, 5.0)] * 2])
        case "freeze_node" | "twin_node":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(4.5, 9.0)])
        case "restart_server":
            return rng.choice([0.0, rng.uniform(0.1, 1.0), rng.uniform(1.0, 4.0)])
        case "freeze_server":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(5.2, 7.0)])
        case "stall":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(5.2, 6.5)])
        case "blackout":
            return rng.uniform(0.2, 4.0)
        case "storm" | "lag":
            return rng.uniform(1.0, 6.0)
        case _:
            return 0.0


class Mischief:
    """Does what a plan says, to a fleet, its wires and the server."""

    def __init__(self, fleet: Fleet, proxies: Sequence[Proxy], server: LocalServer) -> None:
        self._fleet = fleet
        self._proxies = proxies
        self._server = server
        self._server_turn = anyio.Lock()
        self.done: Counter[str] = Counter()
        self._ways: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill_role": self._kill,
            "freeze_role": self._freeze,
            "kill_node": self._kill,
            "freeze_node": self._freeze,
            "twin_node": self._twin,
            "restart_server": self._restart_server,
            "freeze_server": self._freeze_server,
            "storm": self._storm,
            "lag": self._lag,
            "blackout": self._blackout,
            "stall": self._stall,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """All has been done and undone when this returns."""
        begins = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            for fault in faults:
                await anyio.sleep(max(0.0, begins + fault.at_s - anyio.current_time()))
                tasks.start_soon(self._do, fault)

    async def _do(self, fault: Fault) -> None:
        log.info("fault", kind=fault.kind, at_s=round(fault.at_s, 1), s=round(fault.seconds, 1))
        await self._ways[fault.kind](fault)

    # --- processes ------------------------------------------------------------------------------

    def _picked(self, fault: Fault) -> Member | None:
        """One that no other fault is at, and that runs; none when there is no such."""
        kinds: Sequence[str] = ROLES if fault.kind.endswith("role") else ("node",)
        free = [
            one
            for one in self._fleet.members
            if one.kind in kinds and one.is_running and not one.is_busy
        ]
        if not free:
            self.done["nobody left for " + fault.kind] += 1
            return None
        return free[int(fault.pick * len(free))]

    async def _kill(self, fault: Fault) -> None:
        member = self._picked(fault)
        if member is not None:
            self.done[f"killed {member.kind}"] += 1
            self._fleet.kill(member)

    async def _freeze(self, fault: Fault) -> None:
        member = self._picked(fault)
        if member is None:
            return
        self.done[f"froze {member.kind}"] += 1
        await self._frozen(member, fault.seconds)

    async def _frozen(self, member: Member, seconds: float) -> None:
        member.is_busy = True
        try:
            member.send(signal.SIGSTOP)
            await anyio.sleep(seconds)
        finally:
            member.send(signal.SIGCONT)
            member.is_busy = False

    async def _twin(self, fault: Fault) -> None:
        """The node freezes, a new process takes its name, the old one wakes up beside it."""
        member = self._picked(fault)
        if member is None:
            return
        self.done["froze node and started its twin"] += 1
        twin = self._fleet.add_twin(member)
        await self._frozen(member, fault.seconds)
        await anyio.sleep(2.0)  # both run: the older is told, ends, and its successor comes
        self._fleet.kill(twin)

    # --- the server -----------------------------------------------------------------------------

    async def _restart_server(self, fault: Fault) -> None:
        async with self._server_turn:
            self.done["restarted server"] += 1
            await anyio.to_thread.run_sync(self._server.kill)
            await anyio.sleep(fault.seconds)
            await anyio.to_thread.run_sync(self._server.start)

    async def _freeze_server(self, fault: Fault) -> None:
        async with self._server_turn:
            self.done["froze server"] += 1
            self._server.pause()
            try:
                await anyio.sleep(fault.seconds)
            finally:
                self._server.resume()

    # --- the wires ------------------------------------------------------------------------------

    def _wire(self, fault: Fault) -> Proxy:
        return self._proxies[int(fault.pick * len(self._proxies))]

    async def _storm(self, fault: Fault) -> None:
        """Connections are cut before and after the server has acted, and in the middle of words."""
        proxy = self._wire(fault)
        self.done[f"storm at {proxy.name}"] += 1
        weather = proxy.weather
        weather.cut_before = weather.cut_after = 0.002 + 0.02 * fault.strength
        weather.cut_amid = weather.cut_after / 2
        await anyio.sleep(fault.seconds)
        weather.cut_before = weather.cut_after = weather.cut_amid = 0.0

    async def _lag(self, fault: Fault) -> None:
        proxy = self._wire(fault)
        self.done[f"lag at {proxy.name}"] += 1
        proxy.weather.delay_s = 0.002 + 0.08 * fault.strength
        await anyio.sleep(fault.seconds)
        proxy.weather.delay_s = 0.0

    async def _blackout(self, fault: Fault) -> None:
        proxy = self._wire(fault)
        self.done[f"blackout at {proxy.name}"] += 1
        proxy.weather.is_open = False
        proxy.cut_all()
        await anyio.sleep(fault.seconds)
        proxy.weather.is_open = True

    async def _stall(self, fault: Fault) -> None:
        """Bytes stay in the wire; some stay there for longer than the clients' patience."""
        proxy = self._wire(fault)
        self.done[f"stall at {proxy.name}"] += 1
        proxy.weather.flows = False
        await anyio.sleep(fault.seconds)
        proxy.weather.flows = True
