"""A token of one tenant learns nothing of others from the evidence of its own jobs."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

import eventsched
from eventsched.gateway.event_feed import FeedItem
from eventsched.gateway.tenant_view import SHOWN_FIELDS, SHOWN_RECORD_FIELDS
from eventsched.history.reader import Reader
from eventsched.history.source import HistorySource
from eventsched.projection.fold import decode_event
from eventsched.schema.codec import decode
from eventsched.schema.events import JobDispatched, JobQueued
from projections.job import Job
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.server_kinds import Server
from tests.systems import SECOND, serving, until

OTHER = "victim-corp"
UTTERANCES = 3


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_own_events_and_explanations_name_no_other_tenant(server: Server, cell: str) -> None:
    """Both tenants wait for one slot, so each fill compares a job of the other one."""
    is_open = anyio.Event()
    node = eventsched.Node("n1", sources=["en"], targets=["es", "fr"], slots=1)

    @node.job
    async def work(job: eventsched.Job) -> eventsched.Result:
        await is_open.wait()
        return eventsched.Result(text="hola")

    async with gateway_system(server.url, cell) as system, serving(system.es, node):
        async with (
            system.es.session("acme", "en", ["es"]) as own,
            system.es.session(OTHER, "en", ["fr"]) as other,
        ):
            for _ in range(UTTERANCES):
                await own.append(SECOND, end_of_utterance=True)
                await other.append(SECOND, end_of_utterance=True)
            fields = await fields_of_waiting_jobs(system, own.id, "acme")
            is_open.set()
        names = OTHER, other.id
        whole, limited = await texts_of(system, own.id, "*"), await texts_of(system, own.id, "acme")
    assert any(name in whole for name in names), "the evidence names the other tenant"
    assert not any(name in limited for name in names)
    assert own.id in limited
    assert {"priority", "delivery_no"} <= fields
    assert fields <= SHOWN_RECORD_FIELDS["job"]


async def fields_of_waiting_jobs(system: GatewaySystem, session: str, tenant: str) -> set[str]:
    """The fields of the records that the routes of jobs show, once jobs of the session wait."""
    token, listed = system.token("viewer", tenant), list[dict[str, Any]]()

    async def do_wait() -> bool:
        listed[:] = (await system.json("/v1/jobs", token))["items"]
        return bool(listed) and all("record" in each for each in listed)

    await until("jobs wait", do_wait)
    states = [await system.json(f"/v1/state/job/{each['id']}", token) for each in listed]
    records = [each["view"] for each in states]
    assert all(records)
    return {name for each in listed for name in each["record"]} | {n for r in records for n in r}


async def texts_of(system: GatewaySystem, session: str, tenant: str) -> str:
    """The replies about a session: its events, its explanations, and the stream of events."""
    token = system.token("viewer", tenant)
    replies = [(await system.get("/v1/history", token, session=session)).text]
    events = (await system.json("/v1/history", token, session=session))["events"]
    jobs = sorted({event["job"] for event in events if event["job"]})
    replies += [(await system.get(f"/v1/jobs/{job}/why", token)).text for job in jobs]
    store = next(iter(system.es.stores.values()))
    reader = Reader(HistorySource(system.es))
    for entry in await store.read_range(store.keys.log, "-", "+", 1_000):
        if decode(*entry).session == session:
            item = FeedItem(decode_event(entry), reader)
            replies.append(item.data(texts=True, is_whole=tenant == "*").decode())
    return "\n".join(replies)


def test_the_shown_fields_are_fields_of_the_events() -> None:
    for kind in (JobDispatched, JobQueued):
        assert SHOWN_FIELDS[kind.__name__] <= {field.name for field in msgspec.structs.fields(kind)}
    job = {field.name for field in msgspec.structs.fields(Job)}
    assert job - SHOWN_RECORD_FIELDS["job"] == {"tag", "member", "avoid_until_ms"}
    assert SHOWN_RECORD_FIELDS["job"] <= job
