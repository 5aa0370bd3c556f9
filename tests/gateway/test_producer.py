"""The producer socket: audio in and acknowledged, outcomes out, resumed without loss."""

from __future__ import annotations

import pytest

import eventsched
from eventsched.projection.fold import decode_event
from eventsched.schema.events import Event
from eventsched.schema.keys import name_of
from tests.gateway.gateways import gateway_on, gateway_system
from tests.gateway.sockets import TENTH, producer
from tests.server_kinds import Server
from tests.systems import serving, until

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def echo(name: str = "n1") -> eventsched.Node:
    """A node that says how much audio it got."""
    node = eventsched.Node(name, sources=["en"], targets=["es", "fr"], slots=4)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        await job.partial(f"{job.ms} ms so far")
        return eventsched.Result(
            text=f"{job.ms} ms", source_text=f"u{job.utterance}", audio=b"\x00sound"
        )

    return node


async def test_what_is_said_comes_back_in_order(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        producer(system) as socket,
    ):
        opened = await socket.open()
        assert (opened["next_seq"], opened["credit_chunks"], opened["credit_bytes"]) == (
            0, 256, 1_048_576,
        )  # fmt: skip
        for number in range(4):
            await socket.chunk(number)
            if number == 1:
                await socket.send("finalize")
            elif number == 3:
                await socket.send("finalize", traceparent=TRACEPARENT)
        first = await socket.expect("result")
        assert first["text"] == "200 ms"
        assert first["source_text"] == "u0"
        assert first["audio"] == "AHNvdW5k"
        assert (first["session"], first["target"], first["delivery_no"]) == (
            opened["session"], "es", 0,
        )  # fmt: skip
        second = await socket.expect("result", delivery_no=1, text="200 ms")
        await socket.send("confirm", id=second["id"])
        await socket.chunk(4, TENTH[:200])  # 6 ms: the last chunk of an utterance may be short
        await socket.send("close")
        await socket.expect("result", delivery_no=2, text="6 ms")
        await socket.expect("closed")
        assert await socket.closed() == 1000
        kinds = {frame["type"] for frame in socket.skipped}
        assert kinds <= {"ack", "partial"}
        acks = [frame["next_seq"] for frame in socket.skipped if frame["type"] == "ack"]
        assert acks == sorted(acks)
        log = await system.es.stores[cell].read_range(
            system.es.stores[cell].keys.log, "-", "+", 1_000
        )
        events = [event for event in map(decode_event, log) if isinstance(event, Event)]
        finalized = [event.traceparent for event in events if event.type == "UtteranceFinalized"]
        assert finalized == ["", TRACEPARENT, ""]


async def test_a_session_goes_on_at_another_gateway(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        gateway_on(server.url, cell, keys=system.keys) as other,
    ):
        async with producer(system) as socket:
            opened = await socket.open()
            for number in range(3):
                await socket.chunk(number)
            await socket.stored(3)
            await socket.send("finalize")
            first = await socket.expect("result", text="300 ms")
            socket.connection.transport.abort()
        async with producer(system, url=other) as socket:
            again = await socket.resume(opened, results_after=first["id"])
            assert again["next_seq"] == 3
            assert (again["session"], again["resume_token"]) == (
                opened["session"], opened["resume_token"],
            )  # fmt: skip
            await socket.chunk(2)  # stored already: acknowledged again, and not stored twice
            await socket.chunk(3)
            await socket.send("finalize")
            await socket.expect("result", text="100 ms", delivery_no=1)
            assert "result" not in {frame["type"] for frame in socket.skipped}
        async with producer(system) as socket:
            await socket.resume(opened)  # nothing was confirmed: everything comes again
            await socket.expect("result", delivery_no=0)
            await socket.expect("result", delivery_no=1)


async def test_a_gap_is_named_once_and_ends_with_the_expected_chunk(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system, producer(system) as socket:
        await socket.open()
        await socket.chunk(0)
        for number in (2, 3, 4):
            await socket.chunk(number)
        gap = await socket.error("SEQ_GAP", expected=1)
        assert not gap.get("fatal")
        for number in (1, 2):
            await socket.chunk(number)
        await socket.stored(3)
        await socket.chunk(9)
        await socket.error("SEQ_GAP", expected=3)
        assert [frame["type"] for frame in socket.skipped if frame["type"] == "error"] == []


async def test_backpressure_is_said_and_the_audio_that_was_sent_stays_valid(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        serving(system.es, echo()),
        producer(system) as socket,
    ):
        await socket.open()
        store = system.es.stores[cell]
        await socket.chunk(0)
        await socket.stored(1)
        await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
        await socket.chunk(1)
        await socket.chunk(2)
        await socket.send("finalize")
        refused = await socket.expect("backpressure")
        assert refused["retry_after_ms"] > 0
        await socket.expect("backpressure")
        assert [f["next_seq"] for f in socket.skipped if f["type"] == "ack"][1:] in (
            [],
            [1],
            [1, 1],
        )
        await store.set_backpressure("memory", is_active=False, seen=0, limit=1)
        await socket.expect("result", text="300 ms")
        await socket.stored(3)


async def test_a_client_that_exceeds_its_credit_is_closed(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        producer(system) as socket,
    ):
        await socket.open()
        store = system.es.stores[cell]
        await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
        for number in range(257):
            await socket.chunk(number)
        assert await socket.closed() == 4429
        last = socket.skipped[-1]
        assert (last["code"], last["fatal"]) == ("CREDIT_EXCEEDED", True)


async def test_the_producer_that_resumes_ends_the_one_before(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, producer(system) as first:
        opened = await first.open()
        async with producer(system) as second:
            await second.resume(opened)
            assert await first.closed() == 4409
            assert first.skipped[-1]["code"] == "SESSION_SUPERSEDED"
            await second.chunk(0)
            await second.stored(1)


async def test_only_the_token_of_a_session_of_the_same_tenant_resumes_it(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system, producer(system) as owner:
        opened = await owner.open()
        other = system.token("producer", "other")
        for token, frame in (
            (other, opened),
            ("", opened | {"resume_token": "0" * 32}),
            ("", opened | {"session": f"{cell}.none"}),
        ):
            async with producer(system, token) as socket:
                await socket.send(
                    "resume", session=frame["session"], resume_token=frame["resume_token"]
                )
                assert await socket.closed() == 4404
                error = socket.skipped[-1]
                assert (error["code"], error["fatal"]) == ("SESSION_UNKNOWN", True)
        await owner.chunk(0)
        await owner.stored(1)  # nobody has taken the session over


async def test_a_token_without_texts_hides_what_was_said(server: Server, cell: str) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        producer(system, system.token("producer", "acme", texts=False)) as socket,
    ):
        await socket.open()
        await socket.chunk(0)
        await socket.send("finalize")
        await socket.expect("result", text=None, source_text="", audio=None)


async def test_a_playback_is_recorded_and_a_result_never_received_is_refused(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        producer(system) as socket,
    ):
        await socket.open()
        await socket.chunk(0)
        await socket.send("finalize")
        result = await socket.expect("result")
        played = {name: result[name] for name in ("session", "target", "utterance")}
        await socket.send("playback_started", **played)
        await socket.send("playback_ended", **played)
        await socket.send("playback_started", **played | {"utterance": 99})
        await socket.error("INVALID_MESSAGE")
        token = system.token("viewer")
        events = (await system.json("/v1/history", token, session=result["session"]))["events"]
        types = [event["type"] for event in events]
        assert "PlaybackStarted" in types
        assert "PlaybackEnded" in types


async def test_a_session_that_was_idle_is_closed_and_says_so(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, producer(system) as socket:
        opened = await socket.open()
        store = system.es.stores[cell]
        async with system.es.resume(opened["session"], opened["resume_token"]) as session:
            assert session.epoch == 2
        assert await socket.closed() in (4409, 1000)
        record = await store.read_hash(store.keys.session(opened["session"].partition(".")[2]))
        assert record["status"] == "closed"
        async with producer(system) as late:
            await late.resume(opened)
            assert await late.closed() == 1000
            error, closed = late.skipped
            assert (error["code"], error.get("fatal", False)) == ("SESSION_CLOSED", False)
            assert closed["type"] == "closed"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_closing_session_is_resumed_for_the_rest_of_its_outcomes(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system:
        async with producer(system) as socket:
            opened = await socket.open()
            await socket.chunk(0)
            await socket.send("close")
            await socket.stored(1)
            store = system.es.stores[cell]

            async def is_closing() -> bool:
                record = await store.read_hash(store.keys.session(name_of(opened["session"])))
                return record["status"] == "closing"

            await until("the session is closing", is_closing)
        async with producer(system, system.token("producer", "other")) as other:
            fields = {"session": opened["session"], "resume_token": opened["resume_token"]}
            await other.send("resume", **fields)
            await other.error("SESSION_UNKNOWN", fatal=True)
        async with producer(system) as again, serving(system.es, echo()):
            assert (await again.resume(opened))["next_seq"] == 1
            await again.send("close")  # repeated, since the client cannot know that it arrived
            first = await again.expect("result")
            await again.expect("closed")
            assert await again.closed() == 1000
        async with producer(system) as late:  # the session is closed, and its outcomes exist
            await late.resume(opened)
            assert (await late.expect("result"))["id"] == first["id"]
            assert await late.closed() == 1000
        async with producer(system) as done:
            await done.resume(opened, results_after=first["id"])
            assert await done.closed() == 1000
            assert [frame["type"] for frame in done.skipped] == ["error", "closed"]
