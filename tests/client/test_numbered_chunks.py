"""What programs use whose own clients number chunks and confirm outcomes: `append_chunks`,
`stored_seq`, `confirm`, a resume for one tenant."""

from __future__ import annotations

import pytest

from eventsched.audio.chunks import one_chunk
from eventsched.client.client import Client
from eventsched.errors import Backpressure, ChunkTooLarge, InvalidMessage, SessionUnknown
from tests.fixtures_store import TimedStore
from tests.systems import client_of


async def test_each_chunk_gets_one_number_whatever_its_length(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        pieces = [one_chunk(bytes(ms * 32), "pcm16", 16_000) for ms in (20, 1_000, 300)]
        receipt = await session.append_chunks(pieces)
        assert (receipt.status, session.next_seq, session.stored_seq) == ("ok", 3, 3)
        short = one_chunk(bytes(64), "pcm16", 16_000, end_of_utterance=True)
        with pytest.raises(InvalidMessage):
            await session.append_chunks([short])
        ended = await session.append_chunks([short], end_of_utterance=True)
        assert (ended.finalized, session.next_seq) == ((0,), 4)
    (finalized,) = await store.log("UtteranceFinalized")
    assert finalized.data.count == 4  # type: ignore[union-attr]


def test_audio_that_is_not_one_chunk_is_refused() -> None:
    for payload in (b"", bytes(600), bytes(641), bytes(32_034)):
        with pytest.raises(InvalidMessage):
            one_chunk(payload, "pcm16", 16_000)
    with pytest.raises(ChunkTooLarge):
        one_chunk(bytes(65_538), "pcm16", 48_000)
    with pytest.raises(InvalidMessage):
        one_chunk(b"\x00\x09abc", "opus", 48_000)


async def test_refused_chunks_keep_their_numbers_for_a_later_call(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        piece = one_chunk(bytes(3_200), "pcm16", 16_000)
        await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
        with pytest.raises(Backpressure):
            await session.append_chunks([piece, piece])
        assert (session.next_seq, session.stored_seq) == (0, 0)
        await store.set_backpressure("memory", is_active=False, seen=0, limit=1)
        await session.append_chunks([piece, piece])
        assert (session.next_seq, session.stored_seq) == (2, 2)


async def test_an_outcome_is_handled_when_it_is_confirmed(
    client: Client, store: TimedStore
) -> None:
    node = await store.join("n1", slots=4)
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        for _ in range(3):
            await session.append(bytes(3_200), end_of_utterance=True)
            await store.dispatch()
        for message in await store.inbox(node):
            await store.answer(node, message)
        outcomes = session.results(confirms=False)
        taken = [await anext(outcomes) for _ in range(3)]
        assert session.confirmed == ""
        with pytest.raises(InvalidMessage):
            session.confirm("9999999999999-0")
        with pytest.raises(InvalidMessage):
            session.confirm("x")
        session.confirm(taken[1])
        session.confirm(taken[0])  # before the last confirmed one: without effect
        assert session.confirmed == taken[1].id
        await session.append(bytes(3_200))
        secret = session.resume_secret
    async with client_of(store) as other, other.resume(session.id, secret) as again:
        again.detach()
        assert (await anext(again.results())).id == taken[2].id


async def test_a_session_of_another_tenant_is_unknown_and_keeps_its_producer(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        async with client_of(store) as other:
            with pytest.raises(SessionUnknown):
                async with other.resume(session.id, session.resume_secret, tenant="other"):
                    pass
        await session.append(bytes(3_200))  # not superseded
        async with (
            client_of(store) as other,
            other.resume(session.id, session.resume_secret, tenant="acme") as again,
        ):
            again.detach()
            assert again.next_seq == 1
