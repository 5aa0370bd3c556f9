"""Verify names what is removed from a cell, or has another form or type, and goes on.

Owns: what of it verify does not find, each with its reason. docs/threat-model.md has the same.
Read next: test_every_field.py (each field with another value of its form).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from eventsched.errors import UnexpectedReply
from tests.fixtures_store import TimedStore
from tests.job_record import ORDER
from tests.verify.test_every_field import build
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import verified

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
SECRETS = {
    "session secret_sha1": "the reply that verify reads has no secret",
    "session tokens": "the same",
    "node token": "the same",
}
REMOVED = SECRETS | {
    "session archived": "absent until the archive has audio of the session",
    "session confirmed": "absent until the listener confirms an entry",
    "session missing": "absent until the wait for the last results ends",
    "session out_counted": "absent until results are counted for the tenant",
    "session resumes_until": "absent until the session is resumed",
    "session retire_at": "absent until the session closes",
    "node failures": "absent until an attempt fails fast",
    "node unreadable": "absent until a result cannot be read",
    "job finalized": "nothing needs it",
}
"""Fields whose removal is not found."""
OTHER_TYPE = {
    "counters": "counts that no event has",
    "settings": "no event has them",
    "tenant_finish_tag": "tags of tenants that no event has",
    "tenant_outbox": "bytes that no event has",
    "inbox": "its entries are not compared",
    "node_index": "an index",
    "node_index_starts": "an index",
    "session_index": "an index",
    "session_index_ends": "an index",
    "operator_requests": "requests of operators, which no event has",
}
"""Kinds of keys that verify does not read."""


async def found(store: TimedStore) -> str:
    """What verify says: its violations, or the error that ends it."""
    try:
        report = await verified(store)
    except UnexpectedReply as error:
        return str(error)
    return "\n".join(f"{each.where} {each.what}" for each in report.violations)


async def keys_of(store: TimedStore, redis: Any, *kinds: str) -> list[str]:
    """The keys of these kinds, or all, after the prefix of the cell."""
    prefix = store.keys.prefix
    names = [key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*")]
    return sorted(name for name in names if not kinds or name.partition(":")[0] in kinds)


async def broken_fields(
    store: TimedStore, redis: Any, values: tuple[bytes | None, ...]
) -> AsyncIterator[tuple[str, str, bytes | None]]:
    """(key, field, value) of each field of the first hash that has it, while it has the value.

    None removes the field.
    """
    seen = set[str]()
    for name in await keys_of(store, redis, "session", "node", "class", "outcomes"):
        kind, key = name.partition(":")[0], store.keys.prefix + name
        for raw, before in sorted((await redis.hgetall(key)).items()):
            field = raw.decode()
            if f"{kind} {field}" in seen:
                continue
            seen.add(f"{kind} {field}")
            for value in values:
                await (redis.hdel(key, raw) if value is None else redis.hset(key, raw, value))
                yield name, field, value
            await redis.hset(key, raw, before)


async def test_a_field_that_is_removed_is_named(store: TimedStore, redis: Any) -> None:
    await build(store)
    missed = set[str]()
    async for name, field, _ in broken_fields(store, redis, (None,)):
        text = await found(store)
        if not text:
            missed.add(f"{name.partition(':')[0]} {field}")
        else:
            assert name.partition(":")[2] in text, (name, field, text)
            assert field in text or field == "status", (name, field, text)
    jobs = [name for name in REMOVED if name.startswith("job ")]
    assert missed == REMOVED.keys() - set(jobs)
    assert await found(store) == ""


async def test_a_field_of_another_form_is_named_and_ends_nothing(
    store: TimedStore, redis: Any
) -> None:
    """Neither does a number end it that is larger than the server can count to."""
    await build(store)
    missed = set[str]()
    async for name, field, value in broken_fields(store, redis, (b"?\xff", b"9" * 400)):
        text = await found(store)
        if not text:
            missed.add(f"{name.partition(':')[0]} {field}")
        else:
            assert name.partition(":")[2] in text, (name, field, value, text)
            assert field in text or field == "status", (name, field, value, text)
    assert missed == SECRETS.keys()
    assert await found(store) == ""


def broken_jobs(record: str) -> Iterator[tuple[str, str]]:
    """(field, record) of a job with each part and each field of its core removed."""
    *parts, core = record.split("|", len(ORDER) - 1)
    for at, name in enumerate(ORDER[:-1]):
        if parts[at]:
            yield name, "|".join([*parts[:at], "", *parts[at + 1 :], core])
    fields = msgspec.json.decode(core)
    for name in fields:
        left = {field: value for field, value in fields.items() if field != name}
        yield name, "|".join([*parts, msgspec.json.encode(left).decode()])


async def test_a_part_that_is_removed_from_a_job_is_named(store: TimedStore, redis: Any) -> None:
    await build(store)
    missed, statuses = set[str](), set[str]()
    for name in await keys_of(store, redis, "job"):
        key = store.keys.prefix + name
        record = (await redis.get(key)).decode()
        if (status := record.partition("|")[0]) in statuses:
            continue
        statuses.add(status)
        for field, other in broken_jobs(record):
            await redis.set(key, other)
            text = await found(store)
            if not text:
                missed.add(f"job {field}")
            else:
                assert name in text, (name, field, text)
        await redis.set(key, record)
    assert len(statuses) == 4
    assert missed == {name for name in REMOVED if name.startswith("job ")}


async def test_a_key_of_another_type_is_named(store: TimedStore, redis: Any) -> None:
    """One key of each kind: verify names it, or does not read it."""
    await build(store)
    missed, seen = set[str](), set[str]()
    for name in await keys_of(store, redis):
        kind, key = name.partition(":")[0], store.keys.prefix + name
        if kind in seen:
            continue
        seen.add(kind)
        before = await redis.dump(key)
        is_string = await redis.type(key) == b"string"
        await redis.delete(key)
        await (redis.rpush(key, "x") if is_string else redis.set(key, "x"))
        text = await found(store)
        if text:
            where = re.sub(r"^(view:\w+):[0-9.]+:", r"\1:", name)  # the active revision
            assert where in text, text
        else:
            missed.add(kind)
        await redis.restore(key, 0, before, replace=True)
    assert missed == OTHER_TYPE.keys()
    assert await found(store) == ""


async def test_classes_and_pairs_are_compared_and_repaired(store: TimedStore, redis: Any) -> None:
    await build(store)
    (name,) = await keys_of(store, redis, "class")
    class_id = name.partition(":")[2]
    prefix = store.keys.prefix
    before = {
        key: await redis.dump(prefix + key)
        for key in await keys_of(store, redis, "class", "classes", "members", "free", "pair")
    }
    await redis.hset(prefix + name, mapping={"features": "", "draining": "7", "more": "1"})
    await redis.srem(f"{prefix}classes", class_id)
    await redis.sadd(f"{prefix}classes", "gone")
    await redis.hset(f"{prefix}class:gone", "sources", "en")
    await redis.sadd(f"{prefix}members:{class_id}", "n7")
    await redis.zadd(f"{prefix}free:{class_id}", {"n7": 0})
    await redis.srem(f"{prefix}pair:en:es", class_id)
    await redis.sadd(f"{prefix}pair:en:de", "gone")
    text = await found(store)
    for place in (name, "classes", f"members:{class_id}", "class:gone", "pair:en:es", "pair:en:de"):
        assert f"{place} " in text, text
    done = await repairer_of(store).apply("a change by hand", "test")
    assert done.left == [], done.left
    for key, value in before.items():
        assert await redis.dump(prefix + key) == value, key
    assert await keys_of(store, redis, "class", "pair") == [name, "pair:en:es"]


async def test_fields_of_another_form_are_repaired(store: TimedStore, redis: Any) -> None:
    await build(store)
    session, node = store.keys.session("s1"), store.keys.node("n1")
    before = await redis.hgetall(session), await redis.hgetall(node)
    wrong = ("buffer", "confirmed", "archived", "out_counted", "resumes_until")
    await redis.hset(session, mapping=dict.fromkeys(wrong, "?"))
    await redis.hdel(session, "features", "room", "key")
    await redis.hset(node, mapping=dict.fromkeys(("inbox_from", "failures", "unreadable"), "?"))
    await redis.hdel(node, "suspended", "load", "drained_by")
    done = await repairer_of(store).apply("a change by hand", "test")
    assert done.left == [], done.left
    after = await redis.hgetall(session), await redis.hgetall(node)
    lost = {b"confirmed", b"archived", b"out_counted", b"resumes_until", b"failures", b"unreadable"}
    for old, new in zip(before, after, strict=True):
        left = {field: value for field, value in old.items() if field not in lost}
        assert {field: new.get(field) for field in left} == left
