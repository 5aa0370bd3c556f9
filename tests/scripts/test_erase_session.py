"""erase_session: the log records, once, that the key of an encrypted session is destroyed."""

from __future__ import annotations

import asyncio

import pytest

from eventsched.errors import InvalidMessage
from eventsched.store.client import Client
from eventsched.store.session_commands import SessionGrant
from tests.fixtures_store import TimedStore
from tests.scripts.calls import code_of, contents, events

KEY = "0123456789abcdef"
HOUR_MS = 3_600_000


async def closed(store: TimedStore, name: str = "s1", key: str = KEY) -> SessionGrant:
    session = await store.open(name, key=key)
    await store.close_session(session.session, session.epoch)
    return session


async def retired(store: TimedStore) -> SessionGrant:
    session = await closed(store)
    store.tick(2 * HOUR_MS)
    await store.timers()
    return session


async def test_the_key_is_in_the_opening_event_and_in_every_assignment(store: TimedStore) -> None:
    node = await store.join()
    session, plain = await store.open(key=KEY), await store.open("plain")
    assert [event.data.key for event in await events(store, "SessionOpened")] == [KEY, ""]
    await store.say(session, 0, end_of_utterance=True)
    await store.say(plain, 0, end_of_utterance=True)
    await store.dispatch()
    first, second = await store.inbox(node)
    assert first["key"] == KEY
    assert "key" not in second


async def test_a_closed_session_is_erased_by_an_event(store: TimedStore) -> None:
    session = await closed(store)
    assert await store.erase_session(session.session, KEY) == "ok"
    (event,) = await events(store, "SessionErased")
    assert (event.session, event.data.key) == (session.session, KEY)


async def test_a_retired_session_is_erased_as_well(store: TimedStore) -> None:
    session = await retired(store)
    assert await store.erase_session(session.session, KEY) == "ok"
    assert (await store.types())[-2:] == ["SessionRetired", "SessionErased"]


async def test_a_repeated_call_appends_nothing(store: TimedStore, redis: Client) -> None:
    session = await closed(store)
    replies = [store.erase_session(session.session, KEY) for _ in range(10)]
    assert sorted(await asyncio.gather(*replies)) == [*["duplicate"] * 9, "ok"]
    before = await contents(redis, store)
    store.tick(2 * HOUR_MS)
    assert await store.erase_session(session.session, KEY) == "duplicate"
    assert await contents(redis, store) == before
    assert len(await events(store, "SessionErased")) == 1


async def test_what_is_not_over_is_refused(store: TimedStore, redis: Client) -> None:
    session = await store.open(key=KEY)
    await store.say(session, 0)
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage, match="closed first, it is open"):
        await store.erase_session(session.session, KEY)
    assert await contents(redis, store) == before
    await store.close_session(session.session, session.epoch)
    with pytest.raises(InvalidMessage, match="closed first, it is closing"):
        await store.erase_session(session.session, KEY)


@pytest.mark.parametrize("key", ["", "fedcba9876543210"], ids=["not encrypted", "another key"])
async def test_only_the_key_that_it_was_opened_with_counts(
    store: TimedStore, redis: Client, key: str
) -> None:
    session = await closed(store, key=key)
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage) as refused:
        await store.erase_session(session.session, KEY)
    assert refused.value.fields["field"] == "key"
    assert await contents(redis, store) == before


@pytest.mark.parametrize(
    ("name", "key", "field"),
    [("", KEY, "session"), ("a b", KEY, "session"), ("a:b", KEY, "session"),
     ("x" * 65, KEY, "session"), ("s1", "", "key"), ("s1", KEY[1:], "key"), ("s1", "none", "key")],
)  # fmt: skip
async def test_what_is_malformed_changes_nothing(
    store: TimedStore, redis: Client, name: str, key: str, field: str
) -> None:
    await closed(store)
    before = await contents(redis, store)
    refusal = await code_of(store, "erase_session", name, key)
    assert refusal.startswith(f"INVALID_MESSAGE {field}:")
    assert await contents(redis, store) == before


async def test_what_is_remembered_is_bounded(store: TimedStore, redis: Client) -> None:
    many = {f"x{number}": number for number in range(10_000)}
    await redis.zadd(store.keys.erased, many)
    session = await closed(store)
    await store.erase_session(session.session, KEY)
    assert await redis.zcard(store.keys.erased) == 10_000
    assert await redis.zscore(store.keys.erased, "s1") == store.at_ms
    assert await redis.zscore(store.keys.erased, "x0") is None
