"""A tenant whose log entries the projections have not folded is refused alone (rule 33, limits)."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import Backpressure, InvalidMessage
from eventsched.schema.events import BackpressureEnded, BackpressureStarted
from eventsched.store.client import Client
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents
from tests.scripts.jobs_of import assigned
from tests.scripts.test_playback import mark, opened


async def test_rule_33_a_tenant_with_lag_opens_and_appends_nothing_alone(
    store: TimedStore,
) -> None:
    session, other = await store.open(), await store.open("other", tenant="other")
    await store.say(session, 0)
    await store.set_tenant_lag("acme", 12_345)
    assert await store.read_hash(store.keys.tenant_lag) == {"acme": "12345"}
    for attempt in (store.open("more"), store.say(session, 1, end_of_utterance=True)):
        with pytest.raises(Backpressure) as refused:
            await attempt
        assert refused.value.fields == {
            "retry_after_ms": "1000", "cause": "tenant_lag", "tenant": "acme", "seen": "12345",
            "limit": "10000",
        }  # fmt: skip
    assert (await store.say(session, 0)).status == "duplicate"
    await store.say(other, 0, end_of_utterance=True)
    await store.open("another", tenant="other")
    await store.set_tenant_lag("acme", 0)
    assert await store.read_hash(store.keys.tenant_lag) == {}
    await store.say(session, 1, end_of_utterance=True)
    await store.open("more")


async def test_rule_33_a_tenant_with_lag_finishes_its_work(store: TimedStore) -> None:
    node, session = await store.join(), await store.open()
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    await store.say(session, 1)
    await store.set_tenant_lag("acme", 10_000)
    (message,) = await assigned(store, node)
    await store.answer(node, message)
    assert (await store.resume(session.session, "again")).epoch == 2
    assert await store.keep_alive([(session.session, 2, "")]) == [None]
    assert (await store.finalize_utterance(session.session, 2, 1)).status == "ok"
    await store.dispatch()
    await store.answer(node, (await assigned(store, node))[-1])
    assert await store.close_session(session.session, 2) == "ok"
    await store.timers()
    assert "SessionClosed" in await store.types()


async def test_rule_5_a_tenant_with_lag_starts_no_playback_and_ends_those_that_are_open(
    store: TimedStore, redis: Client
) -> None:
    session = await opened(store, 2)
    await mark(store, session, 0, started=True)
    await store.set_tenant_lag("acme", 10_000)
    before = await contents(redis, store)
    with pytest.raises(Backpressure):
        await mark(store, session, 1, started=True)
    assert await contents(redis, store) == before
    assert await mark(store, session, 0, started=False) == "ok"


async def test_rule_33_the_log_says_which_tenant_is_refused_and_why(store: TimedStore) -> None:
    for word in ("started", "unchanged"):
        change = await store.set_tenant_backpressure(
            "acme", "tenant_queue", is_active=True, seen=12, limit=10
        )
        assert change == word
    lag: dict[str, Any] = {"is_active": True, "seen": 3, "limit": 2}
    assert await store.set_tenant_backpressure("other", "tenant_lag", **lag) == "started"
    ended: dict[str, Any] = {"is_active": False, "seen": 4, "limit": 10}
    assert await store.set_tenant_backpressure("acme", "tenant_queue", **ended) == "ended"
    assert await store.set_tenant_backpressure("acme", "tenant_outbox", **ended) == "unchanged"
    assert [event.data for event in await store.log()] == [
        BackpressureStarted(reason="tenant_queue", tenant="acme", seen=12, limit=10),
        BackpressureStarted(reason="tenant_lag", tenant="other", seen=3, limit=2),
        BackpressureEnded(reason="tenant_queue", tenant="acme", seen=4, limit=10),
    ]
    assert await store.read_hash(store.keys.tenant_refused) == {"other|tenant_lag": "3"}


@pytest.mark.parametrize(
    ("change", "field"),
    [({"tenant": "a b"}, "tenant"), ({"reason": "memory"}, "reason"), ({"seen": -1}, "seen")],
)
async def test_rule_33_a_malformed_report_of_a_refused_tenant_is_refused(
    store: TimedStore, change: dict[str, Any], field: str
) -> None:
    report: dict[str, Any] = {"tenant": "acme", "reason": "tenant_lag", "seen": 1} | change
    with pytest.raises(InvalidMessage) as refused:
        await store.set_tenant_backpressure(
            report["tenant"], report["reason"], is_active=True, seen=report["seen"], limit=1
        )
    assert refused.value.fields["field"] == field
    assert await store.types() == []


@pytest.mark.parametrize(("tenant", "entries"), [("", 1), ("a b", 1), ("acme", -1)])
async def test_rule_33_a_lag_of_no_tenant_or_below_zero_is_refused(
    store: TimedStore, tenant: str, entries: int
) -> None:
    with pytest.raises(InvalidMessage):
        await store.set_tenant_lag(tenant, entries)
    assert await store.read_hash(store.keys.tenant_lag) == {}
