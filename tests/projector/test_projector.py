"""The projector: leases, atomic saves, and the state after a crash at any call."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

import projections
from eventsched.audit.verify import Verifier
from eventsched.errors import ServerUnavailable
from eventsched.history.dead_letters import read_dead_letters
from eventsched.history.log import History
from eventsched.projection.installed import load_core
from eventsched.projection.protocol import Projection, ProjectionSet, record_codec
from eventsched.projection.store import Changes, ProjectionStore, Put, Save, SetLease
from eventsched.roles.projector import BLOCK_MS, LEASE_MS, LINGER_MS, Projector, StepResult
from eventsched.roles.rebuild import (
    FAILURES_SHOWN_MAX,
    Rebuild,
    RebuildResult,
    TooManyFailures,
)
from eventsched.roles.refold import refold
from eventsched.schema import codec
from eventsched.schema.codec import UndecodableEvent, encode
from eventsched.schema.events import (
    FIELDS,
    Event,
    RebuildPromoted,
    RebuildStarted,
    ResultRecorded,
    Revision,
)
from eventsched.schema.ids import START
from eventsched.schema.keys import name_of
from eventsched.store.operator_commands import Act
from eventsched.store.replies import named_fields_of
from eventsched.store.retry import first_error
from eventsched.store.transport import Arg, Entry
from projections.session import Session, Sessions
from tests.fixtures_store import TimedStore
from tests.projector.counts import COUNTS, Counts, UtteranceCount
from tests.scripts.calls import chunk
from tests.stream_entries import LOG_BODY, replace_value
from tests.systems import until

CORE = projections.core


class Cut(Exception):
    """Raised where the process dies."""


class Cutting:
    """A transport whose process dies once, before or after one script took effect."""

    def __init__(self, store: TimedStore, script: str, *, after: bool) -> None:
        self._inner = store.transport
        self._script, self._after = script, after

    def arm(self, script: str) -> None:
        """Die at the next call of this script."""
        self._script = script

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        if script != self._script:
            return await self._inner.run(script, keys, args)
        self._script = ""
        if self._after:
            await self._inner.run(script, keys, args)
        raise Cut(script)

    async def command(self, *parts: Arg, key: str) -> Any:
        return await self._inner.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        return await self._inner.read_blocking(streams, block_ms, count)

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        return await self._inner.read_group(
            key, group, consumer, block_ms=block_ms, count=count, noack=noack
        )

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


class Frozen(Cutting):
    """A transport whose process is paused before one script, while something else happens."""

    def __init__(
        self, store: TimedStore, script: str, meanwhile: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(store, "", after=False)
        self._frozen_at, self._meanwhile = script, meanwhile

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        if script == self._frozen_at:
            self._frozen_at = ""
            await self._meanwhile()
        return await super().run(script, keys, args)


class Spying(Cutting):
    """A transport that records the arguments of saves."""

    def __init__(self, store: TimedStore) -> None:
        super().__init__(store, "", after=False)
        self.saved: list[list[bytes]] = []

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        if script == "save_views":
            self.saved.append([a if isinstance(a, bytes) else str(a).encode() for a in args])
        return await super().run(script, keys, args)


class Waiting(Cutting):
    """A transport that records reads of the log and saves, and dies at the first wait."""

    def __init__(self, store: TimedStore) -> None:
        super().__init__(store, "", after=False)
        self.calls: list[str] = []
        self.puts: dict[str, int] = {}
        """Records written, by projection; only for sets of one projection."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        if script == "save_views":
            self.calls.append(script)
            self._count_puts(list(args))
        return await super().run(script, keys, args)

    def _count_puts(self, args: list[Arg]) -> None:
        """See lua/save_views.lua: after the head, one revision, its drops and its runs of puts."""
        if int(args[9]) != 1:
            return
        projection, at = str(args[10]), 12
        at += 1 + int(args[at])
        runs, at = int(args[at]), at + 1
        for _ in range(runs):
            count, length = int(args[at]), int(args[at + 1])
            self.puts[projection] = self.puts.get(projection, 0) + count
            at += 2 + count * length

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        entries = await super().read_group(
            key, group, consumer, block_ms=0, count=count, noack=noack
        )
        if block_ms and not entries:
            raise Cut("waits")
        self.calls.append("read")
        return entries


def views_of(store: TimedStore, transport: Any = None) -> ProjectionStore:
    return ProjectionStore(transport or store.transport, store.cell, now_ms=lambda: store.at_ms)


def projector_of(store: TimedStore, transport: Any = None, **options: Any) -> Projector:
    return Projector(views_of(store, transport), options.pop("of", CORE), **options)


async def talk(store: TimedStore, utterances: int = 3, name: str = "s1") -> None:
    """Add a session with a node, some utterances and their results."""
    node = await store.join()
    session = await store.open(name)
    for seq in range(utterances):
        await store.say(session, seq, end_of_utterance=True)
        store.tick(10)
        await store.dispatch()
        await store.answer(node, (await store.inbox(node))[-1])


async def fold_all(projector: Projector) -> int:
    """Step until no entry is left; return the number of folded entries."""
    folded = 0
    for _ in range(1_000):
        result = await projector.step()
        folded += result.count
        if result.state in ("idle", "standby"):
            return folded
    raise AssertionError("the projector does not reach the end of the log")


async def view_of(store: TimedStore, entity: str, name: str = "session") -> Any:
    views = views_of(store)
    revision = await views.active_revision(name)
    assert revision is not None
    (stored,) = await views.load(name, revision, [entity])
    projection = next(each for each in CORE.projections if each.name == name)
    return record_codec(projection).decode(stored) if stored else None


async def records(store: TimedStore, name: str) -> dict[str, dict[str, bytes]]:
    """All records of the active revision with all their fields, by entity."""
    transport = store.transport
    revision = await views_of(store).active_revision(name)
    by_entity = {}
    for event in await store.log():
        entities = {"job": event.job, "node": event.node}.get(name, event.session)
        entity = entities if name == "job" else entities.partition(".")[2]
        key = store.keys.view(name, revision or "", entity)
        reply = await transport.command("HGETALL", key, key=key)
        if reply:
            by_entity[entity] = named_fields_of(reply)
    return by_entity


# --- folding -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_max", [128, 4])
async def test_a_projector_at_the_end_of_the_log_waits_without_reading_again(
    store: TimedStore, batch_max: int
) -> None:
    await talk(store)
    whole, rest = divmod(len(await store.log()), batch_max)
    assert rest
    waiting = Waiting(store)
    with pytest.raises(Cut):
        await projector_of(store, waiting, batch_max=batch_max).run()
    assert waiting.calls == ["read", "save_views"] * (whole + 1)


async def test_views_follow_the_log(store: TimedStore) -> None:
    await talk(store)
    log = await store.log()
    assert await fold_all(projector_of(store)) == len(log)
    session = await view_of(store, "s1")
    assert isinstance(session, Session)
    assert (session.utterance, session.results, session.delivered) == (3, 3, {"es": 3})
    job = await view_of(store, log[-1].job, "job")
    assert (job.status, job.outcome) == ("ended", "result")
    node = await view_of(store, "n1", "node")
    assert (node.results, node.live) == (3, {})
    assert await views_of(store).checkpoint("core") == log[-1].id


async def test_small_batches_and_large_ones_make_the_same_records(store: TimedStore) -> None:
    await talk(store, 5)
    await fold_all(projector_of(store, batch_max=2))
    small = {name: await records(store, name) for name in ("session", "group", "job", "node")}
    entries = len(await store.log())
    report = await Rebuild(views_of(store), CORE, list(small)).run()
    assert report is not None
    assert report.entries == entries
    assert {name: await records(store, name) for name in small} == small
    assert all(small.values())


async def test_29_dispatch_gets_the_context_that_was_folded(store: TimedStore) -> None:
    await talk(store, 2)
    await fold_all(projector_of(store))
    session = await store.resume(store.keys.full("s1"), "again")
    await store.say(session, session.next_seq, end_of_utterance=True)
    await store.dispatch()
    dispatched = (await store.log("JobDispatched"))[-1]
    delivered = await store.log("ResultRecorded")
    assert dispatched.data.context_at == delivered[-1].id  # type: ignore[union-attr]


async def test_the_index_of_a_session_is_its_log_ids_in_order(store: TimedStore) -> None:
    await talk(store, 2, "s1")
    await talk(store, 1, "s2")
    await fold_all(projector_of(store, batch_max=3))
    for name in ("s1", "s2"):
        key = store.keys.session_index(name)
        index = await store.transport.command("LRANGE", key, 0, -1, key=key)
        ids = [event.id for event in await store.log() if event.session == store.keys.full(name)]
        assert [raw.decode() for raw in index] == ids


async def test_the_index_of_a_node_is_its_log_ids_in_order(store: TimedStore) -> None:
    await talk(store, 2, "s1")
    await talk(store, 1, "s2")
    await fold_all(projector_of(store, batch_max=3))
    events = [event for event in await store.log() if event.node]
    for node in {event.node for event in events}:
        key = store.keys.node_index(name_of(node))
        index = await store.transport.command("LRANGE", key, 0, -1, key=key)
        assert [raw.decode() for raw in index] == [e.id for e in events if e.node == node]
    starts = await store.transport.command(
        "ZRANGE", store.keys.node_index_starts, 0, -1, key=store.keys.node_index_starts
    )
    assert {raw.decode() for raw in starts} == {name_of(event.node) for event in events}


async def test_a_retired_session_leaves_only_its_index(store: TimedStore) -> None:
    await talk(store, 1)
    session = await store.resume(store.keys.full("s1"), "again")
    await store.close_session(session.session, session.epoch)
    projector = projector_of(store)
    await fold_all(projector)
    assert await view_of(store, "s1") is not None
    store.tick(3_700_000)
    await store.timers()
    assert "SessionRetired" in await store.types()
    await fold_all(projector)
    assert await view_of(store, "s1") is None
    assert await view_of(store, "s1", "group") is None
    key = store.keys.session_index("s1")
    assert await store.transport.command("LLEN", key, key=key) > 0


# --- leases --------------------------------------------------------------------------------


async def test_a_standby_waits_until_the_lease_has_ended(store: TimedStore) -> None:
    await talk(store)
    first, second = projector_of(store), projector_of(store)
    assert (await first.step()).state == "folded"
    assert (await second.step()).state == "standby"
    store.tick(LEASE_MS - 1)
    assert (await second.step()).state == "standby"
    store.tick(1)
    assert (await second.step()).state == "idle"
    assert second.is_active
    assert await first.step() == StepResult("lease_lost", detail="fenced")


async def test_each_step_renews_the_lease(store: TimedStore) -> None:
    """Also if there is nothing to save."""
    first, second = projector_of(store), projector_of(store)
    assert (await first.step()).state == "idle"
    for state in ("idle", "folded", "idle"):
        if state == "folded":
            await store.open()
        store.tick(LEASE_MS - 100)
        assert (await first.step()).state == state
        store.tick(LEASE_MS - 1)
        assert (await second.step()).state == "standby"
        await first.step()


async def test_a_released_set_is_taken_over_at_once(store: TimedStore) -> None:
    first, second = projector_of(store), projector_of(store)
    await first.step()
    await first.release()
    assert (await second.step()).state == "idle"


async def test_a_zombie_that_read_before_the_takeover_cannot_save(store: TimedStore) -> None:
    await talk(store, 2)
    live = projector_of(store)

    async def take_over() -> None:
        store.tick(LEASE_MS)
        assert await fold_all(live) == len(await store.log()), "what the zombie had read, again"

    zombie = projector_of(store, Frozen(store, "save_views", take_over))
    assert await zombie.step() == StepResult("lease_lost", detail="fenced")
    assert (await view_of(store, "s1")).results == 2
    assert (await zombie.step()).state == "standby"


async def test_a_zombie_that_wakes_before_reading_takes_no_entries(store: TimedStore) -> None:
    live, zombie = projector_of(store), projector_of(store)
    assert (await zombie.step()).state == "idle"
    store.tick(LEASE_MS)
    assert (await live.step()).state == "idle"
    await talk(store, 2)
    assert await zombie.step() == StepResult("lease_lost", detail="fenced")
    assert await fold_all(live) == len(await store.log())


async def test_the_position_of_the_consumer_group_is_that_of_the_views(store: TimedStore) -> None:
    """The position in Redis is that of the last save: no entry is read ahead."""
    await talk(store, 4)
    projector = projector_of(store, batch_max=5)
    for _ in range(2):
        assert (await projector.step()).count == 5
    group = await group_of(store, "core")
    assert group["last-delivered-id"] == projector.checkpoint.encode()
    assert (group["pending"], group["entries-read"]) == (0, 10)
    assert group["lag"] == len(await store.log()) - 10
    await fold_all(projector)
    assert (await group_of(store, "core"))["lag"] == 0


async def test_a_destroyed_group_is_created_again_at_the_position_of_the_views(
    store: TimedStore,
) -> None:
    """At its last position; at the start it would have a large lag."""
    await talk(store, 4)
    projector = projector_of(store)
    await fold_all(projector)
    before = await group_of(store, "core")
    key = store.keys.log
    await store.transport.command("XGROUP", "DESTROY", key, "core", key=key)
    with pytest.raises(ServerUnavailable):
        await projector.step()
    assert (await projector.step()).state == "idle"
    after = await group_of(store, "core")
    for group in (before, after):  # a read without entries creates a consumer from Redis 7.2 on
        del group["consumers"]
    assert after == before
    await store.open("s2")
    assert (await projector.step()).count == 1
    group = await group_of(store, "core")
    assert (group["lag"], group["entries-read"]) == (0, before["entries-read"] + 1)


async def test_after_a_long_wait_most_of_the_lease_is_left_for_folding(store: TimedStore) -> None:
    second = projector_of(store)

    async def try_second() -> None:
        store.tick(900)  # loading and folding take time
        assert (await second.step()).state == "standby"

    first = projector_of(store, Frozen(store, "save_views", try_second))
    assert (await first.step()).state == "idle"
    await store.open()
    store.tick(BLOCK_MS + LINGER_MS)
    assert (await first.step()).state == "folded"


async def group_of(store: TimedStore, name: str) -> dict[str, Any]:
    key = store.keys.log
    groups = await store.transport.command("XINFO", "GROUPS", key, key=key)
    (group,) = [each for each in map(named_fields_of, groups) if each["name"] == name.encode()]
    return group


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("script", ["acquire_set_lease", "load_views", "save_views"])
async def test_a_crash_at_any_call_changes_nothing_of_the_records(
    store: TimedStore, script: str, after: bool
) -> None:
    await talk(store, 4)
    with pytest.raises(Cut):
        await fold_all(projector_of(store, Cutting(store, script, after=after), batch_max=5))
    store.tick(LEASE_MS)
    await fold_all(projector_of(store, batch_max=5))
    live = {name: await records(store, name) for name in ("session", "group", "job", "node")}
    await Rebuild(views_of(store), CORE, list(live)).run()
    assert {name: await records(store, name) for name in live} == live
    key = store.keys.session_index("s1")
    index = await store.transport.command("LRANGE", key, 0, -1, key=key)
    assert len(index) == len(set(index))


@pytest.mark.parametrize("after", [False, True], ids=["before it", "after it"])
async def test_a_projector_continues_after_a_lost_reply(store: TimedStore, after: bool) -> None:
    session, node = await store.open(), await store.join()
    cutting = Cutting(store, "", after=after)
    projector = projector_of(store, cutting)
    for seq in range(3):
        await fold_all(projector)  # so that an event that is folded twice is counted twice
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
        await store.answer(node, (await store.inbox(node))[-1])
        cutting.arm("save_views")
        with pytest.raises(Cut):
            await projector.step()
        await fold_all(projector)
    view = await view_of(store, "s1")
    assert (view.utterance, view.results, view.dispatches) == (3, 3, 3)


async def test_entries_are_not_folded_twice_after_a_group_was_set_back(
    store: TimedStore, redis: Any
) -> None:
    await talk(store, 2)
    projector = projector_of(store)
    await fold_all(projector)
    before = await records(store, "session")
    opened = (await store.log("SessionOpened"))[0]
    await redis.xgroup_setid(store.keys.log, CORE.name, opened.id)
    store.tick(1)
    await store.join("n2")
    await fold_all(projector)
    assert await records(store, "session") == before
    assert await view_of(store, "n2", "node") is not None


async def test_a_record_is_written_only_when_it_changes(store: TimedStore) -> None:
    await talk(store, 1)
    spying = Spying(store)
    projector = projector_of(store, spying)
    await fold_all(projector)
    await store.join("n2")
    await fold_all(projector)
    assert b"n2" in spying.saved[-1]
    assert b"s1" not in spying.saved[-1]


class Open(msgspec.Struct, frozen=True):
    names: frozenset[str] = frozenset()


class Holding:
    """A record with a field for each opened session; closing any session drops the record."""

    name, version, view = "holding", 1, Open
    handles = frozenset({"SessionOpened", "SessionClosed"})

    def initial(self) -> Open:
        return Open()

    def route(self, event: Event) -> tuple[str, ...]:
        return ("all",)

    def apply(self, view: Open, event: Event) -> Open | None:
        return Open(view.names | {event.session}) if event.type == "SessionOpened" else None

    def encode(self, view: Open, before: Open | None) -> dict[str, bytes]:
        known = before.names if before else ()
        new = [name for name in view.names if name not in known]
        return {"v": b"", **dict.fromkeys(new, b"!")}

    def decode(self, fields: Mapping[str, bytes]) -> Open:
        return Open(frozenset(fields) - {"v", "at"})


@pytest.mark.parametrize("batch_max", [1, 64])
async def test_a_record_that_was_dropped_and_made_again_has_no_earlier_field(
    store: TimedStore, batch_max: int
) -> None:
    first = await store.open("s1")
    await store.close_session(first.session, first.epoch)
    await store.open("s2")
    await store.open("s3")
    projector = projector_of(store, of=ProjectionSet("holding", (Holding(),)), batch_max=batch_max)
    await fold_all(projector)
    (record,) = await views_of(store).load("holding", "1.1", ["all"])
    last = (await store.log("SessionOpened"))[-1]
    full = store.keys.full
    assert record == {"v": b"", full("s2"): b"!", full("s3"): b"!", "at": last.id.encode()}


async def test_a_record_of_very_many_fields_is_written_completely(store: TimedStore) -> None:
    view = Open(frozenset(f"f{n}" for n in range(2_500)))
    views = views_of(store)
    lease = await views.acquire(ProjectionSet("holding", (Holding(),)), "me", LEASE_MS)
    assert isinstance(lease, SetLease)
    put = Put("all", "5-1", Holding().encode(view, None), is_new=True)
    save = Save(
        projection_set="holding", group="holding", epoch=lease.epoch, start=START,
        first="1-1", to="5-1",
        lease_ms=LEASE_MS, changes=[Changes("holding", "1.1", [put])],
    )  # fmt: skip
    assert await views.save(save) == "saved"
    (record,) = await views.load("holding", "1.1", ["all"])
    assert Holding().decode(record) == view


async def test_an_index_too_long_for_one_command_keeps_its_order(store: TimedStore) -> None:
    views = views_of(store)
    lease = await views.acquire(ProjectionSet("holding", (Holding(),)), "me", LEASE_MS)
    assert isinstance(lease, SetLease)
    indexes = {"s1": ["1-1", "2-1", "3-1"], "s2": [f"{n}-1" for n in range(1, 2_000)]}
    save = Save(
        projection_set="holding", group="holding", epoch=lease.epoch, start=START,
        first="1-1", to="2000-1",
        lease_ms=LEASE_MS, changes=[Changes("holding", "1.1")], indexes=indexes,
    )  # fmt: skip
    assert await views.save(save) == "saved"
    for session, ids in indexes.items():
        key = store.keys.session_index(session)
        index = await store.transport.command("LRANGE", key, 0, -1, key=key)
        assert [raw.decode() for raw in index] == ids


async def test_a_save_from_another_checkpoint_is_refused(store: TimedStore) -> None:
    await talk(store, 2)
    projector = projector_of(store, batch_max=2)
    await projector.step()
    projector.checkpoint = "1-1"
    assert await projector.step() == StepResult("moved")
    await fold_all(projector)
    assert (await view_of(store, "s1")).results == 2


# --- what cannot be folded -----------------------------------------------------------------


class Picky(Sessions):
    """The session projection, which raises at one type of event."""

    name = "picky"
    bad = "ResultRecorded"

    def apply(self, view: Session | None, event: Event) -> Session | None:
        if event.type == self.bad:
            raise ValueError(f"no {self.bad}, please")
        return super().apply(view, event)


async def dead_of(store: TimedStore) -> list[dict[str, str]]:
    entries = await store.read_range(store.keys.dead_letters, "-", "+", 100)
    return [
        {name: value.decode() for name, value in named_fields_of(flat).items()}
        for _, flat in entries
    ]


async def test_poison_is_a_dead_letter_with_its_reason_after_three_tries(store: TimedStore) -> None:
    await talk(store, 1)
    projector = projector_of(store, of=ProjectionSet("picky", (Picky(),)))
    states = [(await projector.step()).state for _ in range(5)]
    assert states == ["folded", "retry", "folded", "idle", "idle"], "first tried in its batch"
    (dead,) = await dead_of(store)
    (bad,) = await store.log("ResultRecorded")
    assert (dead["from"], dead["id"], dead["k"]) == ("log", bad.id, "ResultRecorded")
    line = Picky.apply.__code__.co_firstlineno + 2
    place = f"projector/test_projector.py:{line}"
    assert dead["reason"] == f"ValueError: no ResultRecorded, please ({place})"
    context = msgspec.json.decode(dead["d"])
    revisions = {"picky": f"{Picky.version}.1"}
    assert context == {
        "set": "picky", "projections": ["picky"], "revisions": revisions, "tries": 3,
    }  # fmt: skip


class Reading(Sessions):
    """The session projection, which also reads the text of results."""

    name = "reading"

    def apply(self, view: Session | None, event: Event) -> Session | None:
        if event.type == "ResultRecorded":
            codec.decode_text(event.body)
        return super().apply(view, event)


@pytest.mark.parametrize(
    "body", [b"\x81", b"\x81\xa1x" + b"\x91" * 2_000 + b"\xc0"], ids=["cut", "2,000 levels"]
)
async def test_a_text_that_no_decoder_reads_is_a_dead_letter_at_once(
    store: TimedStore, redis: Any, body: bytes
) -> None:
    """No function appends such a text; a program that has the server's URL can."""
    await talk(store, 1)
    types = await store.types()
    await replace_value(redis, store.keys.log, types.index("ResultRecorded"), LOG_BODY, body)
    projector = projector_of(store, of=ProjectionSet("reading", (Reading(),)))
    states = [(await projector.step()).state for _ in range(2)]
    assert states == ["folded", "idle"]
    (dead,) = await dead_of(store)
    (bad,) = await store.log("ResultRecorded")
    assert dead["id"] == bad.id
    assert dead["reason"].startswith("UnreadableText: ")
    assert msgspec.json.decode(dead["d"])["tries"] == 1
    assert projector.checkpoint == await store.last_id(store.keys.log)


class Exiting(Picky):
    """The session projection, which exits at one type of event."""

    def apply(self, view: Session | None, event: Event) -> Session | None:
        if event.type == self.bad:
            sys.exit("no model")
        return super().apply(view, event)


async def test_an_event_at_which_a_projection_exits_is_a_dead_letter(
    store: TimedStore,
) -> None:
    await talk(store, 1)
    await fold_all(projector_of(store, of=ProjectionSet("picky", (Exiting(),))))
    (dead,) = await dead_of(store)
    place = f"projector/test_projector.py:{Exiting.apply.__code__.co_firstlineno + 2}"
    assert (dead["k"], dead["reason"]) == ("ResultRecorded", f"SystemExit: no model ({place})")


async def test_events_after_poison_are_folded(store: TimedStore) -> None:
    await talk(store, 2)
    await fold_all(projector_of(store, of=ProjectionSet("picky", (Picky(),))))
    assert len(await dead_of(store)) == 2
    views = views_of(store)
    (stored,) = await views.load("picky", f"{Sessions.version}.1", ["s1"])
    session = Picky().decode(stored)
    assert (session.utterance, session.results) == (2, 0)


async def test_one_failing_projection_does_not_hold_up_the_others(store: TimedStore) -> None:
    await talk(store, 2)
    of = ProjectionSet("two", (Picky(), Sessions()))
    await fold_all(projector_of(store, of=of))
    assert (await view_of(store, "s1")).results == 2
    assert {
        msgspec.json.decode(letter["d"])["projections"][0] for letter in await dead_of(store)
    } == {"picky"}


async def test_an_event_of_unknown_type_is_a_dead_letter(store: TimedStore, redis: Any) -> None:
    await store.open()
    fields = dict.fromkeys(FIELDS, "")
    entry_id = await redis.xadd(store.keys.log, fields | {"t": "MoonRisen", "v": "9", "d": "{}"})
    await fold_all(projector_of(store))
    (dead,) = await dead_of(store)
    assert (dead["id"], dead["reason"]) == (entry_id.decode(), "unknown type MoonRisen")
    assert (await view_of(store, "s1")).status == "open"
    with pytest.raises(UndecodableEvent):
        await store.log()


def _long_ids(store: TimedStore) -> list[dict[str, str]]:
    """The fields of events whose names make ids of records that no script takes."""
    session, long = store.keys.full("s1"), "a" * 1_100
    failed = {
        "utterance": 0, "target": "es", "delivery_no": 0, "attempt": 1, "attempts": 1, "code": "X",
    }  # fmt: skip
    retired = {"tenant": long, "features_hash": "x", "first": 0, "last": 0, "targets": ["es"]}
    started = {
        "origin": f"{store.cell}.{long}", "target": "es", "utterance": 0, "until_ms": 1,
    }  # fmt: skip
    events = [
        ("JobFailed", long, failed), ("JobFailed", "\u20ac" * 342, failed),
        ("JobsRetired", "", retired), ("PlaybackStarted", "", started),
    ]  # fmt: skip
    return [
        dict.fromkeys(FIELDS, "")
        | {"t": kind, "v": "1", "s": session, "j": job, "d": msgspec.json.encode(data).decode()}
        for kind, job, data in events
    ]


async def test_an_event_that_names_a_record_with_a_long_id_is_a_dead_letter(
    store: TimedStore, redis: Any
) -> None:
    """Live and in a rebuild: the scripts refuse the id, so nothing can load its record."""
    await talk(store, 1)
    for fields in _long_ids(store):
        await redis.xadd(store.keys.log, fields, id=f"{store.at_ms}-*")
    projector = projector_of(store)
    await fold_all(projector)
    assert projector.checkpoint == await store.last_id(store.keys.log)
    dead = await dead_of(store)
    kinds = [letter["k"] for letter in dead if letter["reason"].startswith("InvalidEntity: ")]
    assert kinds == ["JobFailed", "JobFailed", "JobsRetired", "PlaybackStarted"]
    assert all(len(letter["reason"]) < 200 for letter in dead)
    report = await Rebuild(views_of(store), CORE, ["job", "group"]).run()
    assert report is not None
    assert report.skipped == len(dead)


async def test_an_event_of_a_newer_version_is_a_dead_letter_at_once_and_in_its_index(
    store: TimedStore, redis: Any
) -> None:
    """More tries would not help; a later program reads the event in the index."""
    await talk(store, 1)
    later = {"t": "SessionResumed", "v": "2", "s": store.keys.full("s1"), "d": '{"era":2}'}
    entry_id = await redis.xadd(store.keys.log, dict.fromkeys(FIELDS, "") | later)
    projector = projector_of(store)
    result = await projector.step()
    assert (result.state, result.dead_lettered) == ("folded", 1)
    (dead,) = await dead_of(store)
    assert dead["reason"] == "SessionResumed: version 2, this program reads 1 to 1"
    key = store.keys.session_index("s1")
    assert (await store.transport.command("LRANGE", key, -1, -1, key=key)) == [entry_id]
    assert (await view_of(store, "s1")).epoch == 1


# --- rebuild and switch --------------------------------------------------------------------


async def test_a_rebuild_switches_readers_and_drops_the_old_revision(store: TimedStore) -> None:
    await talk(store, 3)
    projector = projector_of(store)
    await fold_all(projector)
    old = await records(store, "session")
    report = await Rebuild(views_of(store), CORE, ["session", "group"]).run()
    assert report is not None
    revisions = {"session": f"{Sessions.version}.2", "group": "2.2"}
    assert (report.revisions, report.dropped) == (revisions, 2)
    assert await views_of(store).active_revision("session") == f"{Sessions.version}.2"
    assert await views_of(store).active_revision("job") == "3.1"
    assert await records(store, "session") == old
    assert await views_of(store).load("session", f"{Sessions.version}.1", ["s1"]) == [{}]


async def test_a_rebuild_is_two_events_with_who_and_why(store: TimedStore) -> None:
    await talk(store, 1)
    await fold_all(projector_of(store))
    act = Act(by="ann@host", why="a mended fold", request="r1")
    entries = len(await store.log())
    done = await Rebuild(views_of(store), CORE, ["session"], act=act).run()
    assert done is not None
    revisions = [Revision(projection="session", revision=done.revisions["session"])]
    (started,) = await store.log("RebuildStarted")
    assert started.data == RebuildStarted(revisions=revisions, why="a mended fold", by="ann@host")
    (promoted,) = await store.log("RebuildPromoted")
    assert promoted.data == RebuildPromoted(
        revisions=revisions, entries=entries, why="a mended fold", by="ann@host"
    )
    again = await Rebuild(views_of(store), CORE, ["session"], act=act).run()
    assert again is not None
    assert (again.revisions, again.entries) == (done.revisions, 0)
    assert len(await store.log("RebuildPromoted")) == 1


async def test_the_next_try_of_a_rebuild_is_the_same_act(store: TimedStore) -> None:
    await talk(store, 1)
    await fold_all(projector_of(store))
    act = Act(by="ann@host", why="a mended fold", request="r1")
    views = views_of(store, Cutting(store, "promote_revision", after=False))
    with pytest.raises(Cut):
        await Rebuild(views, CORE, ["session"], owner="me", act=act).run()
    assert await Rebuild(views_of(store), CORE, ["session"], act=act).run() is not None
    assert len(await store.log("RebuildStarted")) == len(await store.log("RebuildPromoted")) == 1


async def test_failed_jobs_are_logged(store: TimedStore) -> None:
    """At the level of warnings; the lines of roles in tests/failures/test_logs.py have the rest."""
    node = await store.join()
    session = await store.open("s1")
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    (message,) = await store.inbox(node)
    await store.answer(node, message, status="failed", code="NO_SPANISH")
    with capture_logs() as logs:
        await fold_all(projector_of(store))
    (failed,) = (line for line in logs if "session" in line)
    assert (failed["event"], failed["log_level"]) == ("job failed", "warning")
    assert (failed["session"], failed["job"]) == (session.session, message["j"])
    assert failed["code"] == "NO_SPANISH"


async def test_the_projector_continues_with_the_new_revision(store: TimedStore) -> None:
    await talk(store, 1)
    projector = projector_of(store)
    await fold_all(projector)
    await Rebuild(views_of(store), CORE, ["session"]).run()
    session = await store.resume(store.keys.full("s1"), "again")
    await store.say(session, session.next_seq, end_of_utterance=True)
    assert await projector.step() == StepResult("lease_lost", detail="rebuilt")
    await fold_all(projector)
    assert (await view_of(store, "s1")).utterance == 2
    assert await views_of(store).load("session", f"{Sessions.version}.1", ["s1"]) == [{}]


async def test_records_of_a_crashed_rebuild_are_dropped_by_the_next(store: TimedStore) -> None:
    await talk(store, 3)
    await fold_all(projector_of(store))
    views = views_of(store, Cutting(store, "promote_revision", after=False))
    broken = Rebuild(views, CORE, ["session"])
    with pytest.raises(Cut):
        await broken._fold_and_promote(
            await views.acquire_revision(broken.revision_set, "me", 10_000),  # type: ignore[arg-type]
            [f"{Sessions.version}.1"],
            [f"{Sessions.version}.2"],
        )
    before = await records(store, "session")
    views = views_of(store, Cutting(store, "drop_revision", after=False))
    with pytest.raises(Cut):
        await Rebuild(views, CORE, ["session"], owner="me").run()
    assert await views.active_revision("session") == f"{Sessions.version}.2", (
        "switched, then died before dropping"
    )
    report = await Rebuild(views_of(store), CORE, ["group"]).run()
    assert report is not None
    assert await records(store, "session") == before
    assert await views.load("session", f"{Sessions.version}.1", ["s1"]) == [{}]
    assert await views.checkpoint("rebuild-core") == START


SPEAKERS = ["s1", "s2", "s3", "s4"]


async def counted(store: TimedStore) -> list[int]:
    """The number of utterances of each speaker in the active view."""
    revision = await views_of(store).active_revision("counts")
    stored = await views_of(store).load("counts", revision or "", SPEAKERS)
    return [msgspec.msgpack.decode(each["v"], type=UtteranceCount).utterances for each in stored]


async def take_turns(store: TimedStore) -> None:
    """Each speaker speaks three times, in turns; the active view counts the utterances."""
    sessions = [await store.open(name) for name in SPEAKERS]
    for seq in range(3):
        for session in sessions:
            await store.say(session, seq, end_of_utterance=True)
    await fold_all(projector_of(store, of=COUNTS))
    assert await counted(store) == [3, 3, 3, 3]


def limit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a rebuild read one entry at a time and keep one record in memory."""
    monkeypatch.setattr("eventsched.history.log.READ_MAX", 1)
    monkeypatch.setattr("eventsched.projection.fold.CACHED_BYTES_MAX", 2_000)


async def test_a_rebuild_of_more_records_than_fit_in_memory_is_the_same(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_turns(store)
    limit_memory(monkeypatch)
    assert await Rebuild(views_of(store), COUNTS, ["counts"]).run() is not None
    assert await views_of(store).active_revision("counts") == "1.2"
    assert await counted(store) == [3, 3, 3, 3]


async def test_a_rebuild_writes_each_record_once_if_all_fit_in_memory(store: TimedStore) -> None:
    await take_turns(store)
    counting = Waiting(store)
    assert await Rebuild(views_of(store, counting), COUNTS, ["counts"]).run() is not None
    assert await counted(store) == [3, 3, 3, 3]
    assert counting.puts == {"counts": len(SPEAKERS)}


async def test_a_rebuild_evicts_what_has_not_changed_for_longest(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four records fit; a record that changes again at once is not written in between."""
    sessions = [await store.open(name) for name in SPEAKERS]
    for session in sessions:
        for seq in range(3):
            await store.say(session, seq, end_of_utterance=True)
    await fold_all(projector_of(store, of=COUNTS))
    monkeypatch.setattr("eventsched.history.log.READ_MAX", 1)
    monkeypatch.setattr("eventsched.projection.fold.CACHED_BYTES_MAX", 5_000)
    counting = Waiting(store)
    assert await Rebuild(views_of(store, counting), COUNTS, ["counts"]).run() is not None
    assert await counted(store) == [3, 3, 3, 3]
    assert counting.puts == {"counts": len(SPEAKERS)}


class Transcript:
    """A read model that keeps everything that a session says."""

    name, version, view = "transcript", 1, bytes
    handles = frozenset({"ResultRecorded", "SessionOpened"})

    def initial(self) -> bytes:
        return b""

    def route(self, event: Event) -> tuple[str, ...]:
        return (event.session.partition(".")[2],)

    def apply(self, view: bytes, event: Event) -> bytes:
        return view + event.body


TRANSCRIPT = ProjectionSet("transcript", (Transcript(),))


@pytest.mark.parametrize("is_rebuilt", [False, True])
async def test_an_event_that_makes_a_record_too_large_is_a_dead_letter_that_names_the_record(
    store: TimedStore, redis: Any, monkeypatch: pytest.MonkeyPatch, is_rebuilt: bool
) -> None:
    monkeypatch.setattr("eventsched.projection.fold.RECORD_BYTES_MAX", 100_000)
    monkeypatch.setattr("eventsched.projection.fold.MEASURED_MIN", 6_250)
    await store.open("s1")
    for size in (60_000, 60_000, 20_000, 60_000, 60_000):
        recorded = ResultRecorded(
            utterance=0, target="es", delivery_no=0, attempt=1, epoch=1, status="ok"
        )
        event = Event(
            id="", type="ResultRecorded", session=store.keys.full("s1"), data=recorded,
            body=bytes(size),
        )  # fmt: skip
        await redis.xadd(store.keys.log, encode(event), id=f"{store.at_ms}-*")
    await fold_all(projector_of(store, of=TRANSCRIPT))
    if is_rebuilt:
        report = await Rebuild(views_of(store), TRANSCRIPT, ["transcript"]).run()
        assert report is not None
        assert report.skipped == 3
    revision = await views_of(store).active_revision("transcript")
    (record,) = await views_of(store).load("transcript", revision or "", ["s1"])
    assert msgspec.msgpack.decode(record["v"]) == bytes(80_000)
    (letter,) = await dead_of(store)  # one for the record, however many events it cannot take
    assert letter["reason"] == (
        "RecordTooLarge: record transcript s1 has 120,005 B, at most 100,000 B"
    )


async def test_a_session_with_all_open_outcomes_in_a_full_room_fits_its_record(
    store: TimedStore,
) -> None:
    """1,024 open outcomes with 31 recipients each."""
    await store.configure_cell({"tenant_queue_max": 1_000_000}, overwrite=True)
    room = store.keys.full("acme/full")
    names = [f"{at:032x}" for at in range(32)]
    members = [
        await store.open(name, targets=[], room=room, listen_language="es") for name in names
    ]
    for first in range(0, 1_024, 8):
        seqs = range(first, first + 8)
        await store.append_audio(
            [chunk(members[0], seq, ms=20, end_of_utterance=True) for seq in seqs]
        )
    await fold_all(projector_of(store))
    assert await dead_of(store) == []
    (fields,) = await views_of(store).load("session", f"{Sessions.version}.1", names[:1])
    view = Sessions().decode(fields)
    assert len(view.open_outcomes) == 1_024
    recipients = frozenset(store.keys.full(name) for name in names[1:])
    assert {frozenset(each.recipients) for each in view.open_outcomes.values()} == {recipients}
    report = await Verifier(views_of(store), CORE).run()
    assert report.violations == []


async def test_records_of_a_rebuild_that_crashed_before_its_first_checkpoint_do_not_count(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await take_turns(store)
    views = views_of(store, Cutting(store, "save_views", after=True))
    with pytest.raises(BaseExceptionGroup):
        await Rebuild(views, COUNTS, ["counts"], owner="me").run()
    assert {} not in await views.load("counts", "1.2", SPEAKERS)
    assert await views.checkpoint("rebuild-counts") == START
    limit_memory(monkeypatch)
    assert await Rebuild(views, COUNTS, ["counts"], owner="me").run() is not None
    assert await counted(store) == [3, 3, 3, 3]


async def test_two_rebuilds_of_a_set_do_not_run_at_once(store: TimedStore) -> None:
    await views_of(store).acquire_revision("rebuild-core", "somebody", 10_000)
    assert await Rebuild(views_of(store), CORE, ["session"]).run() is None
    store.tick(10_000)
    assert await Rebuild(views_of(store), CORE, ["session"]).run() is not None


async def test_a_rebuild_renews_its_lease_while_it_folds(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await talk(store, 1)
    await fold_all(projector_of(store))
    views = views_of(store)
    history = History(views, None, CORE)
    batches = history.batches

    async def one_by_one(after: str, upto: str) -> AsyncIterator[Sequence[Entry]]:
        async for entries in batches(after, upto):
            for entry in entries:
                store.tick(6_000)
                assert await Rebuild(views, CORE, ["session"]).run() is None
                yield [entry]

    monkeypatch.setattr(history, "batches", one_by_one)
    count = len(await store.log())
    report = await Rebuild(views, CORE, ["session"], history=history).run()
    assert report is not None
    assert (report.entries, report.revisions) == (
        count,
        {"session": f"{Sessions.version}.2"},
    )


async def test_a_rebuild_without_any_projector_ever_is_as_empty_as_the_live_view(
    store: TimedStore,
) -> None:
    await talk(store, 1)
    report = await Rebuild(views_of(store), CORE, ["session"]).run()
    assert report is not None
    assert report.entries == 0
    assert await fold_all(projector_of(store)) == len(await store.log())


class BrokenCount(Counts):
    """A newer version of the counts whose fold of two speakers fails."""

    version = 2

    def apply(self, view: UtteranceCount, event: Event) -> UtteranceCount:
        if event.session.endswith(("s2", "s4")):
            raise KeyError("speaker")
        return super().apply(view, event)


BROKEN = ProjectionSet("counts", (BrokenCount(),))


async def rebuild_broken(store: TimedStore, failures_max: int) -> RebuildResult | None:
    rebuild = Rebuild(views_of(store), BROKEN, ["counts"], failures_max=failures_max)
    try:
        return await rebuild.run()
    except* TooManyFailures as group:
        error: TooManyFailures = first_error(group)
    raise error


@pytest.mark.parametrize("failures_max", [0, 5])
async def test_a_rebuild_does_not_switch_to_a_view_that_lacks_events(
    store: TimedStore, failures_max: int
) -> None:
    """Speakers 2 and 4 speak three times each. The error names events, files and lines."""
    await take_turns(store)
    with pytest.raises(TooManyFailures) as failed:
        await rebuild_broken(store, failures_max)
    assert await views_of(store).active_revision("counts") == "1.1"
    assert await counted(store) == [3, 3, 3, 3]
    bad = [each.id for each in await store.log("UtteranceFinalized") if each.session[-1] in "24"]
    line = BrokenCount.apply.__code__.co_firstlineno + 2
    reason = f"KeyError: 'speaker' (projector/test_projector.py:{line})"
    failures = failed.value.failures
    assert [each.id for each in failures] == bad[:FAILURES_SHOWN_MAX]
    assert {(each.type, each.projections, each.reason) for each in failures} == {
        ("UtteranceFinalized", ("counts",), reason)
    }
    assert f"UtteranceFinalized {bad[0]}: {reason}" in str(failed.value)
    assert "--allow-failures" in str(failed.value)


async def test_the_dead_letters_of_a_read_model_are_retried_once_it_is_mended(
    store: TimedStore,
) -> None:
    """A retry rebuilds the read model: it folds the events in their places, or not at all."""
    broken = projector_of(store, of=ProjectionSet("counts", (BrokenNow(),)))
    for name in SPEAKERS[:2]:
        await talk(store, 1, name)
    await fold_all(broken)
    act = Act(by="ann@host", why="mended", request="r1")
    letters = [letter async for letter in read_dead_letters(store)]
    assert [letter["kind"] for letter in letters] == ["UtteranceFinalized"]
    with pytest.raises(ExceptionGroup):
        await refold(store, [broken.set], letters, act)
    assert await refold(store, [], letters, act) == [letters[0]["id"].partition("/")[2]]
    ids = [letter["id"].partition("/")[2] for letter in letters]
    (outcome,) = await store.retry_dead_letters(ids, act)
    assert outcome.word == "projection"
    assert await refold(store, [COUNTS], letters, act) == []
    (outcome,) = await store.retry_dead_letters(ids, act)
    assert outcome.word == "retried"
    assert await views_of(store).load("counts", "1.2", ["s2"]) != [{}]
    assert await store.log("DeadLettersRetried") != []


class BrokenNow(Counts):
    """The counts, whose fold of one speaker fails."""

    def apply(self, view: UtteranceCount, event: Event) -> UtteranceCount:
        if event.session.endswith("s2"):
            raise KeyError("speaker")
        return super().apply(view, event)


async def test_a_rebuild_switches_if_as_many_failures_are_allowed(store: TimedStore) -> None:
    await take_turns(store)
    result = await rebuild_broken(store, 6)
    assert result is not None
    assert (result.skipped, len(result.failures)) == (6, FAILURES_SHOWN_MAX)
    assert await views_of(store).active_revision("counts") == "2.2"
    assert await views_of(store).load("counts", "2.2", ["s2"]) == [{}]


async def test_an_entry_that_no_decoder_reads_does_not_stop_a_rebuild(
    store: TimedStore, redis: Any
) -> None:
    """As an event of a later release: no read model of this release can fold it."""
    await take_turns(store)
    later = {"t": "MoonRisen", "v": "2", "s": "c0.s1", "d": "{}"}
    await redis.xadd(store.keys.log, dict.fromkeys(FIELDS, "") | later, f"{store.at_ms}-*")
    store.tick(LEASE_MS)
    await fold_all(projector_of(store, of=COUNTS))
    result = await Rebuild(views_of(store), COUNTS, ["counts"]).run()
    assert result is not None
    assert (result.skipped, result.failures) == (1, [])


async def test_a_newer_version_that_cannot_fold_the_log_leaves_the_old_records_live(
    store: TimedStore,
) -> None:
    await take_turns(store)
    projector = projector_of(store, of=BROKEN)
    store.tick(LEASE_MS)
    assert (await projector.step()).state == "other_version"
    with capture_logs() as logs:
        assert not await projector._rebuild_outdated()
    assert [line["event"] for line in logs] == ["cannot rebuild"]
    assert "--allow-failures" in logs[0]["reason"]
    assert await views_of(store).active_revision("counts") == "1.1"


class NewerSessions(Sessions):
    """The session projection with a newer version."""

    version = Sessions.version + 1


async def test_a_newer_version_waits_then_rebuilds(store: TimedStore) -> None:
    await talk(store, 2)
    old = projector_of(store)
    await fold_all(old)
    await old.release()
    newer = ProjectionSet("core", (NewerSessions(), *CORE.projections[1:]), CORE.sessions)
    new = projector_of(store, of=newer)
    assert (await new.step()).state == "other_version"
    assert await new._rebuild_outdated()
    (event,) = await store.log("RebuildPromoted")
    assert (event.data.by, event.data.why) == ("projector", "newer code of the set core")  # type: ignore[union-attr]
    assert await fold_all(new) == 2, "the two events of the rebuild"
    assert (await views_of(store).active_revision("session")) == f"{Sessions.version + 1}.2"
    assert (await old.step()).state == "standby"
    await new.release()
    assert (await old.step()).state == "other_version"
    assert not await old._rebuild_outdated()


# --- other ---------------------------------------------------------------------------------


def test_the_built_in_set_has_the_projections_of_its_modules() -> None:
    assert [each.name for each in CORE.projections] == [
        "session",
        "group",
        "job",
        "node",
        "metrics",
    ]
    assert all(isinstance(each, Projection) for each in CORE.projections)
    assert load_core() == CORE


class Unavailable(Cutting):
    """A transport whose server does not answer a script, once."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        try:
            return await super().run(script, keys, args)
        except Cut as error:
            raise ServerUnavailable("no answer") from error


class Unanswered(Cutting):
    """A transport whose server does not answer a command, once."""

    def __init__(self, store: TimedStore, command: str) -> None:
        super().__init__(store, "", after=False)
        self._unanswered = command

    async def command(self, *parts: Arg, key: str) -> Any:
        if parts[0] == self._unanswered:
            self._unanswered = ""
            raise ServerUnavailable("no answer")
        return await super().command(*parts, key=key)


@pytest.mark.parametrize("command", ["GET", "EXISTS", "XINFO"])
async def test_a_lease_that_was_acquired_without_a_reply_is_acquired_again(
    store: TimedStore, command: str
) -> None:
    await talk(store)
    projector = projector_of(store, Unanswered(store, command))
    with pytest.raises(ServerUnavailable):
        await projector.step()
    assert not projector.is_active
    assert await fold_all(projector) == len(await store.log())


async def until_folded(store: TimedStore) -> None:
    """Return when the active views have all events of the log."""

    async def are_equal() -> bool:
        return await views_of(store).checkpoint("core") == await store.last_id(store.keys.log)

    await until("the views have all events of the log", are_equal)


@pytest.mark.parametrize("script", ["acquire_set_lease", "save_views"])
async def test_run_continues_after_the_server_was_unavailable(
    store: TimedStore, script: str
) -> None:
    await talk(store, 1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(projector_of(store, Unavailable(store, script, after=True)).run)
        await until_folded(store)
        tasks.cancel_scope.cancel()
    assert (await view_of(store, "s1")).results == 1


async def test_run_releases_the_lease_when_it_is_cancelled(store: TimedStore) -> None:
    await talk(store, 1)
    first, second = projector_of(store), projector_of(store)
    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as inner:
            inner.start_soon(first.run)
            await until_folded(store)
            outer.start_soon(second.run)
            inner.cancel_scope.cancel()
        await talk(store, 1, "s2")
        await until_folded(store)
        assert second.is_active
        assert not first.is_active
        outer.cancel_scope.cancel()
    assert (await view_of(store, "s2")).results == 1
