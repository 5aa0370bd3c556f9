"""The node socket: jobs out, results in, a registration that goes on at another gateway."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.client.session import Session
from eventsched.projection.fold import decode_event
from eventsched.schema.events import AttemptEnded, Event
from eventsched.store.operator_commands import Act
from tests.gateway.gateways import GatewaySystem, gateway_on, gateway_system
from tests.gateway.sockets import TENTH, held, node_socket
from tests.server_kinds import Server
from tests.systems import until


async def speak(session: Session, tenths: int = 1) -> None:
    await session.append(bytes(range(1, 101)) * 32 * tenths, end_of_utterance=True)


async def test_a_job_with_its_audio_goes_to_the_node_and_its_result_to_the_speaker(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        node_socket(system) as node,
        system.es.session("acme", "en", ["es"], features=[]) as session,
    ):
        session.detach()
        registered = await node.register()
        assert (registered["node"], registered["epoch"]) == (f"{cell}.n1", 1)
        await speak(session, tenths=30)
        job = await node.expect("job")
        assert (job["attempt"], job["source"], job["target"], job["ms"]) == (1, "en", "es", 3_000)
        audio = await node.audio_of(job)
        assert audio[:96_000] == bytes(range(1, 101)) * 32 * 30
        assert set(audio[96_000:]) == {0}  # the padding
        await node.send("partial", **held(job), text="ho")
        await node.send("extend", **held(job), seconds=60)
        extended = await node.expect("extended", **held(job))
        assert extended["deadline_ms"] > job["deadline_ms"]
        await node.send("result", **held(job), text="hola", source_text="hello", audio=True)
        await node.connection.send(b"\x01speech")
        await node.expect("recorded", **held(job))
        results = session.results(partials=True)
        outcomes = [await anext(results)]
        if outcomes[0].outcome == "partial":
            outcomes.append(await anext(results))
        result: Any = outcomes[-1]
        assert (result.text, result.source_text, result.audio) == ("hola", "hello", b"\x01speech")
        viewer = system.token("viewer")
        group = f"/v1/groups/{session.id}/es/0"

        async def has_group() -> bool:
            """Whether the view has it: a record can be folded from events before."""
            reply = await system.get(group, viewer)
            return reply.status_code == 200 and bool(reply.json()["is_live"])

        await until("the result is in its group", has_group)
        await speak(session)
        second = await node.expect("job")
        assert second["context"] == [{"source_text": "hello", "text": "hola"}]
        await node.send("no_speech", **held(second))
        await node.expect("recorded")
        assert (await anext(results)).outcome == "no_speech"
        await speak(session)
        third = await node.expect("job")
        await node.send("fail", **held(third), code="GPU_BUSY", retry_in_ms=1)
        await node.expect("recorded")
        third = await node.expect("job")
        assert third["attempt"] == 2
        await node.send("fail", **held(third), code="OUT_OF_MEMORY")
        await node.expect("recorded")
        failed: Any = await anext(results)
        assert (failed.outcome, failed.code) == ("failed", "OUT_OF_MEMORY")


async def test_a_registration_and_its_leases_go_on_at_another_gateway(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        gateway_on(server.url, cell, keys=system.keys) as other,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        async with node_socket(system) as node:
            first = await node.register()
            jobs = []
            for _ in range(3):
                await speak(session)
                jobs.append(await node.expect("job"))
            await node.send("result", **held(jobs[0]), text="uno")
            await node.expect("recorded")
            node.connection.transport.abort()
        async with node_socket(system, url=other) as again:
            # The node runs the second, has an answer for the first, and never got the third.
            await again.send(
                "register", name="n1", sources=["en"], targets=["es"], slots=4,
                registration_token="token-of-the-node-n1", held=[held(jobs[0]), held(jobs[1])],
            )  # fmt: skip
            second = await again.expect("registered")
            assert second["epoch"] == first["epoch"]
            await again.expect("cancel", **held(jobs[0]))
            resent = await again.expect("job")
            assert held(resent) == held(jobs[2])
            await again.send("result", **held(jobs[1]), text="dos")
            await again.expect("recorded", **held(jobs[1]))
            await again.send("result", **held(jobs[2]), text="tres")
            await again.expect("recorded", **held(jobs[2]))
        results = session.results()
        texts = [getattr(await anext(results), "text", None) for _ in range(3)]
        assert texts == ["uno", "dos", "tres"]
        store = system.es.stores[cell]
        ended = await store.read_range(store.keys.log, "-", "+", 1_000)
        assert not any(b"AttemptEnded" in fields for _, fields in ended)


async def test_a_node_that_an_operator_drains_ends_and_does_not_register_again(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        store, act = system.es.stores[cell], Act.of("ann@host", "new driver")
        async with node_socket(system) as node:
            registered = await node.register()
            await speak(session)
            job = await node.expect("job")
            drain = await store.request_drain(registered["node"], act, within_ms=60_000)
            assert drain.leases == 1
            await node.send("result", **held(job), text="hola")
            await node.expect("recorded")
            await node.send("heartbeat")
            await node.expect("drained")
            assert await node.closed() == 1000
        async with node_socket(system) as again:
            await again.send(
                "register", name="n1", sources=["en"], targets=["es"], slots=4,
                registration_token="token-of-the-node-n1",
            )  # fmt: skip
            assert (await again.error("NODE_DRAINED"))["fatal"]
            assert await again.closed() == 1000


async def test_a_held_attempt_ends_although_the_gateway_has_not_found_it_yet(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        jobs = []
        async with node_socket(system) as node:
            await node.register()
            for _ in range(3):
                await speak(session)
                jobs.append(held(await node.expect("job")))
            node.connection.transport.abort()
        async with node_socket(system) as again:
            await again.send(
                "register", name="n1", sources=["en"], targets=["es"], slots=4,
                registration_token="token-of-the-node-n1", held=jobs,
            )  # fmt: skip
            # Everything is on its way before the gateway has read the registration's inbox.
            await again.send("extend", **jobs[0], seconds=60)
            await again.send("result", **jobs[1], text="dos")
            await again.send("fail", **jobs[2], code="not a code")
            first = await again.expect("extended", "error")
            second = await again.expect("extended", "error")
            kinds = {frame["type"]: frame for frame in (first, second)}
            assert kinds["extended"]["job"] == jobs[0]["job"]
            assert (kinds["error"]["code"], kinds["error"]["job"]) == (
                "INVALID_MESSAGE", jobs[2]["job"],
            )  # fmt: skip
            await again.send("result", **jobs[0], text="uno")
            await again.send("result", **jobs[2], text="tres")
            results = session.results()
            texts = [getattr(await anext(results), "text", None) for _ in range(3)]
            assert texts == ["uno", "dos", "tres"]
            errors = [frame for frame in again.skipped if frame["type"] == "error"]
            assert errors == []


async def test_a_result_that_the_server_refuses_ends_its_attempt_with_a_failure(
    server: Server, cell: str
) -> None:
    """At once, not at the end of its lease. The job has lost a feature that the node knows of."""
    async with (
        gateway_system(server.url, cell) as system,
        system.es.session("acme", "en", ["es"], features=["tone"]) as session,
        node_socket(system) as node,
    ):
        session.detach()
        await node.register(features=["tone"])
        await speak(session)
        job = held(await node.expect("job"))
        store = system.es.stores[cell]
        key = store.keys.job(job["job"])
        record = await store.transport.command("GET", key, key=key)
        changed = record.replace(b'"tone"', b'"other"')
        assert changed != record
        await store.transport.command("SET", key, changed, key=key)
        await node.send("fail", **job, code="MODEL_NOT_AVAILABLE", feature="tone")
        await node.error("INVALID_MESSAGE", field="feature", **job)
        assert (await node.expect("cancel", **job))["reason"] == "HANDLER_ERROR"
        entries = await store.read_range(store.keys.log, "-", "+", 1_000)
        (ended,) = [
            event.data
            for event in map(decode_event, entries)
            if isinstance(event, Event) and isinstance(event.data, AttemptEnded)
        ]
        assert (ended.code, ended.error_type) == ("HANDLER_ERROR", "InvalidMessage")
        assert "feature" in ended.error_message
        await node.send("result", **job, text="late")
        await node.error("LEASE_LOST", **job)


async def test_another_process_of_the_name_ends_the_first(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, node_socket(system) as first:
        await first.register()
        async with node_socket(system) as second:
            registered = await second.register(registration_token="another-process-0")
            assert registered["epoch"] == 2
            await first.send("heartbeat")
            assert await first.closed() == 4409
            assert first.skipped[-1]["code"] == "NODE_SUPERSEDED"


async def test_a_silent_node_is_lost_and_its_attempts_are_cancelled(
    server: Server, cell: str
) -> None:
    settings = {"node_lost_ms": 2_000, "heartbeat_ms": 500}
    async with (
        gateway_system(server.url, cell, settings=settings) as system,
        node_socket(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        assert (await node.register())["heartbeat_ms"] == 500
        await speak(session)
        job = await node.expect("job")
        await node.expect("cancel", **held(job))  # the job has gone back: nobody sent a heartbeat
        await node.send("heartbeat", held=[held(job)])
        assert await node.closed() == 4410
        assert node.skipped[-1]["code"] == "NODE_UNKNOWN"


async def test_a_node_that_drains_ends_what_it_has(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        node_socket(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await node.register()
        await speak(session)
        job = await node.expect("job")
        await node.send("drain", within_ms=30_000)
        await node.send("result", **held(job), text="hola")
        await node.expect("recorded")
        await node.expect("drained")
        assert await node.closed() == 1000


async def test_audio_is_sent_when_the_node_asks_for_it(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        node_socket(system) as node,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await node.register(lazy_audio=True)
        await speak(session)
        job = await node.expect("job")
        await node.send("heartbeat", held=[held(job)])
        assert (await node.expect("heartbeat"))["lost"] == []
        assert node.audio == {}
        await node.send("audio", **held(job))
        assert (await node.audio_of(job))[: len(TENTH)] == bytes(range(1, 101)) * 32


BAD_REGISTERS: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "name"),
    ({"sources": []}, "sources"),
    ({"targets": ["auto"]}, "targets"),
    ({"features": ["a b"]}, "features"),
    ({"slots": 0}, "slots"),
    ({"slots": 257}, "slots"),
    ({"version": "v" * 65}, "version"),
    ({"registration_token": "short"}, "registration_token"),
    ({"held": [{"job": "x"}]}, "held"),
    ({"unknown": 1}, "unknown"),
]


async def check_bad_frames(system: GatewaySystem, session: Session) -> None:
    async with node_socket(system) as node:
        for fields, field in BAD_REGISTERS:
            declared = {
                "name": "n1", "sources": ["en"], "targets": ["es"],
                "registration_token": "token-of-the-node-n1",
            }  # fmt: skip
            await node.send("register", **declared | fields)
            error = await node.error("INVALID_MESSAGE")
            assert error["field"].startswith(field), (fields, error)
        await node.connection.send(b"\x00")
        await node.error("INVALID_MESSAGE", field="type")
        await node.register()
        await node.connection.send(b"\x00")
        await node.error("INVALID_MESSAGE", field="type")
        none = {"job": "acme:c0.x:0:translation:es:none", "attempt": 1}
        for kind in ("audio", "partial", "result", "no_speech"):
            await node.send(kind, **none)
            await node.error("LEASE_LOST", **none)
        await speak(session)
        job = held(await node.expect("job"))
        for kind, fields, field in (
            ("fail", {"code": "not a code"}, "code"),
            ("fail", {"code": "MODEL_NOT_AVAILABLE", "feature": "none"}, "feature"),
            ("no_speech", {"code": ""}, "code"),
            ("result", {"text": "x" * 65_530, "source_text": "y" * 100}, "text"),
        ):
            await node.send(kind, **job, **fields)
            await node.error("INVALID_MESSAGE", field=field, **job)
        await node.send("fail", **job, code="GPU_BUSY", retry_in_ms=10_001)
        await node.error("INVALID_MESSAGE", field="retry_in_ms")
        await node.send("result", **job, audio=True)
        await node.send("heartbeat")
        await node.error("INVALID_MESSAGE", field="audio", **job)
        await node.send("result", **job, text="hola")
        await node.expect("recorded", **job)
        await node.connection.send(bytes(512_001))
        assert await node.closed() == 1009


async def check_names(system: GatewaySystem) -> None:
    async with node_socket(system, system.token("node", name="gpu-")) as node:
        await node.send(
            "register", name="n1", sources=["en"], targets=["es"],
            registration_token="token-of-the-node-n1",
        )  # fmt: skip
        await node.error("FORBIDDEN")
        await node.register("gpu-1")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_bad_input_of_a_node_is_named_and_its_attempt_goes_on(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        system.es.session("acme", "en", ["es"]) as session,
    ):
        session.detach()
        await check_bad_frames(system, session)
        await check_names(system)
