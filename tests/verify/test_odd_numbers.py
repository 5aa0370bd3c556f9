"""Numbers that another program has stored hold no script: they are damage, or as if absent."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from eventsched.errors import Refused, StateDamaged, UnexpectedReply
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned
from tests.verify.test_verify import project, verified

ODD = ["9007199254740993", "1e999", "-1e999", "nan", "1e15.5", "-1", "1.5", "", "x", "1" * 400]
"""2^53 + 1 is 2^53 for Lua, so that a loop up to it does not end."""
WITHIN_S = 5


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["epoch", "slots"])
async def test_an_odd_number_of_a_node_holds_no_timer(
    redis: Client, store: TimedStore, field: str, odd: str
) -> None:
    await store.join()
    store.tick(20_000)
    await store.timers()
    await redis.hset(store.keys.node("n1"), field, odd)
    store.tick(90_000_000)
    with anyio.fail_after(WITHIN_S):
        await store.fire_timers()
        with pytest.raises(StateDamaged, match=f"node:n1.*{field}"):
            await store.join(token="again")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_epoch_of_retired_nodes_refuses_a_new_node(
    redis: Client, store: TimedStore, odd: str
) -> None:
    """Before its first write; no epoch is given twice."""
    await redis.hset(store.keys.counters, "retired_epoch", odd)
    with anyio.fail_after(WITHIN_S), pytest.raises(StateDamaged, match="retired_epoch"):
        await store.join()
    assert not await redis.exists(store.keys.timers)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["epoch", "utterance", "turn", "priority", "retired_to"])
async def test_an_odd_number_of_a_session_holds_no_call(
    redis: Client, store: TimedStore, field: str, odd: str
) -> None:
    node, session = await store.join(), await store.open("s1")
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await redis.hset(store.keys.session("s1"), field, odd)
    with anyio.fail_after(WITHIN_S):
        for call in (
            lambda: store.say(session, 1, end_of_utterance=True),
            lambda: store.answer(node, message),
            lambda: store.close_session(session.session, 1),
        ):
            with suppress(Refused, UnexpectedReply):
                await call()
        store.tick(600_000)
        await store.fire_timers()


@pytest.mark.parametrize("odd", [b"x", b"", b"\xff", b"1e999", b"|||"])
async def test_an_odd_checkpoint_is_named(redis: Client, store: TimedStore, odd: bytes) -> None:
    await project(store)
    key = store.keys.checkpoint("core")
    await redis.set(key, odd)
    with pytest.raises(UnexpectedReply, match=r"checkpoint:core: .* in place of a log id"):
        await verified(store)


async def test_text_that_is_no_utf_8_does_not_end_verify(redis: Client, store: TimedStore) -> None:
    await store.open("s1")
    await project(store)
    await redis.set(store.keys.active_revision("group"), b"\xff")
    await redis.hset(store.keys.tenant_queued, b"a:\xff", 1)
    report = await verified(store)
    assert [each.where for each in report.violations] == ["active_revision:group"]
