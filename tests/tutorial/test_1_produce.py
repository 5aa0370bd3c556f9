"""1. Producing: audio in.

A session is one speaker's live stream. The library cuts nothing by itself: what you append is
stored in order, and the server decides when an utterance is complete.
"""

# ruff: noqa: SIM117 - one block inside the other reads as what it is: a session of a connection

import pytest

import eventsched

RATE = 16_000
SILENCE = bytes(2 * RATE)
"""One second: 16-bit mono samples."""


async def test_append_returns_when_the_audio_is_stored(url: str) -> None:
    async with eventsched.connect(url) as es:
        async with es.session(tenant="acme", source="en", targets=[]) as session:
            receipt = await session.append(SILENCE[:3_200])  # 100 ms
            assert receipt.status == "ok"
            assert receipt.utterance == 0  # still open: nothing has ended it
            assert session.next_seq == 1


async def test_an_utterance_ends_when_you_say_so_or_after_ten_seconds(url: str) -> None:
    # It also ends after three seconds without audio, and when the session closes.
    async with eventsched.connect(url) as es:
        async with es.session(tenant="acme", source="en", targets=[]) as session:
            assert (await session.append(SILENCE * 12)).finalized == (0,)
            assert (await session.finalize()).finalized == (1,)
            assert (await session.append(SILENCE, end_of_utterance=True)).finalized == (2,)


async def test_opus_goes_in_as_packets(url: str) -> None:
    packet = b"\x08" + bytes(40)  # 20 ms of narrow-band speech, as its first byte says
    async with eventsched.connect(url) as es:
        async with es.session("acme", "en", [], encoding="opus") as session:
            await session.append([packet] * 5)
            assert (await session.finalize()).finalized == (0,)


async def test_what_will_not_do_is_refused_with_the_remedy(url: str) -> None:
    async with eventsched.connect(url) as es:
        async with es.session("acme", "en", []) as session:
            with pytest.raises(eventsched.InvalidMessage) as caught:
                await session.append(SILENCE[:320])
            assert str(caught.value) == (
                "INVALID_MESSAGE audio: at least 20 ms a chunk, got 10; "
                "collect more before sending, or mark the last chunk as the end of the utterance"
            )
            assert session.next_seq == 0
