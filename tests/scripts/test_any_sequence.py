"""Rules 11, 13 to 21 and 23: after any sequence of calls the authoritative state equals the fold of
the log.

Each example is a fresh cell and a sequence of calls; `cell_state.check` runs after every call.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from eventsched.errors import Refused
from eventsched.schema.settings import Settings
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.calls import chunk
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import code_of, logged

KINDS: list[dict[str, Any]] = [
    {"sources": ["en"], "targets": ["es"], "features": []},
    {"sources": ["en"], "targets": ["es", "fr"], "features": ["tts"]},
    {"sources": ["de", "en"], "targets": ["es"], "features": ["tts", "vad"]},
]
FEATURES: tuple[list[str], ...] = ([], ["tts"], ["tts", "vad"])
SERVICES = ("tts", "vad")


class Play:
    """A cell under random calls: its grants, and one method for each kind of step."""

    def __init__(self, store: TimedStore, rng: random.Random) -> None:
        self.store, self.rng = store, rng
        self.nodes: list[NodeGrant] = []
        self.sessions: list[tuple[SessionGrant, int]] = []
        self.seen: list[tuple[str, int, str, int]] = []
        """(node, epoch, job, attempt) of every assignment, current or not."""
        self.count = 0

    async def open(self) -> None:
        self.count += 1
        features = self.rng.choice(FEATURES)
        grant = await self.store.open(
            f"s{self.count}",
            tenant=self.rng.choice(["acme", "tiny"]),
            targets=self.rng.choice([["es"], ["es", "fr"]]),
            features=features,
            features_hash="none" if not features else "0123456789abcdef",
            priority=self.rng.choice([0, 1, 2]),
        )
        self.sessions.append((grant, 0))

    async def say(self) -> None:
        if not self.sessions:
            await self.open()
        at = self.rng.randrange(len(self.sessions))
        grant, seq = self.sessions[at]
        chunks = []
        for _ in range(self.rng.choice([1, 1, 3])):
            ms = self.rng.choice([20, 300, 1000])
            chunks.append(chunk(grant, seq, ms=ms, payload=bytes(ms * 32), end_of_utterance=True))
            seq += 1
        calls = [chunks] if self.rng.random() < 0.5 else [[chunk] for chunk in chunks]
        replies = [reply for call in calls for reply in await self.store.append_audio(call)]
        self.sessions[at] = (grant, seq)
        if refused := {reply.code for reply in replies if isinstance(reply, Refused)}:
            assert refused <= {"SESSION_CLOSED", "SESSION_UNKNOWN"}
            del self.sessions[at]

    async def dispatch(self) -> None:
        """With or without a presence lease, so that finalizing calls dispatch eagerly or not."""
        await self.store.dispatch_jobs(self.rng.choice([0, 4_000]))

    async def close(self) -> None:
        if self.sessions:
            grant, _ = self.sessions.pop(self.rng.randrange(len(self.sessions)))
            code = await code_of(self.store.close_session(grant.session, grant.epoch))
            assert code in ("ok", "SESSION_UNKNOWN")

    async def join(self) -> None:
        self.count += 1
        name = self.rng.choice(["n1", "n2", "n3", "n4"])
        self.nodes.append(
            await self.store.join(
                name,
                token=f"t{self.count}",
                slots=self.rng.choice([1, 2, 3, 20]),
                **self.rng.choice(KINDS),
            )
        )

    async def result(self) -> None:
        """Mostly for a current attempt, sometimes for an old one or from another node."""
        await self._learn()
        if not self.seen:
            return
        seen = self.seen[-self.rng.randint(1, min(8, len(self.seen)))]
        node, epoch, job, attempt = seen
        status: Any = self.rng.choice(["ok", "ok", "no_speech", "failed", "failed"])
        code = ""
        if status == "failed":
            code = self.rng.choice(["MODEL_NOT_AVAILABLE", "BROKEN"])
        result = NodeResult(
            job=job,
            attempt=attempt,
            status=status,
            code=code,
            retryable=self.rng.random() < 0.7,
            feature=self.rng.choice(SERVICES),
        )
        await self.store.record_results(node, epoch, [result] * self.rng.choice([1, 1, 2]))

    async def extend(self) -> None:
        await self._learn()
        if self.seen:
            node, epoch, job, attempt = self.rng.choice(self.seen)
            call = self.store.extend_lease(node, epoch, job=job, attempt=attempt, more_ms=50_000)
            assert await code_of(call) != "INVALID_MESSAGE"

    async def beat(self) -> None:
        for grant in self.nodes:
            call = self.store.heartbeat_node(grant.node, grant.epoch, load=0, attempts=[])
            assert await code_of(call) in ("ok", "NODE_SUPERSEDED", "NODE_UNKNOWN")

    async def drain(self) -> None:
        if self.nodes:
            grant = self.rng.choice(self.nodes)
            within_ms = self.rng.choice([0, 5_000, 60_000])
            call = self.store.drain_node(grant.node, grant.epoch, within_ms=within_ms)
            assert await code_of(call) in ("ok", "NODE_SUPERSEDED", "NODE_UNKNOWN")

    async def tick(self) -> None:
        self.store.tick(self.rng.choice([1, 100, 2_500, 5_000, 5_000, 16_000, 31_000]))
        for _ in range(self.rng.choice([0, 1, 3])):
            await self.store.fire_timers()

    async def _learn(self) -> None:
        for event in await logged(self.store, "JobDispatched"):
            attempt = (event.node, event.data.epoch, event.job, event.data.attempt)
            if attempt not in self.seen:
                self.seen.append(attempt)

    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        often = [self.say] * 6 + [self.dispatch] * 6 + [self.result] * 5 + [self.join] * 3
        return [
            *often,
            self.open,
            self.close,
            self.extend,
            self.beat,
            self.beat,
            self.drain,
            self.tick,
            self.tick,
            self.tick,
        ]


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)
@given(seed=st.integers(0, 2**32), eager_dispatch=st.sampled_from([1, 0]))
async def test_rules_11_to_21_decided_state_equals_the_fold_of_the_log_after_every_call(
    redis: Client, cells: Callable[[], str], seed: int, eager_dispatch: int
) -> None:
    """The log is the same whether or not scripts cache live state. The cell has the same name: the
    time of a backoff depends on the job key.
    """
    logs, cell = [], cells()
    for cache_live_state in (1, 0):
        store = TimedStore(RedisTransport(redis, redis), cell)
        settings = msgspec.to_builtins(
            Settings(cache_live_state=cache_live_state, eager_dispatch=eager_dispatch)
        )
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        play = Play(store, random.Random(seed))
        for _ in range(60):
            await play.rng.choice(play.steps())()
            await check(store, idle=False)
        await store.dispatch()
        await check(store)
        entries = await store.read_range(store.keys.log, "-", "+", 100_000)
        logs.append(repr(entries))
        await redis.delete(*await redis.keys(f"{store.keys.prefix}*"))
    assert logs[0] == logs[1]
