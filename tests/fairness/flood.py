"""One tenant floods, others speak as ever: how long does each wait for a slot? In virtual time.

Owns: the play (who says how much, what the node can do) and what is measured of it.
Never does: real waiting: time is moved by hand, so the same numbers come out on any machine.
Read next: run.py (the table), eventsched/lua/include/queue.lua (what decides).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

import msgspec

from eventsched.audio.chunks import CHUNK_MS_MAX
from eventsched.client.client import features_hash
from eventsched.schema.events import Event, JobDispatched, JobFailed, UtteranceFinalized
from eventsched.schema.keys import name_of
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import Chunk, SessionGrant
from tests.fixtures_store import TimedStore

STEP_MS = 100
SESSIONS = 4
"""Sessions of the flooding tenant at least: one has at most 1,024 open outcomes."""
FINALIZES_MAX = 8
"""Utterances that one call finalizes (rule 33, limits)."""
EVERY_MS = 5_000
"""An ordinary tenant finalizes one utterance in so long."""
TIMES = 1_000
"""So much more the flooding tenant says."""
SLOTS, JOB_MS = 8, 400
"""What the node can do: 20 jobs a second."""
CALM_MS, FLOOD_MS, SETTLE_MS = 10_000, 15_000, 10_500
FEATURES = [f"f{number:02}" for number in range(11)]
"""Features of the node. Each subset of them is another requirement."""
MANY = 1_500
"""Requirements of a flood that asks for another subset of the features in each session."""
UTTERANCE_MS = 100
"""Audio of an utterance."""
SHORT_MS, LONG_MS = 1, 4_000
"""Audio of an utterance of a flood that says as little as it can, and of the other tenants."""


class Tenant(msgspec.Struct, frozen=True):
    """A name, and what its sessions ask for."""

    name: str
    priority: int = 1


TENANTS = (Tenant("calls", 0), Tenant("acme"), Tenant("globex"), Tenant("archive", 2))
FLOODING = Tenant("flood")
SECOND = f"{FLOODING.name}-second"
"""The session of the second flood."""


class SecondFlood(msgspec.Struct, frozen=True):
    """More utterances of the flooding tenant: their target, their priority, and their audio."""

    target: str
    priority: int
    ms: int = LONG_MS
    count: int = 2
    """Utterances in each step: as many as the node of the play can do."""


OTHER_NODES = SecondFlood("fr", 1)
"""Served by another node, which keeps its jobs short of slots."""
OTHER_PRIORITY = SecondFlood("es", 0)
"""Served by the same node before all others."""


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant in one phase: jobs, and how long they waited from finalized to dispatched."""

    phase: str
    tenant: str
    priority: int
    jobs: int
    failed: int
    """Found no slot within the waiting time."""
    median_ms: int
    max_ms: int


class Play:
    """A cell with a node, four ordinary tenants, and later one that floods.

    `requirements`: the number of sessions of the flood, each with a requirement of its own.
    `flood_ms`, `other_ms`: audio of an utterance of the flood, and of the other tenants.
    `second`: what the flooding tenant says beside it.
    """

    def __init__(
        self,
        store: TimedStore,
        requirements: int = 1,
        flood_ms: int = UTTERANCE_MS,
        other_ms: int = UTTERANCE_MS,
        second: SecondFlood | None = None,
    ) -> None:
        self.store, self.flood_ms, self.other_ms = store, flood_ms, other_ms
        self.second = second
        self.flood = [f"{FLOODING.name}-{number}" for number in range(max(requirements, SESSIONS))]
        self.requirements = requirements
        self.turn = 0
        self.sessions: dict[str, SessionGrant] = {}
        self.next_seq: dict[str, int] = {}
        self.nodes: list[NodeGrant] = []

    async def run(self) -> list[Waits]:
        self.nodes.append(await self.store.join(slots=SLOTS, features=FEATURES))
        for one in TENANTS:
            await self._open(one.name, one, [])
        await self._phase(CALM_MS, 0)
        flood_ms = self.store.at_ms
        for number, name in enumerate(self.flood):
            requirement = number % self.requirements
            subset = [each for bit, each in enumerate(FEATURES) if requirement >> bit & 1]
            await self._open(name, FLOODING, subset)
        if self.second is not None:
            if self.second.target == OTHER_NODES.target:
                self.nodes.append(
                    await self.store.join("n2", slots=SLOTS, targets=[self.second.target])
                )
            tenant = Tenant(FLOODING.name, self.second.priority)
            await self._open(SECOND, tenant, [], [self.second.target])
            await self._say(SECOND, SLOTS, self.second.ms)
        await self._phase(FLOOD_MS, TIMES)
        return _measured(await self.store.log(), flood_ms)

    async def _open(
        self, name: str, tenant: Tenant, features: list[str], targets: Sequence[str] = ("es",)
    ) -> None:
        grant = await self.store.open(
            name, tenant=tenant.name, priority=tenant.priority, features=features,
            features_hash=features_hash(features), targets=targets,
        )  # fmt: skip
        self.sessions[name], self.next_seq[name] = grant, 0

    async def _phase(self, ms: int, times: int) -> None:
        for at_ms in range(0, ms, STEP_MS):
            self.store.tick(STEP_MS)
            for number, one in enumerate(TENANTS):
                if at_ms % EVERY_MS == number * STEP_MS * 7:  # not all at the same moment
                    await self._say(one.name, 1, self.other_ms)
            if times:
                await self._flood(times * STEP_MS // EVERY_MS)
                if self.second is not None:
                    await self._say(SECOND, self.second.count, self.second.ms)
            await self._work()
        for _ in range(SETTLE_MS // STEP_MS):  # until nobody waits any more
            self.store.tick(STEP_MS)
            await self._work()

    async def _flood(self, count: int) -> None:
        """So many utterances, of one session after the other."""
        each = count // SESSIONS if self.requirements == 1 else 1
        for _ in range(count // each):
            await self._say(self.flood[self.turn % len(self.flood)], each, self.flood_ms)
            self.turn += 1

    async def _say(self, name: str, count: int, ms: int) -> None:
        """So many utterances of this length, each in chunks of at most a second."""
        grant = self.sessions[name]
        lengths = [min(CHUNK_MS_MAX, ms - at_ms) for at_ms in range(0, ms, CHUNK_MS_MAX)]
        chunks = [
            Chunk(
                session=grant.session,
                epoch=grant.epoch,
                seq=self.next_seq[name] + at,
                ms=lengths[at % len(lengths)],
                payload=bytes(320),
                end_of_utterance=(at + 1) % len(lengths) == 0,
            )
            for at in range(count * len(lengths))
        ]
        each = FINALIZES_MAX * len(lengths)
        for first in range(0, len(chunks), each):
            await self.store.append_audio(chunks[first : first + each])
        self.next_seq[name] += len(chunks)

    async def _work(self) -> None:
        """What is due happens, the node ends what it has done long enough, work is given out."""
        ordinary = [self.sessions[one.name] for one in TENANTS]
        alive = [(one.session, one.epoch, "") for one in ordinary]  # a flood is not idle for 60 s
        await self.store.keep_alive(alive)
        for node in self.nodes:
            await self.store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await self.store.timers()
        for node in self.nodes:
            key = self.store.keys.leases(name_of(node.node), node.epoch)
            done = await self.store.transport.command(
                "ZRANGE", key, "-inf", self.store.at_ms - JOB_MS, "BYSCORE", key=key
            )
            results = [NodeResult(job=job.decode(), attempt=1, status="no_speech") for job in done]
            if results:
                await self.store.record_results(node.node, node.epoch, results)
        await self.store.dispatch()


def _measured(log: Sequence[Event], flood_ms: int) -> list[Waits]:
    """From the log alone: a job belongs to the phase in which it was finalized."""
    began: dict[tuple[str, int], int] = {}
    waits: dict[tuple[str, str], list[int]] = defaultdict(list)
    failed: Counter[tuple[str, str]] = Counter()
    for event in log:
        data, name = event.data, name_of(event.session).partition("-")[0]
        if isinstance(data, UtteranceFinalized):
            began[event.session, data.utterance] = event.ms
        elif isinstance(data, JobDispatched | JobFailed):
            began_ms = began[event.session, data.utterance]
            phase = "calm" if began_ms < flood_ms else "flood"
            if isinstance(data, JobFailed):
                failed[phase, name] += 1
            else:
                waits[phase, name].append(event.ms - began_ms)
    return [
        Waits(
            phase=phase,
            tenant=one.name,
            priority=one.priority,
            jobs=len(waits[phase, one.name]) + failed[phase, one.name],
            failed=failed[phase, one.name],
            median_ms=round(median(waits[phase, one.name])),
            max_ms=max(waits[phase, one.name]),
        )
        for phase in ("calm", "flood")
        for one in (*TENANTS, FLOODING)
        if waits[phase, one.name]
    ]
