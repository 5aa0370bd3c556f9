"""Lists of sessions, jobs, nodes and groups: their order, their pages, the bound of a page."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsched.history import index_lists
from eventsched.history.list_position import ListPosition
from eventsched.schema import codec
from eventsched.schema.events import Event, NodeRetired
from eventsched.schema.ids import ms_of
from eventsched.schema.keys import name_of
from eventsched.store.operator_commands import Act
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.test_events import speak
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import SECOND, serving, until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
TENANTS = ("acme", "other", "acme", "other", "acme")


async def read_list(
    system: GatewaySystem, path: str, tenant: str = "*", **query: Any
) -> list[dict[str, Any]]:
    """All items of a list."""
    token, items, after = system.token("viewer", tenant, texts=False), [], ""
    while True:
        page = await system.json(path, token, after=after, **query)
        assert page.keys() == {"items", "next"}
        items += page["items"]
        after = page["next"]
        if not after:
            return items


async def until_folded(system: GatewaySystem, cell: str) -> None:
    """Wait until the read models have all events."""
    store = system.es.stores[cell]

    async def is_folded() -> bool:
        key = store.keys.checkpoint("core")
        checkpoint = await store.transport.command("GET", key, key=key)
        return checkpoint is not None and checkpoint.decode() == await store.last_id(store.keys.log)

    await until("the read models have all events", is_folded)


@asynccontextmanager
async def spoken(server: Server, cell: str) -> AsyncIterator[tuple[GatewaySystem, list[str]]]:
    """A system in which five sessions have spoken to a node, one after the other."""
    async with gateway_system(server.url, cell) as system, serving(system.es, echo()):
        sessions = [await speak(system, tenant) for tenant in TENANTS]
        await until_folded(system, cell)
        yield system, sessions


async def test_sessions_are_listed_by_their_newest_event(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_lists, "STEP", 2)
    async with spoken(server, cell) as (system, sessions):
        for count in (1, 2, 500):
            listed = await read_list(system, "/v1/sessions", count=count)
            assert [item["id"] for item in listed] == sessions[::-1]
            assert [item["tenant"] for item in listed] == list(TENANTS[::-1])
            times = [item["time_ms"] for item in listed]
            assert times == sorted(times, reverse=True)
        own = await read_list(system, "/v1/sessions", "acme", count=1)
        assert [item["id"] for item in own] == [sessions[4], sessions[2], sessions[0]]
        assert own == await read_list(system, "/v1/sessions", tenant="acme")
        assert own[0]["record"]["targets"] == ["es"]
        with_status = await read_list(system, "/v1/sessions", status="closed")
        assert {item["id"] for item in with_status} == set(sessions)
        assert await read_list(system, "/v1/sessions", status="open") == []
        await retire(system, cell, sessions[0])
        past = (await read_list(system, "/v1/sessions"))[-1]
        assert (past["id"], past["tenant"], "record" in past) == (sessions[0], "acme", False)


async def retire(system: GatewaySystem, cell: str, session: str) -> None:
    """Delete the records of a session, as its retirement does."""
    store = system.es.stores[cell]
    revision_key = store.keys.active_revision("session")
    revision = (await store.transport.command("GET", revision_key, key=revision_key)).decode()
    for key in (
        store.keys.session(name_of(session)),
        store.keys.view("session", revision, name_of(session)),
    ):
        await store.transport.command("DEL", key, key=key)


async def test_sessions_with_one_time_are_each_listed_once(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_lists, "STEP", 2)
    async with gateway_system(server.url, cell, roles=()) as system:
        store = system.es.stores[cell]
        key = store.keys.session_index_ends
        names = [f"s{number}" for number in range(7)]
        for name in names:
            await store.transport.command("ZADD", key, 5_000, name, key=key)
        for count in (1, 3):
            listed = await read_list(system, "/v1/sessions", count=count)
            assert [item["id"] for item in listed] == [f"{cell}.{name}" for name in names[::-1]]


async def test_a_page_looks_at_a_bounded_number_of_members(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_lists, "LOOKED_AT_MAX", 2)
    async with spoken(server, cell) as (system, sessions):
        page = await system.json("/v1/sessions", system.token("viewer", "nobody"))
        assert page["items"] == []
        assert page["next"]
        own = await read_list(system, "/v1/sessions", "acme")
        assert [item["id"] for item in own] == [sessions[4], sessions[2], sessions[0]]


async def test_the_position_of_a_page_names_members_of_its_tenant_alone(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every bound of a page, with members of one score, and of no own member at all."""
    tenants = ["acme", *["other"] * 3, "acme", "acme", *["other"] * 4]
    async with gateway_system(server.url, cell, roles=()) as system:
        store = system.es.stores[cell]
        ids: list[str] = []
        for tenant in tenants:
            async with system.es.session(tenant, "en", ["es"]) as session:
                session.detach()
            ids.append(session.id)
        key = store.keys.session_index_ends
        for scores in (range(10), [7] * 10, [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]):
            members = [
                part for pair in zip(scores, map(name_of, ids), strict=True) for part in pair
            ]
            await store.transport.command("ZADD", key, *members, key=key)
            for scanned, step in ((1, 2), (2, 3), (3, 500), (4, 2)):
                monkeypatch.setattr(index_lists, "LOOKED_AT_MAX", scanned)
                monkeypatch.setattr(index_lists, "STEP", step)
                for tenant in ("acme", "other", "nobody"):
                    listed, positions = await pages(system, "/v1/sessions", tenant)
                    own = {name for name, each in zip(ids, tenants, strict=True) if each == tenant}
                    assert sorted(listed) == sorted(own)
                    foreign = {name_of(each) for each in set(ids) - own}
                    assert all(
                        ListPosition.parse(each, "sessions").member not in foreign
                        for each in positions[1:]
                    )


async def test_a_forged_position_is_refused_or_begins_the_list_elsewhere(
    server: Server, cell: str
) -> None:
    """It names its list, and never shows what the tenant does not list."""
    async with spoken(server, cell) as (system, sessions):
        token = system.token("viewer", "acme")
        page = await system.json("/v1/sessions", token, count=1)
        real = ListPosition.parse(page["next"], "sessions")
        assert real.member == name_of(sessions[4])
        forged = [
            "1/x", "1!1/x", "x", "=", "\u00e9", "A" * 2_000, page["next"] + "=",
            page["next"][:-1], urlsafe_b64encode(b"sessions nan 0 x").decode(),
            urlsafe_b64encode(b"sessions 1e999 0 x").decode().rstrip("="),
            urlsafe_b64encode(b"sessions 01.0 0 x").decode().rstrip("="),
            real._replace(member="a b").text(), real._replace(further=10**9).text(),
            real._replace(of="jobs").text(),
        ]  # fmt: skip
        for after in forged:
            reply = await system.get("/v1/sessions", token, after=after)
            assert reply.status_code == 400, after
            assert reply.json()["error"]["field"] == "after"
        for path in ("/v1/jobs", "/v1/nodes", "/v1/groups"):
            reply = await system.get(path, system.token("viewer"), after=page["next"])
            assert reply.status_code == 400, path
        own = {sessions[4], sessions[2], sessions[0]}
        foreign = name_of(sessions[3])
        for change in (
            {"score": 0.0}, {"score": 9e15}, {"score": -1.0}, {"member": foreign}, {"member": ""},
            {"further": 999_999_999},
        ):  # fmt: skip
            listed = await system.json("/v1/sessions", token, after=real._replace(**change).text())
            assert {item["id"] for item in listed["items"]} <= own


async def pages(system: GatewaySystem, path: str, tenant: str) -> tuple[list[str], list[str]]:
    """The ids of a list, and the positions of its pages."""
    token, listed, positions = system.token("viewer", tenant), [], [""]
    while True:
        page = await system.json(path, token, after=positions[-1])
        listed += [item["id"] for item in page["items"]]
        if not page["next"]:
            return listed, positions
        assert page["next"] not in positions
        positions.append(page["next"])


async def test_jobs_of_a_session_and_groups_are_listed(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        system.es.session("acme", "en", ["es", "fr"]) as session,
    ):
        for _ in range(3):
            await session.append(SECOND, end_of_utterance=True)

        async def is_spoken() -> bool:
            groups = await read_list(system, "/v1/groups", "acme")
            return [item["record"]["next_index"] for item in groups] == [3, 3]

        await until("all results are in groups", is_spoken)
        jobs: list[dict[str, Any]] = []
        expected = [(number, target) for number in range(3) for target in ("es", "fr")]
        for count in (1, 2, 500):
            jobs = await read_list(system, "/v1/jobs", "acme", session=session.id, count=count)
            records = [item["record"] for item in jobs]
            assert [(each.get("utterance"), each["target"]) for each in records] == expected
            assert {each["outcome"] for each in records} == {"result"}
        detail = await system.json(f"/v1/jobs/{jobs[0]['id']}", system.token("viewer", "acme"))
        assert detail["view"]["session"] == session.id
        groups = await read_list(system, "/v1/groups", "acme")
        assert {item["id"].split("/")[1] for item in groups} == {"es", "fr"}
        for item in groups:
            assert item["record"]["parts"] > 0
            assert "text" not in str(item)
        missing = await system.get("/v1/jobs", system.token("viewer"), session=f"{cell}.none")
        assert missing.status_code == 404


async def test_waiting_jobs_are_listed_by_their_tags(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        waiting = []
        for tenant in ("acme", "other", "acme"):
            async with system.es.session(tenant, "en", ["es"]) as session:
                await session.append(SECOND, end_of_utterance=True)
                session.detach()
            waiting.append(session.id)

        async def all_wait() -> bool:
            return len(await read_list(system, "/v1/jobs")) == len(waiting)

        await until("the jobs wait", all_wait)
        await until_folded(system, cell)
        listed = await read_list(system, "/v1/jobs", count=1)
        assert {item["id"].split(":")[1] for item in listed} == set(waiting)
        assert {item["record"]["status"] for item in listed} == {"queued"}
        own = await read_list(system, "/v1/jobs", "acme")
        assert {item["id"].split(":")[1] for item in own} == {waiting[0], waiting[2]}


async def test_nodes_are_listed_with_those_that_are_gone(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        for name in ("n1", "n2"):
            async with serving(system.es, echo(f"{cell}.{name}")):
                pass
        async with serving(system.es, echo(f"{cell}.n3")):
            await until_folded(system, cell)
            listed = await read_list(system, "/v1/nodes", count=1)
            assert [item["id"] for item in listed] == [
                f"{cell}.{name}" for name in ("n1", "n2", "n3")
            ]
            assert listed[2]["record"]["status"] == "alive"
            assert listed[2]["record"]["slots"] == 4
            for name in ("n1", "n2"):
                await drain_node(system, f"{cell}.{name}")
            await until_folded(system, cell)
            gone = await read_list(system, "/v1/nodes", count=1, status="gone")
            assert [item["id"] for item in gone] == [f"{cell}.n1", f"{cell}.n2"]
            assert {item["record"]["reason"] for item in gone} == {"drained"}
            id_ = await retire_node(system, cell, "n1")
            await until_folded(system, cell)
            retired, drained = await read_list(system, "/v1/nodes", count=1, status="gone")
            record = {"status": "gone", "reason": "retired", "gone_ms": ms_of(id_)}
            assert (retired["id"], retired["record"]) == (f"{cell}.n1", record)
            assert drained["record"]["reason"] == "drained"
            (alive,) = await read_list(system, "/v1/nodes", status="alive")
            assert alive["id"] == f"{cell}.n3"


async def drain_node(system: GatewaySystem, node: str) -> None:
    """End the registration of a node that runs no job."""
    act = Act.of("ann", "a new driver")
    await system.es.store_of(node).request_drain(node, act, within_ms=0)


async def retire_node(system: GatewaySystem, cell: str, name: str) -> str:
    """Append that the record of a node was deleted; return the id."""
    store = system.es.stores[cell]
    event = Event(id="*", type="NodeRetired", node=f"{cell}.{name}", data=NodeRetired(epoch=1))
    fields = codec.flat(codec.encode(event))
    id_ = await store.transport.command("XADD", store.keys.log, "*", *fields, key=store.keys.log)
    return str(id_.decode())
