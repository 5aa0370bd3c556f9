"""A cell in the middle of its work, and steps that change it, for tests of writes and timers.

Owns: the steps, and the library in which one write of a step fails: its module `write` counts down
the number in the key `fault` of the cell, if that exists, and raises an error at the write that
reaches 0.
Must not: assert what follows from a fault. Read next: test_failed_writes.py, test_timers.py.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from eventsched.archive.commands import ArchiveCommands
from eventsched.archive.layout import SetAsideNote
from eventsched.errors import EventschedError, UnexpectedReply
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import SetLease
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.ids import START, format_id, parse_id
from eventsched.schema.keys import name_of
from eventsched.schema.settings import Settings
from eventsched.store import library as lua_library
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.operator_commands import Act
from eventsched.store.role_commands import RolePresence
from eventsched.store.session_commands import Finalize, SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.cell_state import zset
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import CORE, project, views_of

FAILING_WRITE = """-- write: as in the package, but one write of a step fails.
-- include: call
local fault = nil
call.on_begin(function()
  fault = string.sub(call.log_key, 1, -4) .. 'fault'
  if redis.call('EXISTS', fault) == 0 then fault = nil end
end)
return function(...)
  call.has_written = true
  if fault and redis.call('DECR', fault) == 0 then error('the write fails', 0) end
  return redis.call(...)
end
"""
DUMP = """
local dumps = {redis.call('HGET', KEYS[2], 'record')}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  dumps[#dumps + 1] = key
  dumps[#dumps + 1] = redis.call('DUMP', key)
end
return dumps
"""
RESTORE = """
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end
for at = 2, #ARGV, 2 do redis.call('RESTORE', ARGV[at], 0, ARGV[at + 1]) end
"""
WRITES_MAX = 150
SETTINGS = Settings()
BACKOFF_MS_MAX = SETTINGS.retry_backoff_ms * 5 // 4
KEY = "0123456789abcdef"
ACT = Act(by="ann@host", why="the cause is gone", request="r1")
TIMER_HANDLERS = "include/timer_handlers.lua"
"""Lists the kinds of timers."""


@pytest.fixture(autouse=True)
def failing_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library of every transport has the module that fails."""
    read = lua_library._read

    def read_other(path: str) -> str:
        return FAILING_WRITE if path == "include/write.lua" else read(path)

    monkeypatch.setattr(lua_library, "_read", read_other)
    library = lua_library.library_of(lua_library.names())
    monkeypatch.setattr(lua_library, "library", lambda: library)


def timer_kinds() -> set[str]:
    """The kinds of timers, from lua/include/timer_handlers.lua."""
    return set(re.findall(r"(\w+) = \w+_timers?\.\w+", lua_library._read(TIMER_HANDLERS)))


class Scene:
    """A cell in the middle of its work: two jobs run, one waits, a playback is open."""

    def __init__(self, store: TimedStore, redis: Client) -> None:
        self.store, self.redis = store, redis
        self.node: NodeGrant
        self.sessions: list[SessionGrant] = []
        self.views = views_of(store)
        self.archive = ArchiveCommands(self.views)
        self.epoch = 0
        """Of the lease of the archive."""
        self.sealed_to = START

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

    def copy(self, store: TimedStore) -> Scene:
        """The same scene, with what it knows of the cell, through another store."""
        scene = Scene(store, self.redis)
        scene.node, scene.sessions = self.node, [*self.sessions]
        scene.epoch, scene.sealed_to = self.epoch, self.sealed_to
        return scene

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
        await project(store, batch_max=100)

    async def timers(self) -> list[str]:
        """The timers that are due."""
        timers = await zset(self.store, self.store.keys.timers)
        return [member for member, due_ms in timers.items() if due_ms <= self.store.at_ms]

    async def states(self) -> set[str]:
        """The states of the sessions."""
        keys = [self.store.keys.session(name_of(each.session)) for each in self.sessions]
        replies = await self.store.transport.commands([("HGET", key, "status") for key in keys])
        return {(status or b"closed").decode() for status in replies}


@dataclass(frozen=True)
class Snapshot:
    """A scene at one moment: the keys of its cell, the time, and what the scene knows.

    If snapshots are equal, all later steps and checks have the same effect. The generation of the
    cell is not compared: it is new after each call.
    """

    scene: Scene = field(compare=False)
    dumps: list[bytes] = field(compare=False)
    at_ms: int
    known: tuple[Any, ...]
    keys: dict[bytes, bytes]

    @classmethod
    async def of(cls, scene: Scene) -> Snapshot:
        names = scene.store.keys
        clock, *dumps = await scene.redis.eval(DUMP, 2, names.log, names.clock, f"{names.prefix}*")
        keys = dict(zip(dumps[::2], dumps[1::2], strict=True))
        keys[names.clock.encode()] = clock.rpartition(b"|")[0]
        known = (scene.node, (*scene.sessions,), scene.epoch, scene.sealed_to)
        return cls(scene.copy(scene.store), dumps, scene.store.at_ms, known, keys)

    async def restore(self) -> Scene:
        """Replace all keys of the cell, and set the time back."""
        before, keys = self.scene.store, self.scene.store.keys
        await self.scene.redis.eval(RESTORE, 1, keys.log, f"{keys.prefix}*", *self.dumps)
        store = TimedStore(before.transport, before.cell)
        store.at_ms = self.at_ms
        return self.scene.copy(store)


Step = Callable[[Scene], Awaitable[Any]]


async def no_step(scene: Scene) -> None:
    del scene


# --- sessions -------------------------------------------------------------------------------------


async def say_more(scene: Scene) -> None:
    """The first chunks of new utterances, one of them complete."""
    for number, session in enumerate(scene.sessions):
        await scene.store.say(session, 1, end_of_utterance=number == 0)


async def finalize_others(scene: Scene) -> None:
    asked = [Finalize(session=each.session, epoch=1, utterance=1) for each in scene.sessions[1:]]
    await scene.store.finalize_utterances(asked)


async def open_utterances(scene: Scene) -> None:
    for session in scene.sessions[1:]:
        await scene.store.say(session, 1)


async def old_jobs(scene: Scene) -> None:
    """The first session has 31 utterances, and all their jobs have ended."""
    for seq in range(1, 31):
        await scene.store.say(scene.sessions[0], seq, end_of_utterance=True)
        await scene.store.dispatch()
        await scene.results()
        scene.store.tick(10)


async def retire_jobs(scene: Scene) -> None:
    """The finalize of the next utterance deletes the records of the first 16."""
    receipt = await scene.store.say(scene.sessions[0], 31, end_of_utterance=True)
    assert receipt.status == "duplicate" or await scene.store.log("JobsRetired")


async def two_targets(scene: Scene) -> None:
    session = await scene.store.open("s8", targets=["es", "fr"])
    if session not in scene.sessions:
        scene.sessions.append(session)


async def say_two_targets(scene: Scene) -> None:
    await scene.store.say(scene.sessions[-1], 0, end_of_utterance=True)


async def open_in_room(scene: Scene) -> None:
    await scene.store.open("s9", room=scene.store.keys.full("acme/r1"), listen_language="es")


async def in_a_room(scene: Scene) -> None:
    """Two members of a room; the first has an open utterance."""
    for name in ("s8", "s9"):
        room = scene.store.keys.full("acme/r1")
        scene.sessions.append(await scene.store.open(name, room=room, listen_language="es"))
    await scene.store.say(scene.sessions[-2], 0)


async def close_in_a_room(scene: Scene) -> None:
    await scene.store.close_session(scene.sessions[-2].session, scene.sessions[-2].epoch)


async def close_first(scene: Scene) -> None:
    await scene.store.close_session(scene.sessions[0].session, scene.sessions[0].epoch)


async def closed_with_a_key(scene: Scene) -> None:
    session = await scene.store.open("s9", key=KEY)
    await scene.store.close_session(session.session, session.epoch)


async def erase(scene: Scene) -> None:
    await scene.store.erase_session(scene.store.keys.full("s9"), KEY)


# --- nodes ----------------------------------------------------------------------------------------


async def heartbeat(scene: Scene) -> None:
    await scene.store.heartbeat_node(scene.node.node, scene.node.epoch, load=1, attempts=[])


async def extend_lease(scene: Scene) -> None:
    (job, attempt), *_ = await scene.attempts()
    await scene.store.extend_lease(
        scene.node.node, scene.node.epoch, job=job, attempt=attempt, more_ms=60_000
    )


async def partials(scene: Scene) -> None:
    partials = [(job, attempt, b"so far") for job, attempt in await scene.attempts()]
    await scene.store.send_partials(scene.node.node, scene.node.epoch, partials)


async def register(scene: Scene) -> None:
    scene.node = await scene.store.join("n1", token="other", slots=3, features=["tone"])


async def drain(scene: Scene) -> None:
    await scene.store.drain_node(scene.node.node, scene.node.epoch, within_ms=0)


async def missing_model(scene: Scene) -> None:
    await scene.results(status="failed", code="MODEL_NOT_AVAILABLE", feature="tone")


async def retryable(scene: Scene) -> None:
    await scene.results(status="failed", code="X", retryable=True)


async def recipients(scene: Scene) -> None:
    """The last running job is of a room with three listeners."""
    store = scene.store
    await scene.results()
    room = store.keys.full("acme/r1")
    for name in ("s6", "s7", "s8", "s9"):
        scene.sessions.append(await store.open(name, room=room, listen_language="es"))
    await store.say(scene.sessions[-1], 0, end_of_utterance=True)
    await store.dispatch()


# --- dispatch -------------------------------------------------------------------------------------


async def before_dispatch(scene: Scene) -> None:
    scene.store.tick(61_000)  # the presence of the dispatcher ends
    for session in scene.sessions:
        await scene.store.say(session, 1, end_of_utterance=True)


async def dead_letters(scene: Scene) -> None:
    """Of an utterance, of a slot to fill and of a timer."""
    await before_dispatch(scene)
    store, keys = scene.store, scene.store.keys
    (entry_id, entry), *_ = await store.read_range(keys.dispatch, "-", "+", 10)
    await scene.redis.xdel(keys.dispatch, entry_id)
    letter = {b"from": b"dispatch", b"id": b"1-1", b"reason": b"why", b"partial": b"0"}
    utterance = letter | dict(zip(entry[::2], entry[1::2], strict=True))
    timer = letter | {b"from": b"timers", b"id": b"node|n1", b"k": b"timer", b"d": b""}
    for fields in (utterance, letter | {b"k": b"fill", b"d": b"n1"}, timer):
        flat = [part for pair in fields.items() for part in pair]
        await scene.redis.execute_command("XADD", keys.dead_letters, "*", *flat)


async def retry_dead_letters(scene: Scene) -> None:
    letters = await scene.store.read_range(scene.store.keys.dead_letters, "-", "+", 10)
    await scene.store.retry_dead_letters([letter for letter, _ in letters], ACT)


async def unread_letters(scene: Scene) -> None:
    """Of an event, and of an entry that no release reads."""
    letter = {b"id": b"1-1", b"k": b"utterance", b"d": b"?", b"reason": b"why", b"partial": b"0"}
    for source in (b"log", b"dispatch"):
        flat = [part for pair in (letter | {b"from": source}).items() for part in pair]
        await scene.redis.execute_command("XADD", scene.store.keys.dead_letters, "*", *flat)


async def discard_dead_letters(scene: Scene) -> None:
    letters = await scene.store.read_range(scene.store.keys.dead_letters, "-", "+", 10)
    await scene.store.discard_dead_letters([letter for letter, _ in letters], ACT)


async def request_drain(scene: Scene) -> None:
    await scene.store.request_drain(scene.node.node, ACT, within_ms=0)


# --- timers ---------------------------------------------------------------------------------------


def pass_time(*after: int) -> Step:
    """Time passes, with heartbeats, keepalives and timers between."""

    async def before(scene: Scene) -> None:
        for ms in after[:-1]:
            scene.store.tick(ms)
            await heartbeat(scene)
            await scene.store.keep_alive([(each.session, 1, "") for each in scene.sessions])
            await scene.store.timers()
        scene.store.tick(after[-1])

    return before


def pass_in_silence(*after: int) -> Step:
    """Time passes, with timers between."""

    async def before(scene: Scene) -> None:
        for ms in after[:-1]:
            scene.store.tick(ms)
            await scene.store.timers()
        scene.store.tick(after[-1])

    return before


def in_turn(*steps: Step) -> Step:
    async def before(scene: Scene) -> None:
        for step in steps:
            await step(scene)

    return before


async def fire(scene: Scene) -> None:
    await scene.store.fire_timers()


async def held_result(scene: Scene) -> None:
    """Utterance 1 of a session has its result while utterance 0 is not delivered."""
    store = scene.store
    other = await store.join("n2", slots=2)  # the waiting job takes one
    await store.say(scene.sessions[0], 1, end_of_utterance=True)
    await store.dispatch()
    (message,) = [each for each in await store.inbox(other) if each["utterance"] == 1]
    await store.answer(other, message)


async def many_leases(scene: Scene) -> None:
    """A node with more jobs than one call dispatches again has registered anew."""
    store = scene.store
    await store.join("n2", slots=18)
    session = await store.open("s9")
    for seq in range(18):
        await store.say(session, seq, end_of_utterance=True)
    await store.dispatch()
    await store.join("n2", token="other", slots=18)
    scene.sessions.append(session)


async def short_suspension(scene: Scene) -> None:
    await scene.store.configure_cell({"suspend_ms": 5_000}, overwrite=True)
    await missing_model(scene)


async def avoiding(scene: Scene) -> None:
    """Two jobs wait for the only other node, and the time to avoid their last node is over."""
    await scene.store.join("n2", slots=1, features=["tone"])
    await retryable(scene)
    scene.store.tick(BACKOFF_MS_MAX)
    await scene.store.timers()
    scene.store.tick(SETTINGS.retry_avoid_ms)
    assert any(member.startswith("avoid|") for member in await scene.timers())


async def almost_failing(scene: Scene) -> None:
    """The next fast failure suspends the node."""
    await scene.store.join("n2", slots=1, features=["tone"])
    await scene.redis.hset(scene.store.keys.node("n1"), "failures", "4|c0.s|1|0")


async def retired(scene: Scene) -> None:
    await scene.end()
    scene.store.tick(SETTINGS.session_retention_ms)


async def gone_for_long(scene: Scene) -> None:
    """A node has left, and its retention is over."""
    await scene.store.configure_cell({"node_retention_ms": 5_000}, overwrite=True)
    await drain(scene)
    scene.store.tick(5_000)


async def is_retired(scene: Scene) -> None:
    keys = scene.store.keys
    assert len(await scene.store.log("NodeRetired")) == 1
    assert await scene.redis.exists(keys.node("n1"), keys.inbox("n1")) == 0
    assert await scene.redis.hget(keys.counters, "retired_epoch") == b"1"


async def half_dispatched_again(scene: Scene) -> None:
    """A call has failed between the end of an attempt and the start of the next one."""
    for write_no in range(1, WRITES_MAX):
        assert await fails(scene, retryable, write_no)
        if any(member.startswith("retry|") for member in await scene.timers()):
            return


# --- views ----------------------------------------------------------------------------------------


async def save(scene: Scene) -> None:
    await project(scene.store, owner="p1")


async def other_owner(scene: Scene) -> None:
    await scene.views.acquire(CORE, "p8", 10_000)
    scene.store.tick(10_001)


async def take_over(scene: Scene) -> None:
    assert isinstance(await scene.views.acquire(CORE, "p9", 10_000), SetLease)
    await scene.views.acquire(CORE, "p9", 0)


async def new_set(scene: Scene) -> None:
    await scene.views.acquire(ProjectionSet("second", CORE.projections), "p9", 10_000)


async def rebuild(scene: Scene) -> None:
    await Rebuild(scene.views, CORE, ["node", "group"], owner="r1").run()


# --- the archive ----------------------------------------------------------------------------------


async def archive_lease(scene: Scene) -> None:
    lease = await scene.archive.acquire("a1", 10_000)
    assert isinstance(lease, SetLease)
    scene.epoch = lease.epoch


async def seal(scene: Scene) -> None:
    """Record that the archive has the log up to `sealed_to`, and the chunks of a session."""
    chunks = await scene.store.read_range(scene.store.keys.audio("s1"), "-", "+", 1)
    sealed = await scene.store.read_range(scene.store.keys.log, "-", scene.sealed_to, 1_000)
    word = await scene.archive.record(
        scene.epoch, start=START, to=scene.sealed_to, fingerprint="key",
        processed=len(sealed),
        audio=scene.sealed_to != START, audio_to={"s1": chunks[0][0]},
    )  # fmt: skip
    assert word == "recorded"


async def up_to_now(scene: Scene) -> None:
    scene.sealed_to = await scene.store.last_id(scene.store.keys.log)


async def is_sealed(scene: Scene) -> None:
    (group,) = [
        each for each in await scene.redis.xinfo_groups(scene.store.keys.log)
        if each["name"] == b"archive"
    ]  # fmt: skip
    assert group["last-delivered-id"].decode() == scene.sealed_to
    assert (await scene.archive.read_state()).to == scene.sealed_to


async def release_archive(scene: Scene) -> None:
    await scene.archive.acquire("a1", 0)


async def abandon(scene: Scene) -> None:
    await scene.archive.abandon("key", why="lost", by="ann@host")


async def is_abandoned(scene: Scene) -> None:
    assert len(await scene.store.log("ArchiveAbandoned")) == 1
    assert (await scene.archive.read_state()).fingerprint == ""
    groups = await scene.redis.xinfo_groups(scene.store.keys.log)
    assert b"archive" not in [each["name"] for each in groups]


async def set_aside(scene: Scene) -> None:
    note = SetAsideNote(
        cell=scene.store.cell, key="key", first_segment=0, segments=1, entries=1, first="1-1",
        last="1-1", head="a" * 64, why="why", by="test",
    )  # fmt: skip
    await scene.archive.set_aside(scene.epoch, note, ["b" * 64])


async def is_set_aside(scene: Scene) -> None:
    assert len(await scene.store.log("ArchiveSetAside")) == 1


async def foreign_group(scene: Scene) -> None:
    await scene.redis.xgroup_create(scene.store.keys.log, "billing", "0", mkstream=True)


async def foreign_consumers(scene: Scene) -> None:
    for name in ("b1", "b2"):
        await scene.redis.xgroup_createconsumer(scene.store.keys.log, "billing", name)


async def remove_consumers(scene: Scene) -> None:
    await scene.store.remove_idle_consumers("billing", "b3", 0)


async def has_no_consumers(scene: Scene) -> None:
    assert await scene.redis.xinfo_consumers(scene.store.keys.log, "billing") == []


async def drop_group(scene: Scene) -> None:
    await scene.store.drop_consumer_group("billing", ACT)


async def is_dropped(scene: Scene) -> None:
    assert len(await scene.store.log("ConsumerGroupDropped")) == 1
    groups = await scene.redis.xinfo_groups(scene.store.keys.log)
    assert b"billing" not in [each["name"] for each in groups]


async def long_log(scene: Scene) -> None:
    """A log of more than one node of a stream, which is folded and may be trimmed."""
    for number in range(120):
        await scene.play(started=number % 2 == 1)
    await project(scene.store)
    settings = {"log_keep_ms": 0, "log_retention_ms": 1}
    await scene.store.configure_cell(settings, overwrite=True)
    scene.store.tick(2)


async def trim(scene: Scene) -> None:
    await scene.archive.trim()


async def is_trimmed(scene: Scene) -> None:
    assert await scene.views.trimmed_count()
    stored = await scene.redis.hget(scene.store.keys.counters, "trimmed")
    assert int(stored or 0) == await scene.views.trimmed_count()


async def passed_the_trimmed(scene: Scene) -> None:
    passed = await scene.redis.hget(scene.store.keys.lease("second"), "passed")
    assert int(passed or 0) == await scene.views.trimmed_count()


async def trim_by_hand(scene: Scene) -> None:
    await project(scene.store)
    log = await scene.store.log()
    await scene.redis.xtrim(scene.store.keys.log, minid=log[3].id, approximate=False)


async def old_index(scene: Scene) -> None:
    await scene.redis.zadd(scene.store.keys.session_index_ends, {"gone": 1})
    await scene.redis.rpush(scene.store.keys.session_index("gone"), format_id(1, 0))


async def drop_indexes(scene: Scene) -> None:
    await scene.archive.drop_session_indexes()


async def has_no_index(scene: Scene) -> None:
    assert not await scene.redis.exists(scene.store.keys.session_index("gone"))
    assert "gone" not in await zset(scene.store, scene.store.keys.session_index_ends)


async def old_node_indexes(scene: Scene) -> None:
    """The index of a node whose entries are trimmed, and of one with an entry that is not."""
    keys, first = scene.store.keys, (await scene.store.log())[0].id
    await scene.redis.zadd(keys.node_index_starts, {"gone": 1, "alive": 1})
    await scene.redis.rpush(keys.node_index("gone"), format_id(1, 0))
    await scene.redis.rpush(keys.node_index("alive"), format_id(1, 0), first)


async def trim_node_indexes(scene: Scene) -> None:
    await scene.archive.trim_node_indexes()


async def has_no_old_ids(scene: Scene) -> None:
    keys, first = scene.store.keys, (await scene.store.log())[0].id
    assert not await scene.redis.exists(keys.node_index("gone"))
    assert await scene.redis.lrange(keys.node_index("alive"), 0, -1) == [first.encode()]
    starts = await zset(scene.store, keys.node_index_starts)
    assert "gone" not in starts
    assert starts["alive"] == parse_id(first)[0]


# --- the cell -------------------------------------------------------------------------------------


async def configure(scene: Scene) -> None:
    settings = {"suspend_ms": 7_000, "log_keep_ms": 8_000}
    await scene.store.configure_cell(settings, overwrite=True, manual_clock=True)


async def is_configured(scene: Scene) -> None:
    stored = await scene.store.read_settings()
    assert (stored.suspend_ms, stored.log_keep_ms) == (7_000, 8_000)


async def clock_back(scene: Scene) -> None:
    scene.store.tick(-5_000)


async def is_adjusted(scene: Scene) -> None:
    assert len(await scene.store.log("ClockAdjusted")) == 1


async def read_archive(scene: Scene) -> None:
    await scene.archive.read_state()


async def presence(scene: Scene) -> None:
    roles = [RolePresence("timer", "", "running"), RolePresence("dispatcher", "", "running")]
    await scene.store.renew_presence("i1", 0, roles)


async def damaged(scene: Scene) -> None:
    """The records of a session, a node and a view are damaged."""
    keys = scene.store.keys
    await scene.redis.hset(keys.session("s1"), "utterance", 44)
    await scene.redis.delete(keys.outcomes("s2"), keys.node("n1"))
    await scene.redis.zrem(keys.timers, f"idle|{scene.sessions[0].session}", "node|n1")


async def lost_audio(scene: Scene) -> None:
    """The chunks of a running job and of a waiting one are lost."""
    for name in ("s1", "s3"):
        await scene.redis.xtrim(scene.store.keys.audio(name), maxlen=0, approximate=False)


async def repair(scene: Scene) -> None:
    await repairer_of(scene.store).apply("a failed write", "test")


async def fails(scene: Scene, step: Step, write_no: int) -> bool:
    """Take the step with a fault at this write; whether a write failed."""
    key = f"{scene.store.keys.prefix}fault"
    await scene.redis.set(key, write_no)
    try:
        await step(scene)
    except* UnexpectedReply as failures:
        assert "the write fails" in str(failures.exceptions[0])
    finally:
        left = int(await scene.redis.getdel(key) or 0)
    return left <= 0


@pytest.fixture
async def scenes(redis: Client, cells: Callable[[], str]) -> Callable[[], Awaitable[Scene]]:
    async def new() -> Scene:
        store = TimedStore(RedisTransport(redis, redis), cells())
        settings = msgspec.to_builtins(SETTINGS)
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        return await Scene(store, redis).start()

    return new
