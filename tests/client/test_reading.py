"""What applications read: states, events, the status, and their own writes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import eventsched
from eventsched.client.client import Client
from eventsched.errors import InvalidMessage, NotFound, UnreadableRecord
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.roles.rebuild import Rebuild
from eventsched.schema.events import Event, ResultRecorded
from projections.session import Sessions
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import finish_one, speak
from tests.server_kinds import Server


async def fold(store: TimedStore) -> None:
    """Fold the log up to now."""
    projector = Projector(ProjectionStore(store.transport, store.cell), load_core())
    while (await projector.step()).state == "folded":
        pass
    await projector.release()


async def session_with_a_result(store: TimedStore) -> str:
    node = await store.join()
    session = await speak(store, "s1")
    await store.dispatch()
    await finish_one(store, node)
    return session.session


async def test_a_state_is_read_now_and_at_an_earlier_position(
    store: TimedStore, client: Client
) -> None:
    session = await session_with_a_result(store)
    await fold(store)
    now = await client.state("session", session)
    assert (now.kind, now.id, now.is_live, now.view.utterance) == ("session", session, True, 1)
    (opened,) = await store.log("SessionOpened")
    then = await client.state("session", session, at=opened.id)
    assert (then.at, then.is_live, then.view.utterance) == (opened.id, False, 0)
    job = await client.state("job", f"{session}:0:es")
    assert job.view.status == "ended"
    with pytest.raises(NotFound, match="no session"):
        await client.state("session", f"{store.cell}.nobody")
    with pytest.raises(InvalidMessage, match="no read model 'sessions'"):
        await client.state("sessions", session)


async def test_events_are_read_with_the_filters_of_the_command(
    store: TimedStore, client: Client
) -> None:
    session = await session_with_a_result(store)
    await store.open("s2")
    types = [event.type async for event in client.history(session) if isinstance(event, Event)]
    assert types == [
        "SessionOpened", "UtteranceFinalized", "JobDispatched", "ResultRecorded",
    ]  # fmt: skip
    opened = [event.session async for event in client.history(types=["SessionOpened"])]
    assert opened == [session, store.keys.full("s2")]
    delivered = [event async for event in client.history(f"{session}:0:es", since="1970-01-01")]
    assert isinstance(delivered[-1], Event)
    assert isinstance(delivered[-1].data, ResultRecorded)
    with pytest.raises(InvalidMessage, match="did you mean SessionOpened"):
        [event async for event in client.history(types=["SessionOpend"])]
    with pytest.raises(NotFound, match="no session"):
        [event async for event in client.history(f"{store.cell}.nobody")]


async def test_records_are_listed_by_pages_in_the_order_of_their_ids(
    store: TimedStore, client: Client
) -> None:
    for name in ("s3", "s1", "s2"):
        await store.open(name)
    assert await client.list("session") == []  # not folded yet
    await fold(store)
    full = store.keys.full
    assert [each.id for each in await client.list("session")] == [
        full("s1"),
        full("s2"),
        full("s3"),
    ]
    (first, second) = await client.list("session", limit=2)
    assert first == await client.state("session", full("s1"))
    (last,) = await client.list("session", after=second.id, limit=2)
    assert last.id == full("s3")
    assert await client.list("session", after=last.id) == []
    assert [each.id for each in await client.list("session", after=full("s11"))] == [
        full("s2"), full("s3"),
    ]  # fmt: skip
    await store.join()
    await store.say(await store.open("s4"), 0, end_of_utterance=True)
    await store.dispatch()
    await fold(store)
    (job,) = await client.list("job")
    assert (job.id, job.view.status) == (f"acme:{full('s4')}:0:translation:es:none", "running")
    assert await client.list("job", after=job.id) == []
    assert [each.id for each in await client.list("node")] == [full("n1")]


async def test_a_list_is_refused_for_what_it_cannot_have(store: TimedStore, client: Client) -> None:
    for limit in (0, 1_001):
        with pytest.raises(InvalidMessage, match="limit: 1 to 1,000 expected"):
            await client.list("session", limit=limit)
    with pytest.raises(InvalidMessage, match="no read model 'sessions'"):
        await client.list("sessions")
    with pytest.raises(InvalidMessage, match="names no cell"):
        await client.list("session", after="moon.s1")
    with pytest.raises(NotFound, match="no job s1"):
        await client.list("job", after="s1")


async def test_records_of_another_form_or_version_are_not_listed(
    store: TimedStore, redis: Any, client: Client
) -> None:
    await store.open("s1")
    await fold(store)
    revision = f"{Sessions.version}.1"
    await redis.hset(store.keys.view("session", revision, "s1"), "v", b"\xc1")
    with pytest.raises(UnreadableRecord, match="raise the version of session, then rebuild"):
        await client.list("session")
    await redis.set(store.keys.active_revision("session"), "1.7")
    with pytest.raises(UnreadableRecord, match="of its version 1, and this program has version"):
        await client.list("session")


async def test_a_record_that_is_dropped_or_replaced_by_a_revision_leaves_the_list(
    store: TimedStore, redis: Any, client: Client
) -> None:
    for name in ("s1", "s2"):
        await store.open(name)
    await fold(store)
    views, keys = ProjectionStore(store.transport, store.cell), store.keys
    assert await Rebuild(views, load_core(), ["session"]).run() is not None
    assert [each.id for each in await client.list("session")] == [keys.full("s1"), keys.full("s2")]
    assert not await redis.exists(keys.view_ids("session", f"{Sessions.version}.1"))
    await store.close_session(keys.full("s1"), 1)
    for _ in range(2):
        store.tick(1_800_001)
        await store.timers()
    await fold(store)
    assert [each.id for each in await client.list("session")] == [keys.full("s2")]


async def test_an_application_reads_its_own_writes(store: TimedStore, client: Client) -> None:
    session = await session_with_a_result(store)
    last = (await store.log())[-1].id
    order: list[str] = []

    async def wait() -> None:
        await client.wait_for("session", last)
        order.append("read")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.move_on_after(0.2):
            await anyio.sleep_forever()
        order.append("fold")
        await fold(store)
    assert order == ["fold", "read"]
    assert (await client.state("session", session)).is_live


@pytest.mark.parametrize(
    ("kind", "log_id", "error"),
    [
        ("sessions", "1-0", "no read model 'sessions'"),
        ("session", "soon", "log_id: 'soon' is no position"),
        ("session", "1764085603123", "log_id: '1764085603123' is no id; give Result.log"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(
    client: Client, kind: str, log_id: str, error: str
) -> None:
    with pytest.raises(InvalidMessage, match=error):
        await client.wait_for(kind, log_id)


async def test_a_client_of_several_cells_names_the_cell(own_server: Server) -> None:
    async with eventsched.connect(own_server.url, cells=2) as es:
        with pytest.raises(InvalidMessage, match="no cell ''; the cells are c0, c1"):
            await es.wait_for("session", "1-0")
        await es.wait_for("session", "0-0", cell="c1")
        status = await es.status()
    assert [cell.cell for cell in status.cells] == ["c0", "c1"]
