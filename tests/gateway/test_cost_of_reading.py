"""A tenant that reads history costs the server little, whatever other tenants do."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from eventsched.client.client import Client
from eventsched.gateway import read_limit, reading_cache
from eventsched.history import node_status, session_tenants
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.tokens.claims import Claims
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.test_events import stream_of
from tests.gateway.test_operations import post
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving, until

SESSIONS = 300
VIEWERS = 10
ROUND_TRIPS_MAX = 60
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


async def open_sessions(es: Client) -> list[str]:
    """Open sessions of another tenant, and one of acme, the last."""
    opened = []
    for tenant in ["other"] * SESSIONS + ["acme"]:
        async with es.session(tenant, "en", ["es"]) as session:
            opened.append(session.id)
    return opened


async def requests_of(store: Store) -> int:
    """How many times the server has read from a connection: its round trips."""
    info = await store.transport.command("INFO", "stats", key=store.keys.log)
    return int(info["total_reads_processed"])


async def read_all(system: GatewaySystem, **query: Any) -> list[dict[str, Any]]:
    token, events, after = system.token("viewer", "acme"), [], ""
    while True:
        page = await system.json("/v1/history", token, after=after, **query)
        events += page["events"]
        after = page["next"]
        if not after:
            return events


async def test_a_page_of_a_tenant_costs_no_round_trip_for_each_other_session(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:
        sessions = await open_sessions(system.es)
        store = system.es.stores[cell]
        before = await requests_of(store)
        events = await read_all(system, type="SessionClosing")
        assert [event["session"] for event in events] == sessions[-1:]
        assert await requests_of(store) - before < ROUND_TRIPS_MAX
        before = await requests_of(store)
        async with stream_of(system, system.token("viewer", "acme"), f"{cell}=0-1") as stream:
            event = await stream.until_type("SessionClosing")
        assert event["session"] == sessions[-1]
        assert await requests_of(store) - before < ROUND_TRIPS_MAX


async def test_viewers_of_the_status_share_a_reading(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=()) as system:
        token, store = system.token("viewer"), system.es.stores[cell]
        before = await requests_of(store)
        await system.json("/v1/status", token)
        cost = await requests_of(store) - before
        for _ in range(VIEWERS):
            await system.json("/v1/status", token)
            await system.json("/v1/consumer-groups", token)
        assert await requests_of(store) - before < cost * VIEWERS / 2


async def test_a_status_names_as_many_nodes_as_asked_for_and_a_drain_at_once(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_cache, "VALID_S", 60.0)
    monkeypatch.setattr(node_status, "VALID_MS_PER_NODE", 60_000)
    async with (
        gateway_system(server.url, cell, roles=()) as system,
        serving(system.es, echo("n1"), echo("n2")),
    ):

        async def shown(**query: Any) -> tuple[int, list[str]]:
            status = await system.json("/v1/status", system.token("viewer"), **query)
            (of_class,) = status["cells"][0]["classes"]
            return of_class["nodes_total"], [node["status"] for node in of_class["nodes"]]

        assert await shown() == (2, ["alive", "alive"])
        assert await shown(nodes=0) == (2, [])
        await post(system, f"/v1/nodes/{cell}.n2/drain", {"why": "test"})
        assert await shown() != (2, ["alive", "alive"])
        reply = await system.get("/v1/status", system.token("viewer"), nodes="-1")
        assert (reply.status_code, reply.json()["error"]["field"]) == (400, "nodes")


async def test_the_tenant_of_retired_sessions_is_in_their_index(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_system(server.url, cell) as system:
        sessions = await open_sessions(system.es)
        store = system.es.stores[cell]

        async def is_folded() -> bool:
            checkpoint = store.keys.checkpoint("core")
            folded = await store.transport.command("GET", checkpoint, key=checkpoint)
            return folded is not None and folded.decode() == await store.last_id(store.keys.log)

        await until("the index is written", is_folded)
    async with gateway_system(server.url, cell, roles=()) as system:
        store = system.es.stores[cell]
        for session in sessions:
            key = store.keys.session(name_of(session))
            await store.transport.command("DEL", key, key=key)
        before = await requests_of(store)
        assert {event["session"] for event in await read_all(system)} == {sessions[-1]}
        assert await requests_of(store) - before < ROUND_TRIPS_MAX
    monkeypatch.setattr(session_tenants, "REMEMBERED_MAX", 10)
    async with gateway_system(server.url, cell, roles=()) as system:
        assert {event["session"] for event in await read_all(system)} == {sessions[-1]}


def claims_of(tenant: str) -> Claims:
    return Claims(
        iss="", aud="", sub="test", iat=0, nbf=0, exp=0, jti="", role="viewer", tenant=tenant
    )


async def test_reads_of_one_tenant_wait_for_each_other_and_not_for_others(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_limit, "QUEUE_MAX", 1)
    async with gateway_system(server.url, cell, roles=()) as system:
        replies: list[httpx.Response] = []

        async def read(tenant: str) -> None:
            replies.append(await system.get("/v1/history", system.token("viewer", tenant)))

        reads = system.gateway.reads
        async with (
            anyio.create_task_group() as tasks,
            reads.turn(claims_of("acme")),
            reads.turn(claims_of("acme")),
        ):
            tasks.start_soon(read, "acme")
            await until("a request waits", partial(is_full, system))
            await read("acme")
            refused = replies.pop()
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "TOO_MANY_READS"
            await read("other")
            assert replies.pop().status_code == 200
            assert not replies
        assert [reply.status_code for reply in replies] == [200]
        assert reads.turns.count("acme") == reads.turns.count("other") == 0


def is_full(system: GatewaySystem) -> bool:
    return system.gateway.reads.turns.count("acme") == read_limit.READS_MAX + 1
