"""A node of the JavaScript client at a real gateway: it keeps its leases when connections break."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsched.client.session import Session
from eventsched.store.operator_commands import Act
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.js.programs import ROOT, Script, relay, script
from tests.server_kinds import Server
from tests.systems import until

SERVE = ROOT / "tests" / "js" / "serve.mjs"
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@asynccontextmanager
async def worker(system: GatewaySystem, url: str = "", **options: Any) -> AsyncIterator[Script]:
    """A node in JavaScript, once it is registered."""
    variables = {"GATEWAY": url or system.url, "TOKEN": system.token("node")}
    async with script(SERVE, **variables, OPTIONS=json.dumps(options)) as serving:
        await serving.expect(state="registered")
        yield serving


async def speak(session: Session, ms: int) -> None:
    await session.append(bytes(range(1, 33)) * ms, end_of_utterance=True)


async def test_each_end_of_a_job_reaches_the_speaker(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        worker(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        outcomes: list[Any] = []
        results = session.results(partials=True)
        for ms in (3_000, 200, 300, 400, 700):
            await speak(session, ms)
            while not outcomes or len(outcomes) <= (3_000, 200, 300, 400, 700).index(ms):
                outcome: Any = await anext(results)
                if outcome.outcome != "partial":
                    outcomes.append(outcome)
        first, sound, failed, silent, too_long = outcomes
        assert (first.text, first.source_text) == ("3000 ms", "u0")
        assert (sound.text, sound.source_text, sound.audio) == ("hola", "hello", b"\1\2\3")
        assert (failed.outcome, failed.code) == ("failed", "OUT_OF_MEMORY")
        assert silent.outcome == "no_speech"
        assert (too_long.outcome, too_long.code) == ("failed", "HANDLER_ERROR")
        job = await node.expect(job=0)
        assert job["bytes"] >= 96_000 and job["context"] == []
        await node.expect(extended=True)
        await node.expect(error="INVALID_MESSAGE")  # the text that is too long


async def test_a_handler_chooses_when_its_job_is_tried_again(server: Server, cell: str) -> None:
    """The setting is a minute, which the test does not wait for."""
    settings = {"retry_backoff_ms": 60_000}
    async with (
        gateway_system(server.url, cell, settings=settings) as system,
        worker(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 800)
        outcome: Any = await anext(session.results())
        assert outcome.text == "again"
        await node.expect(refused="retryInMs")


async def test_the_context_of_a_job_has_the_earlier_texts(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        worker(system, lazyAudio=True) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 100)
        group = f"/v1/groups/{session.id}/es/0"
        viewer = system.token("viewer")

        async def has_group() -> bool:
            reply = await system.get(group, viewer)
            return reply.status_code == 200 and bool(reply.json()["is_live"])

        await until("the result is in the stored group", has_group)
        await speak(session, 100)
        job = await node.expect(job=1)
        assert job["context"] == [{"sourceText": "u0", "text": "100 ms"}]


async def test_attempts_go_on_over_a_broken_connection(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        relay(system.url) as passing,
        worker(system, passing.url) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 600)
        await node.expect(job=0)
        passing.is_away = True
        passing.cut()
        await node.expect(state="away")
        await node.say("go on")  # the result cannot be sent yet
        await speak(session, 100)  # assigned to the node while it is away
        passing.is_away = False
        await node.expect(state="registered")
        await node.expect(job=1)
        results = session.results()
        texts = [getattr(await anext(results), "text", None) for _ in range(2)]
        assert texts == ["late", "100 ms"]
        assert [line["attempt"] for line in node.seen if "job" in line] == [1, 1]
        store = system.es.stores[cell]
        log = await store.read_range(store.keys.log, "-", "+", 1_000)
        assert not any(b"AttemptEnded" in fields for _, fields in log)


async def test_a_node_ends_when_another_process_takes_its_name(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        worker(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 600)
        await node.expect(job=0)
        await system.es.stores[cell].register_node(
            node=f"{cell}.js-1", token="another-process-0", sources=["en"], targets=["es"],
            features=[], slots=1, version="",
        )  # fmt: skip
        await node.expect(aborted="LEASE_LOST")
        await node.expect(failed="NODE_SUPERSEDED")
        assert await node.ended() == 1


async def test_a_node_drains_and_ends(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        worker(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 600)
        await node.expect(job=0)
        await node.say("drain")
        await node.say("go on")
        await node.expect(end="drained")
        assert await node.ended() == 0
        result: Any = await anext(session.results())
        assert result.text == "late"


async def test_a_node_that_an_operator_drains_ends(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, worker(system) as node:
        act = Act.of("operator", "maintenance")
        await system.es.stores[cell].request_drain(f"{cell}.js-1", act, within_ms=1_000)
        await node.expect(end="drained")
        assert await node.ended() == 0


async def test_a_node_that_was_lost_registers_again(server: Server, cell: str) -> None:
    settings = {"node_lost_ms": 2_000, "heartbeat_ms": 500}
    async with (
        gateway_system(server.url, cell, settings=settings) as system,
        relay(system.url) as passing,
        worker(system, passing.url) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await speak(session, 600)
        await node.expect(job=0)
        passing.is_away = True
        passing.cut()
        store = system.es.stores[cell]

        async def is_lost() -> bool:
            return (await store.read_hash(store.keys.node("js-1"))).get("status") == "gone"

        await until("the node is lost", is_lost)
        passing.is_away = False
        await node.expect(aborted="LEASE_LOST")
        await node.expect(state="registered")
        again = await node.expect(job=0)
        assert again["attempt"] == 2


async def test_errors_of_a_registration_have_code_and_field(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        for options, code in (
            ({"name": "a b"}, "INVALID_MESSAGE"),
            ({"targets": ["auto"]}, "INVALID_MESSAGE"),
        ):
            variables = {"GATEWAY": system.url, "TOKEN": system.token("node")}
            async with script(SERVE, **variables, OPTIONS=json.dumps(options)) as node:
                await node.expect(failed=code)
                assert await node.ended() == 1
