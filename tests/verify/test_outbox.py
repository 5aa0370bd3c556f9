"""An outcome that the log says was delivered is in the outbox of its listener, or the repair says
what the listener does not receive.
"""

from __future__ import annotations

from typing import Any

from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned, speak
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import project, verified

WHY, BY = "a lost entry", "test"


async def delivered(store: TimedStore, count: int = 1) -> list[tuple[str, dict[bytes, bytes]]]:
    """A session with so many delivered results; the entries of its outbox."""
    node = await store.join("n1", slots=8)
    session = await speak(store, "s1", count=count)
    await store.dispatch()
    for message in await assigned(store, node):
        store.tick(10)
        await store.answer(node, message, code="C1")
    await project(store)
    assert (await verified(store)).violations == []
    entries = await store.read_range(store.keys.outbox(session.session[-2:]), "-", "+", 10)
    return [(id_, dict(zip(flat[::2], flat[1::2], strict=True))) for id_, flat in entries]


async def found(store: TimedStore) -> list[tuple[str, str]]:
    return [(each.invariant, each.where) for each in (await verified(store)).violations]


async def test_a_lost_outcome_is_found_and_appended_again(store: TimedStore, redis: Any) -> None:
    *_, (entry_id, fields) = await delivered(store, 2)
    key = store.keys.outbox("s1")
    await redis.xdel(key, entry_id)
    (violation,) = (await verified(store)).violations
    assert (violation.invariant, violation.where) == ("I9", "outbox:s1")
    event = (await store.log("ResultRecorded"))[-1]
    assert violation.what == f"the outcome that log/{event.id} delivers is not in the outbox"
    done = await repairer_of(store).apply(WHY, BY)
    assert done.left == []
    (change,) = done.applied
    assert change.gives_up == "synthesised speech of the result"
    (_, first), (_, last) = await redis.xrange(key)
    assert (first[b"i"].partition(b":")[0], last) == (b"1", fields)
    stored = await store.read_hash(store.keys.session("s1"))
    assert f"{stored['out_no']}:{stored['out_bytes']}" == last[b"i"].decode()


async def test_an_outbox_that_is_lost_is_filled_again_in_order(
    store: TimedStore, redis: Any
) -> None:
    entries = await delivered(store, 3)
    await redis.delete(store.keys.outbox("s1"))
    assert await found(store) == [("I9", "outbox:s1")] * 3
    assert (await repairer_of(store).apply(WHY, BY)).left == []
    again = [fields for _, fields in await redis.xrange(store.keys.outbox("s1"))]
    assert [each[b"d"] for each in again] == [fields[b"d"] for _, fields in entries]
    assert [each[b"i"].partition(b":")[0] for each in again] == [b"1", b"2", b"3"]


async def test_an_outcome_that_its_listener_has_confirmed_is_not_needed(
    store: TimedStore, redis: Any
) -> None:
    (entry_id, _), *_ = await delivered(store)
    await store.keep_alive([(store.keys.full("s1"), 1, entry_id)])
    await redis.xdel(store.keys.outbox("s1"), entry_id)
    assert await found(store) == []


async def test_a_lost_outcome_before_a_later_one_is_given_up(store: TimedStore, redis: Any) -> None:
    """The order of the numbers is more than the outcome: the listener has read the later one."""
    _, (second_id, _), (third_id, third) = await delivered(store, 3)
    key = store.keys.outbox("s1")
    await redis.xdel(key, second_id, third_id)
    number = third | {b"i": b"2:" + third[b"i"].partition(b":")[2]}
    await redis.xadd(key, number, id=third_id.replace(third_id.split("-")[1], "7"))
    await redis.hset(store.keys.session("s1"), "out_no", 2)
    assert await found(store) == [("I9", "outbox:s1")]
    done = await repairer_of(store).apply(WHY, BY)
    assert done.left == []
    (change,) = done.applied
    listener = store.keys.full("s1")
    assert change.what == f"accept that es/1 of {listener} is not received"
    assert change.gives_up == f"es/1 of {listener} for the listener of {listener}"
    assert await redis.xlen(key) == 2
    assert (await verified(store)).violations == []


async def test_a_lost_outcome_of_a_closed_session_is_given_up(
    store: TimedStore, redis: Any
) -> None:
    ((entry_id, _),) = await delivered(store)
    await store.close_session(store.keys.full("s1"), 1)
    await project(store)
    assert await found(store) == []
    entries = await redis.xrange(store.keys.outbox("s1"))
    assert entries[0][0].decode() == entry_id
    store.tick(5)
    await redis.delete(store.keys.outbox("s1"))
    done = await repairer_of(store).apply(WHY, BY)
    assert done.left == []
    assert [bool(change.accepts) for change in done.applied] == [True]


async def test_a_lost_outcome_of_a_room_is_appended_for_the_listener_that_lacks_it(
    store: TimedStore, redis: Any
) -> None:
    node = await store.join("n1")
    room = store.keys.full("acme/r1")
    for name in ("s2", "s3"):
        await store.open(name, room=room, listen_language="es")
    await speak(store, "s1", room=room, listen_language="es")
    await store.dispatch()
    (message,) = await assigned(store, node)
    await store.answer(node, message)
    await project(store)
    ((entry_id, fields),) = await redis.xrange(store.keys.outbox("s3"))
    await redis.xdel(store.keys.outbox("s3"), entry_id)
    assert await found(store) == [("I9", "outbox:s3")]
    assert (await repairer_of(store).apply(WHY, BY)).left == []
    ((_, again),) = await redis.xrange(store.keys.outbox("s3"))
    assert again[b"d"] == fields[b"d"]
    assert await redis.xlen(store.keys.outbox("s2")) == 1
