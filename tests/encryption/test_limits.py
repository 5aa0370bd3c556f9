"""Limits hold for the ciphertext: encrypted audio is 28 bytes longer than its plaintext."""

from __future__ import annotations

from typing import Any

import pytest

import eventsched
from eventsched.client.results import (
    AUDIO_BYTES_MAX,
    BODY_BYTES_MAX,
    LANGUAGE_MAX,
    Result,
    encode_result,
)
from eventsched.client.session import Session
from eventsched.encryption.cipher import OVERHEAD_BYTES, SessionCipher
from eventsched.encryption.keystore import Key, KeyFolder
from eventsched.schema import codec
from eventsched.schema.events import AudioChunkAppended, Text
from eventsched.schema.keys import name_of
from eventsched.store.session_commands import Receipt
from tests.fixtures_store import TimedStore
from tests.systems import client_of

CHUNK_MAX = 65_536
HIGH_HZ = 48_000
ASKED: dict[str, Any] = {"tenant": "acme", "source": "en", "targets": ["es"], "encrypt": True}


async def stored(store: TimedStore, session: Session) -> list[tuple[int, int, int]]:
    """(seq, ms, bytes) of every chunk."""
    entries = await store.read_range(store.keys.audio(name_of(session.id)), "-", "+", 1_000)
    events = [codec.decode(*entry) for entry in entries]
    return [
        (one.data.seq, one.data.ms, len(one.body))
        for one in events
        if isinstance(one.data, AudioChunkAppended)
    ]


async def test_the_largest_chunk_is_smaller_by_the_overhead(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with (
        client_of(store, key_store) as es,
        es.session(**ASKED, sample_rate=HIGH_HZ) as session,
    ):
        most = CHUNK_MAX - OVERHEAD_BYTES
        await session.append(bytes(most))
        assert await stored(store, session) == [(0, most // 96, CHUNK_MAX)]
        await session.append(bytes(most + 2))  # too much for one chunk: cut
        assert len(await stored(store, session)) == 1 + 7
        session.detach()


async def test_a_packet_too_large_when_encrypted_is_refused_with_its_own_limit(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED, encoding="opus") as session:
        packet = bytes([0x00]) + bytes(CHUNK_MAX - 2 - OVERHEAD_BYTES)  # and its length before it
        with pytest.raises(eventsched.ChunkTooLarge, match=f"{CHUNK_MAX - OVERHEAD_BYTES} bytes"):
            await session.append([packet, bytes([0x00])])
        assert session.next_seq == 0
        session.detach()


async def test_duration_is_that_of_the_audio_and_the_guard_counts_what_is_stored(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED) as session:
        await session.append(bytes(3_200))
        await session.append(bytes(640), end_of_utterance=True)
        (finalized,) = [one.data for one in await store.log("UtteranceFinalized")]
        amounts = finalized.ms, finalized.bytes, finalized.count  # type: ignore[union-attr]
        assert amounts == (120, 3_840 + 2 * OVERHEAD_BYTES, 2)
        session.detach()


async def test_rule_3_an_empty_final_chunk_is_not_stored_and_finalizes_nothing(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED) as session:
        receipt = await session.append(b"", end_of_utterance=True)
        assert (receipt.finalized, receipt.utterance) == ((), 0)
        assert await stored(store, session) == []
        session.detach()


class Pressed(TimedStore):
    """Takes the first call of audio, then no more while it is pressed."""

    is_pressed = True

    async def append_audio(self, chunks: Any) -> Any:
        replies = await super().append_audio(chunks)
        if self.is_pressed:
            await self.set_backpressure("memory", is_active=True, seen=9, limit=8)
        return replies


async def test_accepted_bytes_count_the_callers_audio(
    store: TimedStore, key_store: KeyFolder
) -> None:
    pressed = Pressed(store.transport, store.cell)
    async with client_of(pressed, key_store) as es, es.session(**ASKED) as session:
        with pytest.raises(eventsched.Backpressure) as caught:
            await session.append(bytes(3_200 * 100))
        stored_chunks = await stored(store, session)
        assert 0 < len(stored_chunks) < 100
        assert caught.value.accepted_bytes == 3_200 * 100, "all of it counts as appended"
        await store.set_backpressure("memory", is_active=False, seen=0, limit=8)
        pressed.is_pressed = False
        assert isinstance(await session.append(bytes(3_200)), Receipt)
        assert [seq for seq, _, _ in await stored(store, session)] == list(range(101))
        session.detach()


def test_results_have_the_same_limits_less_the_overhead() -> None:
    cipher = SessionCipher("c0.s1", Key.new())
    most = bytes(AUDIO_BYTES_MAX - OVERHEAD_BYTES)
    assert len(encode_result(Result(audio=most), cipher, 0, "es")[1]) == AUDIO_BYTES_MAX
    with pytest.raises(eventsched.InvalidMessage, match=f"at most {len(most)} bytes"):
        encode_result(Result(audio=most + b"x"), cipher, 0, "es")
    body, _ = encode_result(Result(text="x" * 60_000), cipher, 0, "es")
    assert codec.decode_text(body).characters == 60_000
    language = "😀" * LANGUAGE_MAX
    body, _ = encode_result(Result(text="😀", language=language), cipher, 0, "es")
    assert len(codec.decode_text(body).encrypted) <= 4 + 512, "scripts accept it"
    with pytest.raises(eventsched.InvalidMessage, match="language"):
        encode_result(Result(text="x", language="x" * (LANGUAGE_MAX + 1)), cipher, 0, "es")
    with pytest.raises(eventsched.InvalidMessage, match=f"at most {BODY_BYTES_MAX} bytes"):
        encode_result(Result(text="x" * BODY_BYTES_MAX), cipher, 0, "es")


def test_what_is_not_encrypted_travels_as_it_did() -> None:
    body, audio = encode_result(Result(text="hola", source_text="hi", audio=b"wav"), None, 0, "es")
    assert body == codec.encode_text(Text(source_text="hi", text="hola"))
    assert audio == b"wav"
