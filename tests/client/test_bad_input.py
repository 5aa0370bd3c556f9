"""Bad input gets a typed error that names field, limit and remedy, and changes nothing."""

from typing import Any

import pytest

import eventsched
from eventsched.client.client import Client
from tests.fixtures_store import SECRET, TimedStore
from tests.server_kinds import Server
from tests.systems import SECOND, client_of

GOOD: dict[str, Any] = {"tenant": "acme", "source": "en", "targets": ["es"]}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NINE = ["es", "fr", "de", "it", "pt", "nl", "sv", "da", "fi"]


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("tenant", {"tenant": ""}),
        ("tenant", {"tenant": "a b"}),
        ("tenant", {"tenant": "x" * 65}),
        ("tenant", {"tenant": None}),
        ("source", {"source": "english"}),
        ("source", {"source": "EN"}),
        ("targets", {"targets": ["auto"]}),
        ("targets", {"targets": "es"}),
        ("targets", {"targets": None}),
        ("targets", {"targets": ["es", "es"]}),
        ("targets", {"targets": NINE}),
        ("features", {"features": ["a:b"]}),
        ("features", {"features": [f"f{number}" for number in range(17)]}),
        ("room", {"room": "no/room", "listen_language": "es"}),
        ("room", {"room": "c0.", "listen_language": "es"}),
        ("id", {"room": "elsewhere.room", "listen_language": "es"}),
        ("listen_language", {"room": "r", "listen_language": "auto"}),
        ("listen_language", {"listen_language": "es"}),
        ("encoding", {"encoding": "mp3"}),
        ("sample_rate", {"sample_rate": 7_999}),
        ("sample_rate", {"sample_rate": 48_001}),
        ("sample_rate", {"sample_rate": 16_000.0}),
        ("priority", {"priority": 3}),
        ("priority", {"priority": True}),
        ("traceparent", {"traceparent": "00-zz"}),
        ("encrypt", {"encrypt": True}),
    ],
)
async def test_a_session_asks_for_something_impossible(
    client: Client, store: TimedStore, field: str, given: dict[str, Any]
) -> None:
    with pytest.raises(eventsched.InvalidMessage) as caught:
        async with client.session(**GOOD | given):
            pytest.fail("opened")
    assert caught.value.fields["field"] == field
    assert caught.value.fields["limit"]
    assert caught.value.fields["remedy"]
    assert await store.types() == []


@pytest.mark.parametrize(
    "audio",
    [b"", bytes(608), bytes(641), [SECOND]],
    ids=["empty", "19 ms", "half a sample", "a list"],
)
async def test_a_chunk_that_will_not_do(client: Client, store: TimedStore, audio: Any) -> None:
    async with client.session(**GOOD) as session:
        before = await store.read_hash(store.keys.session(session.id.partition(".")[2]))
        with pytest.raises(eventsched.InvalidMessage) as caught:
            await session.append(audio)
        assert {"field", "limit", "remedy"} <= set(caught.value.fields)
        assert before == await store.read_hash(store.keys.session(session.id.partition(".")[2]))
        receipt = await session.append(SECOND)
        assert (receipt.status, session.next_seq) == ("ok", 1)
        session.detach()  # what was appended waits for a node that nobody runs


async def test_a_traceparent_that_is_malformed_or_has_no_utterance_is_refused(
    client: Client, store: TimedStore
) -> None:
    async with client.session(**GOOD) as session:
        for call in (
            session.append(SECOND, end_of_utterance=True, traceparent="00-zz"),
            session.append(SECOND, traceparent=TRACEPARENT),
            session.append_chunks([], traceparent=TRACEPARENT),
            session.finalize(traceparent=TRACEPARENT + "\n"),
        ):
            with pytest.raises(eventsched.InvalidMessage) as caught:
                await call
            assert caught.value.fields["field"] == "traceparent"
            assert {"limit", "remedy"} <= set(caught.value.fields)
        assert session.next_seq == 0


async def test_pcm_into_an_opus_session_is_no_opus(client: Client) -> None:
    async with client.session(**GOOD, encoding="opus") as session:
        with pytest.raises(eventsched.InvalidMessage, match="packet"):
            await session.append(b"\xff" * 640)


async def test_a_chunk_after_close(client: Client, store: TimedStore) -> None:
    async with client.session(**GOOD) as session:
        assert await session.close()
        types = await store.types()
        with pytest.raises(eventsched.SessionClosedError, match="open another session"):
            await session.append(SECOND)
        with pytest.raises(eventsched.SessionClosedError):
            await session.finalize()
        assert await store.types() == types


@pytest.mark.parametrize("session_id", ["", "c0", "c0.", "C0.abc", ".abc", "c0.a/b"])
async def test_resuming_what_is_no_session_id(client: Client, session_id: str) -> None:
    with pytest.raises(eventsched.InvalidMessage, match=r"<cell>\.<name>"):
        async with client.resume(session_id, SECRET):
            pytest.fail("resumed")


async def test_resuming_a_session_that_never_was(client: Client, store: TimedStore) -> None:
    with pytest.raises(eventsched.SessionUnknown):
        async with client.resume(store.keys.full("nobody"), SECRET):
            pytest.fail("resumed")


async def test_resuming_a_session_of_another_cell(client: Client) -> None:
    with pytest.raises(eventsched.InvalidMessage, match="names no cell"):
        async with client.resume("elsewhere.abc", SECRET):
            pytest.fail("resumed")


@pytest.mark.parametrize("after", ["x", "12", "0-1", "-5", "5-"])
async def test_results_after_something_that_is_no_id(client: Client, after: str) -> None:
    async with client.session(**GOOD) as session:
        with pytest.raises(eventsched.InvalidMessage) as caught:
            session.results(after=after)
        assert caught.value.fields["field"] == "after"


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("version", {"version": "ü" * 33}),
        ("name", {"name": "gpu 1"}),
        ("name", {"name": "c0."}),
        ("sources", {"sources": []}),
        ("sources", {"sources": "en"}),
        ("sources", {"sources": [f"a{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(65)]}),
        ("targets", {"targets": ["auto"]}),
        ("targets", {"targets": []}),
        ("features", {"features": ["a,b"]}),
        ("features", {"features": [f"s{number}" for number in range(17)]}),
        ("slots", {"slots": 0}),
        ("slots", {"slots": 257}),
    ],
)
def test_a_node_that_cannot_be(field: str, given: dict[str, Any]) -> None:
    declared: dict[str, Any] = {"name": "gpu-1", "sources": ["en"], "targets": ["es"]} | given
    with pytest.raises(eventsched.InvalidMessage) as caught:
        eventsched.Node(declared.pop("name"), **declared)
    assert caught.value.fields["field"] == field
    assert caught.value.fields["remedy"]


def test_a_node_of_too_many_pairs() -> None:
    many = [f"a{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(33)]
    with pytest.raises(eventsched.InvalidMessage, match="1024 pairs"):
        eventsched.Node("gpu-1", sources=many, targets=many)


async def test_a_node_without_a_handler(store: TimedStore) -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    async with client_of(store) as es:
        with pytest.raises(eventsched.InvalidMessage, match=r"@node\.job"):
            await node.run(es)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("text", {"text": 5}),
        ("source_text", {"source_text": None}),
        ("language", {"language": b"en"}),
        ("audio", {"audio": "RIFF"}),
    ],
)
def test_a_result_of_other_types_is_refused_where_it_is_made(
    field: str, given: dict[str, Any]
) -> None:
    with pytest.raises(eventsched.InvalidMessage) as caught:
        eventsched.Result(**given)
    assert caught.value.fields["field"] == field
    assert caught.value.fields["remedy"]


def test_a_refused_result_does_not_show_what_was_spoken() -> None:
    with pytest.raises(eventsched.InvalidMessage) as caught:
        eventsched.Result(source_text={"words": "my card number"})  # type: ignore[arg-type]
    assert "dict" in str(caught.value)
    assert "card" not in str(caught.value)


def test_a_node_has_one_handler() -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])
    node.job(len)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="already"):
        node.job(len)  # type: ignore[type-var]


def test_an_async_handler_does_not_run_in_a_process() -> None:
    node = eventsched.Node("gpu-1", sources=["en"], targets=["es"])

    async def handler(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result()

    with pytest.raises(eventsched.InvalidMessage, match="plain function"):
        node.job(processes=True)(handler)


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("settings", {"settings": {"pause": 500}}),
        ("pause_ms", {"settings": {"pause_ms": 0}}),
        ("pause_ms", {"settings": {"pause_ms": "soon"}}),
        ("cells", {"cells": 0}),
        ("cells", {"cells": 2.5}),
    ],
)
async def test_a_connection_that_asks_for_something_impossible(
    server: Server, cell: str, field: str, given: dict[str, Any]
) -> None:
    assert cell  # sweeps whatever a wrong answer would leave
    with pytest.raises(eventsched.InvalidMessage) as caught:
        async with eventsched.connect(server.url, **given):
            pytest.fail("connected")
    assert caught.value.fields["field"] == field
