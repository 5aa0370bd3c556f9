"""What an entry concerns that cannot be folded is not compared, and no repair writes it."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.audit.verify import Verifier
from eventsched.history.log import History
from eventsched.projection.fold import Folding
from eventsched.schema.codec import encode
from eventsched.schema.events import Event, SessionClosed
from tests.fixtures_store import TimedStore
from tests.job_record import falsify
from tests.scripts.calls import contents
from tests.verify import test_verify
from tests.verify.test_repair import BY, WHY, planned, repairer_of
from tests.verify.test_verify import CORE, BusyCell, project, verified, views_of

busy = test_verify.busy


async def append_unknown(store: TimedStore, redis: Any, **names: Any) -> str:
    """An event that no decoder reads, with these names in its envelope."""
    fields = encode(Event(id="", type="MoonRisen", data=SessionClosed(), **names))
    entry_id: bytes = await redis.xadd(store.keys.log, fields, id=f"{store.at_ms}-*")
    return entry_id.decode()


async def test_a_session_whose_events_are_not_all_folded_is_not_compared(
    busy: BusyCell, redis: Any
) -> None:
    """Its record lacks an event, so the stored state is newer. Other sessions are compared."""
    store, other = busy.store, await busy.store.open("other")
    entry_id = await append_unknown(store, redis, session=busy.session.session)
    await project(store)
    await redis.hset(store.keys.session("s1"), "epoch", 77)
    await redis.delete(store.keys.job(busy.key(1)))
    plan = await planned(store)
    assert plan.report.violations == []
    assert plan.report.not_compared == [f"session s1: log/{entry_id} could not be folded"]
    assert plan.report.not_compared_total == 1
    assert plan.changes == []
    await redis.hset(store.keys.session("other"), "epoch", 77)
    plan = await planned(store)
    assert {each.where for each in plan.report.violations} == {"session:other"}
    assert {change.session for change in plan.changes} == {other.session}


async def test_a_job_and_a_node_in_such_an_event_are_not_compared(
    busy: BusyCell, redis: Any
) -> None:
    node, key = busy.node.node, busy.key(1)
    entry_id = await append_unknown(busy.store, redis, job=key, node=node)
    await project(busy.store)
    await falsify(redis, busy.store, key, "epoch", 9)
    await redis.hset(busy.store.keys.node("n1"), "slots", 200)
    plan = await planned(busy.store)
    assert plan.report.violations == []
    assert plan.report.not_compared == [
        f"job {key}: log/{entry_id} could not be folded",
        f"node n1: log/{entry_id} could not be folded",
    ]
    assert plan.changes == []
    await redis.hset(busy.store.keys.session("s1"), "epoch", 77)
    assert {each.where for each in (await verified(busy.store)).violations} == {"session:s1"}


async def test_a_repair_writes_nothing_from_records_that_became_too_large(
    busy: BusyCell, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored state is right; the fold lacks the events that the record could not take."""
    monkeypatch.setattr("eventsched.projection.fold.RECORD_BYTES_MAX", 300)
    monkeypatch.setattr("eventsched.projection.fold.MEASURED_MIN", 0)
    before = await contents(redis, busy.store)
    done = await repairer_of(busy.store).apply(WHY, BY)
    assert (done.applied, done.left) == ([], [])
    assert "session s1" in [line.partition(":")[0] for line in done.not_compared]
    assert await contents(redis, busy.store) == before


async def test_a_session_that_is_retired_lacks_nothing_more(busy: BusyCell, redis: Any) -> None:
    store, session = busy.store, busy.session
    await append_unknown(store, redis, session=session.session)
    await store.close_session(session.session, session.epoch)
    for _ in range(3):
        store.tick(4_000_000)
        await store.timers()
    await project(store)
    report = await verified(store)
    assert (report.sessions, report.violations, report.not_compared) == (0, [], [])


async def test_what_a_dead_letter_before_a_snapshot_concerns_is_not_compared(
    busy: BusyCell, redis: Any
) -> None:
    """A fold that begins with a snapshot does not meet the entry."""
    store, views = busy.store, views_of(busy.store)
    (event, *_) = await store.log("UtteranceFinalized")
    letter = {"from": "log", "id": event.id, "k": event.type, "reason": "x", "partial": "0"}
    await redis.xadd(store.keys.dead_letters, letter)
    await redis.xadd(store.keys.dead_letters, letter | {"id": "no id"})
    last = await views.last_id(store.keys.log)
    folding = await History(views, None, CORE).folding_at(last)

    class FromSnapshot(History):
        async def nearest_folding(self, entry_id: str) -> tuple[str, Folding]:
            return last, folding

    await redis.hset(store.keys.session("s1"), "epoch", 77)
    report = await Verifier(views, CORE, history=FromSnapshot(views, None, CORE)).run()
    assert report.violations == []
    assert f"session s1: log/{event.id} could not be folded" in report.not_compared
