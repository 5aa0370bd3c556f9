"""Each write of each call fails once: the repeated call, timers or a repair complete what is left.

The library of these tests has another module `write`. It raises an error at the write whose number
is stored in the key `fault` of the cell, once in a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from eventsched.errors import EventschedError, UnexpectedReply
from eventsched.schema.keys import name_of
from eventsched.schema.settings import Settings
from eventsched.store import library as lua_library
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import Finalize, SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.session_state import assert_order
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import project, verified

FAILING_WRITE = """-- write: as in the package, but one write of a call fails.
-- include: call
local state = { count = 0, fault = nil }
call.on_begin(function()
  state.count = 0
  state.fault = tonumber(redis.call('GET', string.sub(call.log_key, 1, -4) .. 'fault') or '')
end)
return function(...)
  call.has_written = true
  state.count = state.count + 1
  if state.count == state.fault then error('write ' .. state.count .. ' fails', 0) end
  return redis.call(...)
end
"""
WRITES_MAX = 120
SETTINGS = Settings()


@pytest.fixture(autouse=True)
def failing_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of every transport has the module that fails."""
    read = lua_library._read

    def read_other(path: str) -> str:
        return FAILING_WRITE if path == "include/write.lua" else read(path)

    monkeypatch.setattr(lua_library, "_read", read_other)
    library = lua_library.library_of(lua_library.names())
    monkeypatch.setattr(lua_library, "library", lambda: library)


class Scene:
    """A cell in the middle of its work: two jobs run, one waits, a playback is open."""

    def __init__(self, store: TimedStore, redis: Client) -> None:
        self.store, self.redis = store, redis
        self.node: NodeGrant
        self.sessions: list[SessionGrant] = []

    async def start(self) -> Scene:
        store = self.store
        self.node = await store.join("n1", slots=2, features=["tone"])
        await store.dispatch_jobs(60_000)
        for name in ("s1", "s2", "s3"):
            self.sessions.append(await store.open(name, features=["tone"] * (name == "s2")))
        for session in self.sessions:
            await store.say(session, 0, end_of_utterance=True)
        await self.play(started=True)
        await project(store)
        return self

    async def play(self, *, started: bool) -> None:
        session = self.sessions[0].session
        await self.store.mark_playback(
            session, self.sessions[0].epoch, origin=session, target="es", utterance=0,
            started=started,
        )  # fmt: skip

    async def results(self, **fields: Any) -> None:
        """A result for each attempt of the node."""
        results = [
            NodeResult(job=job, attempt=attempt, **({"status": "ok"} | fields))
            for job, attempt in await self.attempts()
        ]
        if results:
            await self.store.record_results(self.node.node, self.node.epoch, results)

    async def attempts(self) -> list[tuple[str, int]]:
        """(job, attempt) of the live attempts that the node has been assigned."""
        live = {}
        for message in await self.store.inbox(self.node):
            if message["t"] == "assign" and message["epoch"] == self.node.epoch:
                live[message["j"]] = message["attempt"]
        return list(live.items())[-2:]

    async def end(self) -> None:
        """Dispatch, answer and fire timers until every session has closed."""
        store = self.store
        for _ in range(6):
            await store.dispatch()
            await self.results()
            for session in self.sessions:
                with suppress(EventschedError):  # its open failed
                    await store.close_session(session.session, session.epoch)
            if await self.states() <= {"closed"}:
                break
            store.tick(20_000)
            await store.timers()
        await project(store)

    async def states(self) -> set[str]:
        """The states of the sessions."""
        keys = [self.store.keys.session(name_of(each.session)) for each in self.sessions]
        return {(await self.store.read_hash(key)).get("status", "closed") for key in keys}


Step = Callable[[Scene], Awaitable[Any]]


async def _say(scene: Scene) -> None:
    """The first chunks of new utterances, one of them complete."""
    for number, session in enumerate(scene.sessions):
        await scene.store.say(session, 1, end_of_utterance=number == 0)


async def _finalize(scene: Scene) -> None:
    asked = [Finalize(session=each.session, epoch=1, utterance=1) for each in scene.sessions[1:]]
    await scene.store.finalize_utterances(asked)


async def _before_finalize(scene: Scene) -> None:
    for session in scene.sessions[1:]:
        await scene.store.say(session, 1)


async def _two_targets(scene: Scene) -> None:
    session = await scene.store.open("s8", targets=["es", "fr"])
    if session not in scene.sessions:
        scene.sessions.append(session)


async def _say_two_targets(scene: Scene) -> None:
    await scene.store.say(scene.sessions[-1], 0, end_of_utterance=True)


async def _open(scene: Scene) -> None:
    await scene.store.open("s9", room=scene.store.keys.full("acme/r1"), listen_language="es")


async def _heartbeat(scene: Scene) -> None:
    await scene.store.heartbeat_node(scene.node.node, scene.node.epoch, load=1, attempts=[])


async def _none(scene: Scene) -> None:
    del scene


async def _extend(scene: Scene) -> None:
    (job, attempt), *_ = await scene.attempts()
    await scene.store.extend_lease(
        scene.node.node, scene.node.epoch, job=job, attempt=attempt, more_ms=60_000
    )


async def _partials(scene: Scene) -> None:
    partials = [(job, attempt, b"so far") for job, attempt in await scene.attempts()]
    await scene.store.send_partials(scene.node.node, scene.node.epoch, partials)


async def _register(scene: Scene) -> None:
    scene.node = await scene.store.join("n1", token="other", slots=3, features=["tone"])


async def _drain(scene: Scene) -> None:
    await scene.store.drain_node(scene.node.node, scene.node.epoch, within_ms=0)


async def _close(scene: Scene) -> None:
    await scene.store.close_session(scene.sessions[0].session, scene.sessions[0].epoch)


async def _missing_model(scene: Scene) -> None:
    await scene.results(status="failed", code="MODEL_NOT_AVAILABLE", feature="tone")


def _timers(*after: int) -> tuple[Step, Step]:
    """Time passes, with timers between; then the timers that are due fire."""

    async def before(scene: Scene) -> None:
        for ms in after[:-1]:
            scene.store.tick(ms)
            await scene.store.timers()
        scene.store.tick(after[-1])

    async def fire(scene: Scene) -> None:
        await scene.store.fire_timers()

    return before, fire


async def _save(scene: Scene) -> None:
    await project(scene.store, owner="p1")


async def _before_dispatch(scene: Scene) -> None:
    scene.store.tick(61_000)  # the presence of the dispatcher ends
    for session in scene.sessions:
        await scene.store.say(session, 1, end_of_utterance=True)


CALLS: dict[str, tuple[Step, Step]] = {
    "append with finalize": (_none, _say),
    "append with two targets": (_two_targets, _say_two_targets),
    "finalize": (_before_finalize, _finalize),
    "open": (_none, _open),
    "resume": (_none, lambda scene: scene.store.resume(scene.sessions[1].session, "tok")),
    "keep alive": (
        _none,
        lambda scene: scene.store.keep_alive([(scene.sessions[0].session, 1, "")]),
    ),
    "playback starts": (
        lambda scene: scene.play(started=False),
        lambda scene: scene.play(started=True),
    ),
    "playback ends": (_none, lambda scene: scene.play(started=False)),
    "close": (_none, _close),
    "dispatch": (_before_dispatch, lambda scene: scene.store.dispatch()),
    "heartbeat": (_none, _heartbeat),
    "register": (_none, _register),
    "drain": (_none, _drain),
    "results": (_none, lambda scene: scene.results()),
    "no speech": (_none, lambda scene: scene.results(status="no_speech", code="ASR_EMPTY")),
    "retryable failure": (
        _none, lambda scene: scene.results(status="failed", code="X", retryable=True),
    ),
    "failure": (_none, lambda scene: scene.results(status="failed", code="X")),
    "missing model": (_none, _missing_model),
    "partials": (_none, _partials),
    "extend": (_none, _extend),
    "timers: age": _timers(SETTINGS.queue_timeout_ms // 2),
    "timers: wait": _timers(SETTINGS.queue_timeout_ms),
    "timers: node lost": _timers(SETTINGS.node_lost_ms),
    "timers: playback": _timers(15_000, SETTINGS.playback_ms - 15_000),
    "timers: idle": _timers(20_000, 20_000, 20_000),
    "save views": (_say, _save),
    "backpressure": (
        _none,
        lambda scene: scene.store.set_backpressure("memory", is_active=True, seen=2, limit=1),
    ),
}  # fmt: skip


async def fails(scene: Scene, step: Step, write_no: int) -> bool:
    """Make the call with a fault at this write; whether a write failed."""
    key = f"{scene.store.keys.prefix}fault"
    await scene.redis.set(key, write_no)
    try:
        await step(scene)
    except UnexpectedReply as error:
        assert f"write {write_no} fails" in str(error)
        return True
    finally:
        await scene.redis.delete(key)
    letters = await scene.store.read_range(scene.store.keys.dead_letters, "-", "+", 100)
    return any(b"fails" in field for _, fields in letters for field in fields)


@pytest.fixture
async def scenes(redis: Client, cells: Callable[[], str]) -> Callable[[], Awaitable[Scene]]:
    async def new() -> Scene:
        store = TimedStore(RedisTransport(redis, redis), cells())
        settings = msgspec.to_builtins(SETTINGS)
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        return await Scene(store, redis).start()

    return new


@pytest.mark.parametrize("name", CALLS)
async def test_a_failed_write_is_completed(
    scenes: Callable[[], Awaitable[Scene]], name: str
) -> None:
    before, step = CALLS[name]
    repaired: dict[int, list[str]] = {}
    for write_no in range(1, WRITES_MAX):
        scene = await scenes()
        await before(scene)
        if not await fails(scene, step, write_no):
            break
        with suppress(EventschedError):  # the call had taken effect
            await step(scene)
        await scene.end()
        report = await verified(scene.store)
        if report.is_clean:
            assert_order(await scene.store.log())
        else:
            found = [f"{each.invariant} {each.where} {each.what}" for each in report.violations]
            repaired[write_no] = found
            done = await repairer_of(scene.store).apply("a failed write", "test")
            assert done.left == [], (write_no, found, [(c.where, c.what) for c in done.applied])
            await scene.end()
        assert await scene.states() <= {"closed"}, (write_no, repaired.get(write_no))
    else:
        raise AssertionError(f"{name} has more than {WRITES_MAX} writes")
    assert write_no > 1, "the call writes"
