"""A session of the JavaScript client at a real gateway: it loses nothing when connections break."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventsched.schema.keys import name_of
from eventsched.store.replies import fields_of
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.jwt_times import expiring
from tests.gateway.test_producer import echo
from tests.js.programs import ROOT, Script, relay, script
from tests.server_kinds import Server
from tests.systems import serving, until

SPEAK = ROOT / "tests" / "js" / "speak.mjs"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NO_PAUSE = {"pause_ms": 60_000}
"""On a busy machine the client may be slow: its pauses complete no utterance."""
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


@asynccontextmanager
async def speaker(
    system: GatewaySystem, url: str = "", token: str = "", **options: Any
) -> AsyncIterator[Script]:
    shown = token or system.token("producer", "acme")
    variables = {"GATEWAY": url or system.url, "TOKEN": shown, "OPTIONS": json.dumps(options)}
    async with script(SPEAK, **variables) as speaking:
        yield speaking


async def test_what_is_said_comes_back_in_order(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
        speaker(system) as session,
    ):
        for line in (
            "append 250",
            "finalize",
            "append 1005",
            f"finalize {TRACEPARENT}",
            "finalize",
        ):
            await session.say(line)
        first = await session.expect(type="result")
        assert (first["text"], first["sourceText"], first["utterance"], first["deliveryNo"]) == (
            "250 ms", "u0", 0, 0,
        )  # fmt: skip
        assert first["audio"] == list(b"\x00sound")
        second = await session.expect(type="result")
        assert (second["text"], second["deliveryNo"]) == ("1005 ms", 1)
        await session.say("append 33")
        await session.say("close")
        third = await session.expect(type="result")
        assert (third["text"], third["utterance"]) == ("33 ms", 2)
        await session.expect(end="closed")
        assert await session.ended() == 0
        store = system.es.stores[cell]
        log = await store.read_range(store.keys.log, "-", "+", 1_000)
        for event in (b"PlaybackStarted", b"PlaybackEnded"):
            assert sum(event in fields for _, fields in log) >= 2
        traceparents = [
            named[b"tp"].decode()
            for named in (fields_of(fields) for _, fields in log)
            if named[b"t"] == b"UtteranceFinalized"
        ]
        assert traceparents == ["", TRACEPARENT, ""]
        assert [line for line in session.seen if "error" in line] == []
        partials = [line for line in session.seen if line.get("type") == "partial"]
        assert partials and all(line["text"].endswith("so far") for line in partials)


async def test_a_session_loses_nothing_when_connections_break(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
        relay(system.url) as passing,
        speaker(system, passing.url) as session,
    ):
        await session.say("append 2000")
        await session.expect(appended=2000)
        for _ in range(3):
            passing.cut()
            await session.say("append 1000")
            await session.expect(state="away")
            await session.expect(state="open")
        passing.is_away = True
        passing.cut()
        await session.expect(state="away")
        await session.say("append 500")
        await session.say("finalize")
        await session.expect(appended=500)
        passing.is_away = False
        result = await session.expect(type="result")
        assert result["text"] == "5500 ms"
        await session.say("append 100")
        passing.cut()  # whether or not the chunk has arrived
        await session.say("finalize")
        assert (await session.expect(type="result"))["text"] == "100 ms"
        await session.say("close")
        await session.expect(end="closed")
        numbers = [line["deliveryNo"] for line in session.seen if line.get("type") == "result"]
        assert numbers == [0, 1]
        asked = [line for line in session.seen if line.get("token") == "asked"]
        assert len(asked) >= passing.count >= 5


async def test_the_buffer_is_bounded_while_the_gateway_is_away(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
        relay(system.url) as passing,
        speaker(system, passing.url, bufferBytes=64_000) as session,
    ):
        await session.expect(state="open")
        passing.is_away = True
        passing.cut()
        await session.expect(state="away")
        await session.say("flood")
        await session.say("finalize")
        passing.is_away = False
        await session.expect(flooded=["stored", "BUFFER_FULL"])
        assert (await session.expect(type="result"))["text"] == "5000 ms"


async def test_opus_packets_are_chunks(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
        speaker(system, encoding="opus", sampleRate=48_000) as session,
    ):
        for line in ("opus 100", "opus 20", "finalize", "opus 400", "close"):
            await session.say(line)
        texts = [(await session.expect(type="result"))["text"] for _ in range(2)]
        assert texts == ["120 ms", "400 ms"]


async def test_a_session_is_resumed_by_another_process(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
    ):
        async with speaker(system) as first:
            await first.say("append 300")
            await first.say("finalize")
            last = (await first.expect(type="result"))["id"]
            await first.say("append 200")
            await first.say("detach")
            await first.expect(end="closed")
        opened = next(line for line in first.seen if "session" in line and "resumeToken" in line)
        names = {name: opened[name] for name in ("session", "resumeToken")}
        async with speaker(system, **names, resultsAfter=last) as second:
            assert (await second.expect(opened=names["session"]))["opened"] == names["session"]
            await second.say("append 100")
            await second.say("finalize")
            result = await second.expect(type="result")
            assert (result["utterance"], result["text"]) == (1, "300 ms")
            await second.say("close")
            await second.expect(end="closed")


async def test_a_session_goes_on_with_a_new_token(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        serving(system.es, echo()),
    ):
        tokens = f"{expiring(system, 10)} {system.token('producer', 'acme')}"
        async with speaker(system, token=tokens) as session:
            await session.say("append 100")
            await session.expect(state="away")  # 4401: the token has expired
            await session.expect(state="open")
            await session.say("append 200")
            await session.say("finalize")
            assert (await session.expect(type="result"))["text"] == "300 ms"


async def test_a_session_fails_when_the_gateway_stays_away(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        relay(system.url) as passing,
        speaker(system, passing.url, reconnectMs=500) as session,
    ):
        await session.expect(state="open")
        passing.is_away = True
        passing.cut()
        await session.expect(state="away")
        await session.say("append 100")
        await session.expect(state="failed")
        await session.expect(failed="CONNECTION_FAILED")
        await session.say("append 100")
        assert await session.ended() == 1


async def test_outcomes_after_close_arrive_over_a_new_connection(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, settings=NO_PAUSE) as system,
        relay(system.url) as passing,
        speaker(system, passing.url) as session,
    ):
        opened = (await session.expect(state="open"), await session.line())[1]["opened"]
        await session.say("append 100")
        await session.say("close")
        store = system.es.stores[cell]

        async def is_closing() -> bool:
            record = await store.read_hash(store.keys.session(name_of(opened)))
            return record.get("status") != "open"

        await until("the session is closing", is_closing)
        passing.cut()
        await session.expect(state="away")
        await session.expect(state="open")
        async with serving(system.es, echo()):
            last = await session.expect(type="result")
            assert (last["text"], last["utterance"]) == ("100 ms", 0)
            await session.expect(end="closed")
            assert await session.ended() == 0


async def test_errors_have_code_field_and_remedy(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, settings=NO_PAUSE) as system:
        for options, code, field in (
            ({"source": "english"}, "INVALID_MESSAGE", "source"),
            ({"targets": ["es"] * 9}, "INVALID_MESSAGE", "targets"),
            ({"session": f"{cell}.x", "resumeToken": "0" * 32}, "SESSION_UNKNOWN", ""),
        ):
            async with speaker(system, **options) as session:
                failed = await session.expect(failed=code)
                assert failed["field"].startswith(field)
                assert await session.ended() == 1
        async with speaker(system, token="none") as session:
            await session.expect(failed="CONNECTION_FAILED")
        async with speaker(system, "http://127.0.0.1:9") as session:
            await session.expect(failed="CONNECTION_FAILED")


async def test_backpressure_is_shown_and_ends(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",), settings=NO_PAUSE) as system,
        serving(system.es, echo()),
        speaker(system) as session,
    ):
        await session.expect(state="open")
        store = system.es.stores[cell]
        await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
        await session.say("append 500")
        while "backpressure" not in await session.line():
            pass
        assert session.seen[-1]["backpressure"]["retryAfterMs"] > 0
        await store.set_backpressure("memory", is_active=False, seen=0, limit=1)
        await session.say("finalize")
        assert (await session.expect(type="result"))["text"] == "500 ms"
