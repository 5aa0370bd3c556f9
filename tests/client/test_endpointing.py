"""A session with endpointing sends speech alone, and ends its utterances itself."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import eventsched
from eventsched.audio import speech_detector
from eventsched.client.client import Client
from eventsched.errors import MissingDependencyError
from eventsched.schema.events import UtteranceFinalized
from tests.fixtures_store import TimedStore
from tests.systems import client_of
from tests.unit.speech_recordings import RATE, Recording, record, sentences

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STEP = RATE // 10 * 2
SILENCE = bytes(RATE * 2)


@pytest.fixture(scope="module")
def spoken() -> Recording:
    """Two sentences with pauses, 7 s."""
    return record(sentences(0)[:2], (800, 900, 900), rate=RATE, noise=50)


def opened(es: Client, **arguments: Any) -> Any:
    return es.session("acme", "en", ["es"], **{"endpointing": True} | arguments)


async def finalized(store: TimedStore) -> list[UtteranceFinalized]:
    events = await store.log("UtteranceFinalized")
    return [event.data for event in events if isinstance(event.data, UtteranceFinalized)]


async def test_an_utterance_ends_with_its_speech_and_silence_is_not_sent(
    client: Client, store: TimedStore, spoken: Recording
) -> None:
    ended: list[int] = []
    async with opened(client) as session:
        for start in range(0, len(spoken.pcm), STEP):
            receipt = await session.append(spoken.pcm[start : start + STEP])
            assert receipt.status == "ok"
            ended += receipt.finalized
        assert ended == [0, 1]
        assert session.utterance == 2
        session.detach()
    first, second = await finalized(store)
    assert (first.reason, second.reason) == ("final", "final")
    assert first.ms + second.ms < spoken.ms - 1_000


async def test_one_call_with_several_utterances_ends_each(
    client: Client, store: TimedStore, spoken: Recording
) -> None:
    async with opened(client) as session:
        receipt = await session.append(spoken.pcm, traceparent=TRACEPARENT)
        assert receipt.finalized == (0, 1)
        traceparents = [event.traceparent for event in await store.log("UtteranceFinalized")]
        assert traceparents == [TRACEPARENT, TRACEPARENT]
        session.detach()
    assert len(await finalized(store)) == 2


async def test_silence_makes_no_utterance_and_keeps_the_session(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        assert (await session.append(SILENCE)).finalized == ()
        assert (await session.append(SILENCE, end_of_utterance=True)).finalized == ()
        assert (await session.finalize()).status == "duplicate"
        assert session.next_seq == 0
        session.detach()
    assert await finalized(store) == []


@pytest.mark.parametrize("how", ["finalize", "end_of_utterance", "close"])
async def test_speech_that_has_not_ended_is_sent_at_the_end(
    client: Client, store: TimedStore, spoken: Recording, how: str
) -> None:
    start = spoken.pcm[: 2 * RATE * 2]
    async with opened(client) as session:
        if how == "end_of_utterance":
            assert (await session.append(start, end_of_utterance=True)).finalized == (0,)
        else:
            assert (await session.append(start)).finalized == ()
        if how == "finalize":
            assert (await session.finalize()).finalized == (0,)
        if how == "close":
            with anyio.move_on_after(0.2):
                await session.close()
        session.detach()
    (event,) = await finalized(store)
    assert event.ms > 1_000


async def test_a_cancelled_append_loses_no_audio(
    client: Client, store: TimedStore, spoken: Recording
) -> None:
    middle = len(spoken.pcm) // 4 * 2
    async with opened(client) as session:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await session.append(spoken.pcm[:middle])
        assert scope.cancelled_caught
        assert (await session.append(spoken.pcm[middle:])).finalized == (0, 1)
        session.detach()
    first, second = await finalized(store)
    assert min(first.ms, second.ms) > 2_000


async def test_backpressure_keeps_what_endpointing_has_taken(
    client: Client, store: TimedStore, spoken: Recording
) -> None:
    async with opened(client) as session:
        await store.set_backpressure("memory", is_active=True, seen=1, limit=1)
        with pytest.raises(eventsched.Backpressure) as caught:
            await session.append(spoken.pcm)
        assert caught.value.accepted_bytes == len(spoken.pcm)
        await store.set_backpressure("memory", is_active=False, seen=0, limit=1)
        assert (await session.append(b"")).finalized == (0, 1)
        session.detach()


async def test_a_resumed_session_has_endpointing_if_it_asks_for_it(
    client: Client, store: TimedStore, spoken: Recording
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
    async with (
        client_of(store) as other,
        other.resume(session.id, session.resume_secret, endpointing=True) as resumed,
    ):
        assert (await resumed.append(spoken.pcm)).finalized == (0, 1)
        resumed.detach()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoding": "opus"}, "endpointing: pcm16 expected"),
        ({"endpointing": "yes"}, "a bool or Endpointing expected"),
    ],
)
async def test_endpointing_that_does_not_fit_is_refused_before_the_session_opens(
    client: Client, store: TimedStore, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(eventsched.InvalidMessage, match=message):
        opened(client, **arguments)
    assert await store.log("SessionOpened") == []


async def test_a_platform_without_the_detector_is_refused_with_the_remedy(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech_detector, "PACKAGE", "no_such_package")
    with pytest.raises(MissingDependencyError, match="mark the ends of utterances yourself"):
        opened(client)


async def test_audio_that_is_no_pcm_is_refused(client: Client) -> None:
    async with opened(client) as session:
        for audio in (b"odd", [b"packet"]):
            with pytest.raises(eventsched.InvalidMessage):
                await session.append(audio)
        session.detach()
