"""Verify finds a change of every stored field of a session, a node and a job.

Owns: the fields that it does not find, each with its reason. docs/threat-model.md names them in the
table "Not promised".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventsched.archive.commands import ArchiveCommands
from eventsched.audit.verify import Verifier
from eventsched.errors import Refused
from eventsched.history.log import History
from eventsched.projection.fold import Folding
from eventsched.projection.store import SetLease
from eventsched.schema.codec import encode_text
from eventsched.schema.events import Text
from eventsched.schema.ids import START
from eventsched.store.operator_commands import Act
from tests.fixtures_store import TimedStore
from tests.job_record import ORDER
from tests.scripts.jobs_of import assigned
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import CORE, project, verified, views_of

THREAT_MODEL = Path(__file__).parents[2] / "docs" / "threat-model.md"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_FOUND = {
    "session": {
        "secret_sha1": "a hash of a secret, which no event has",
        "tokens": "request tokens, which no event has",
        "buffer": "the open utterance, which no event has yet",
        "confirmed": "what the listener has read, which no event has",
        "archived": "what the archiver has of the audio, which no event has",
        "out_low": "it may lag, so any place up to out_bytes may be right",
        "out_counted": "a multiple of the unread bytes, counted at times that no event has",
        "retire_at": "by the setting at the time of the close",
        "resumes_until": "by failed resumes as well, which have no event",
        "missing": "the event that closes the session has it only later",
    },
    "node": {
        "token": "the token of its process, which no event has",
        "inbox_from": "a place in the inbox, which no event has",
        "seen": "the last heartbeat, which has no event",
        "load": "the last heartbeat, which has no event",
        "unreadable": "a count of results, which have no event each",
        "failures": "counts of failed attempts in a row",
    },
    "job": {
        "running deadline": "an extension has no event; its bounds are checked",
    },
}


async def build(store: TimedStore) -> None:
    """Sessions that are open and closed; jobs of every status; a node that an operator drains."""
    closed = await store.open("s9", traceparent=TRACEPARENT, targets=["fr"])
    await store.say(closed, 0, end_of_utterance=True)
    await store.close_session(closed.session, closed.epoch)
    store.tick(30_001)
    await store.timers()  # its outcome ends as missing
    asked: dict[str, Any] = {"slots": 2, "features": ["tone"], "version": "v1"}
    node = await store.join("n1", **asked)
    room = store.keys.full("acme/r1")
    session = await store.open(
        "s1", traceparent=TRACEPARENT, features=["tone"], room=room, listen_language="es",
        key="0123456789abcdef",
    )  # fmt: skip
    session = await store.resume(session.session, "again")
    for seq in range(4):
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
    first, second = await assigned(store, node)
    body = encode_text(Text(source_text="hi", text="a" * 20_000))
    await store.answer(node, first, body=body)
    await store.answer(node, second, body=body)
    await store.dispatch()
    with pytest.raises(Refused):
        await store.answer(node, second)  # a duplicate is a refused report
    (entry_id, _), *_ = await store.read_range(store.keys.outbox("s1"), "-", "+", 10)
    await store.mark_playback(
        session.session, session.epoch, origin=session.session, target="es", utterance=0,
        started=True,
    )  # fmt: skip
    fourth = (await assigned(store, node))[-1]
    await store.answer(node, fourth, status="no_speech", body=b"")  # held behind the third
    for seq in range(4, 8):
        await store.say(session, seq, end_of_utterance=True)
        await store.dispatch()
    newest = (await assigned(store, node))[-1]
    await store.answer(
        node, newest, status="failed", code="OOM", retryable=True, body=b"", retry_in_ms=5_000
    )
    await store.say(session, 8)
    await store.keep_alive([(session.session, session.epoch, entry_id)])
    await seal(store)
    drained = await store.join("n2", slots=1, features=["tone"])
    await store.request_drain(drained.node, Act.of("ann@host", "new driver"), within_ms=0)
    await store.transport.command(
        "HSET", store.keys.node("n1"), "unreadable", "1|5", key=store.keys.log
    )
    await project(store)


async def seal(store: TimedStore) -> None:
    """The archive has the first chunk of s1."""
    archive = ArchiveCommands(views_of(store))
    lease = await archive.acquire("a1", 10_000)
    assert isinstance(lease, SetLease)
    (chunk, *_) = await store.read_range(store.keys.audio("s1"), "-", "+", 1)
    await archive.record(
        lease.epoch, start=START, to=START, fingerprint="key", processed=0, audio=True,
        audio_to={"s1": chunk[0]},
    )  # fmt: skip


def changes_of(value: str) -> Iterator[str]:
    """The value with each of its parts changed in turn: numbers by 1, texts in a character."""
    parts = re.split(r"([|,/:>-])", value)
    for at in range(0, len(parts), 2):
        part = parts[at]
        if part.isdecimal():
            other = str(int(part) + 1)
        else:
            other = ("y" if part[:1] == "z" else "z") + part[1:]
        yield "".join([*parts[:at], other, *parts[at + 1 :]])


async def changed_hashes(
    store: TimedStore, redis: Any, kind: str
) -> AsyncIterator[tuple[str, str]]:
    """Each field of the hashes of the kind, as long as it is changed in the first that has it."""
    prefix, changed = f"{store.keys.prefix}{kind}:", set[bytes]()
    for key in sorted([key async for key in redis.scan_iter(f"{prefix}*")]):
        for field, value in sorted((await redis.hgetall(key)).items()):
            if field in changed:
                continue
            changed.add(field)
            for other in changes_of(value.decode()):
                await redis.hset(key, field, other)
                yield field.decode(), f"{key.decode()} {field.decode()} {value!r} -> {other!r}"
            await redis.hset(key, field, value)


async def changed_jobs(store: TimedStore, redis: Any) -> AsyncIterator[tuple[str, str]]:
    """Each part of each job, and each field of its core, as long as it is changed."""
    statuses = set[str]()
    for key in sorted([key async for key in redis.scan_iter(f"{store.keys.prefix}job:*")]):
        record = (await redis.get(key)).decode()
        parts = record.split("|", len(ORDER) - 1)
        kind = parts[0] + parts[ORDER.index("outcome")] + parts[ORDER.index("refused")][:1]
        if kind in statuses:
            continue
        statuses.add(kind)
        for name, other in changed_records(parts):
            await redis.set(key, other)
            yield f"{parts[0]} {name}", f"{key.decode()} {name} of {record!r} -> {other!r}"
        await redis.set(key, record)


def changed_records(parts: list[str]) -> Iterator[tuple[str, str]]:
    """(part, record) for each change of a job's record."""
    for at, name in enumerate(ORDER[:-1]):
        for other in changes_of(parts[at]):
            yield name, "|".join([*parts[:at], other, *parts[at + 1 :]])
    core = msgspec.json.decode(parts[-1])
    for field, value in [*core.items(), ("unknown", 0)]:
        wrong: Any = f"z{value}"
        if isinstance(value, int):
            wrong = value + 1
        elif isinstance(value, list):
            wrong = [*value, "z"]
        text = msgspec.json.encode(core | {field: wrong}).decode()
        yield field, "|".join([*parts[:-1], text])


@pytest.mark.parametrize("kind", NOT_FOUND)
async def test_a_change_of_every_field_is_found_but_of_those_that_no_event_has(
    store: TimedStore, redis: Any, kind: str
) -> None:
    await build(store)
    assert (await verified(store)).violations == []
    changed = changed_jobs(store, redis) if kind == "job" else changed_hashes(store, redis, kind)
    missed, seen = dict[str, str](), set[str]()
    async for field, change in changed:
        seen.add(field)
        if (await verified(store)).is_clean:
            missed.setdefault(field, change)
    assert seen >= NOT_FOUND[kind].keys()
    assert missed.keys() == NOT_FOUND[kind].keys(), missed
    assert (await verified(store)).violations == []


def test_the_fields_that_are_not_found_are_in_the_threat_model() -> None:
    (row,) = [
        line for line in THREAT_MODEL.read_text(encoding="utf-8").splitlines()
        if line.startswith("| That `verify` finds a change by hand of what no event has.")
    ]  # fmt: skip
    named = set(re.findall(r"\*(\w+)\*", row))
    carried = {"finalized", "out_bytes", "tp", "playbacks_started", "drained_by"}
    assert named - carried == {*NOT_FOUND["session"], *NOT_FOUND["node"]}


async def test_what_only_trimmed_entries_say_is_not_compared(store: TimedStore, redis: Any) -> None:
    """A fold that begins with a snapshot lacks the events before it; later ones are no excess."""
    await build(store)
    views = views_of(store)
    last = await views.last_id(store.keys.log)

    class FromSnapshot(History):
        async def nearest_folding(self, entry_id: str) -> tuple[str, Folding]:
            return last, await History(views, None, CORE).folding_at(last)

    async def found() -> list[str]:
        report = await Verifier(views, CORE, history=FromSnapshot(views, None, CORE)).run()
        return [violation.where for violation in report.violations]

    session = store.keys.full("s1")
    await store.mark_playback(session, 2, origin=session, target="es", utterance=1, started=True)
    assert await found() == []
    await redis.hset(store.keys.node("n1"), "version", "v9")
    assert await found() == ["node:n1"]


async def stored(store: TimedStore, redis: Any) -> dict[bytes, Any]:
    """The records of sessions, nodes and jobs, by key."""
    prefix = store.keys.prefix
    records = dict[bytes, Any]()
    for kind in ("session", "node"):
        async for key in redis.scan_iter(f"{prefix}{kind}:*"):
            records[key] = await redis.hgetall(key)
    async for key in redis.scan_iter(f"{prefix}job:*"):
        records[key] = await redis.get(key)
    return records


async def test_what_is_found_is_repaired(store: TimedStore, redis: Any) -> None:
    """The records are as before; the bytes that wait to be read are counted from the first one."""
    await build(store)
    before = await stored(store, redis)
    session, node = store.keys.session("s1"), store.keys.node("n2")
    wrong = {"tp": "x", "playbacks_started": 7, "out_no": 9, "out_bytes": 1, "out_low": 99_999}
    await redis.hset(session, mapping=wrong | {"w:es": 2})
    await redis.hset(node, mapping={"version": "v9", "drained_by": "nobody"})
    await redis.hset(store.keys.node("n1"), "drained_by", "nobody")
    for key, record in before.items():
        if isinstance(record, bytes):
            (*_, changed) = [other for _, other in changed_records(record.decode().split("|", 9))]
            parts = changed.split("|", 9)
            parts[2:4], parts[8] = ["n7", "70"], "n7/1/1/result,"
            await redis.set(key, "|".join(parts))
    done = await repairer_of(store).apply("a change by hand", "test")
    assert done.left == [], [(change.where, change.what) for change in done.applied]
    after = await stored(store, redis)
    before[session.encode()][b"out_low"] = after[session.encode()][b"out_low"]
    assert after == before
