"""The reads of outboxes: small enough to arrive, and no session delays those of another tenant."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from hashlib import sha256

import anyio
import pytest

from eventsched.client import subscription
from eventsched.client.client import Client
from eventsched.client.session import Session
from eventsched.errors import ServerUnavailable
from eventsched.store.transport import Entry, Transport
from tests.client.test_session import CHUNK, Cut, opened
from tests.fixtures_store import TimedStore
from tests.outcomes import next_result

SPEECH = bytes(200_000)


def bytes_of(reply: Mapping[str, list[Entry]]) -> int:
    return sum(len(part) for entries in reply.values() for _, flat in entries for part in flat)


class Link(Cut):
    """A real transport over a link on which a larger reply does not arrive in time."""

    def __init__(self, real: Transport, bytes_max: int) -> None:
        super().__init__(real)
        self._bytes_max = bytes_max
        self.replies: list[int] = []
        self.cancelled = 0
        self.failed = 0

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        try:
            reply = await super().read_blocking(streams, block_ms, count)
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        size = bytes_of(reply)
        if size > self._bytes_max:
            self.failed += 1
            raise ServerUnavailable("the reply takes too long")
        self.replies.append(size)
        return reply


def link(store: TimedStore, bytes_max: int) -> Link:
    store.transport = transport = Link(store.transport, bytes_max)
    return transport


async def answer(store: TimedStore, session: Session, count: int, speech: bytes = b"") -> None:
    """The session says `count` utterances, and a node answers each of them."""
    for _ in range(count):
        await session.append(CHUNK, end_of_utterance=True)
    node = await store.join(slots=64)
    await store.dispatch()
    messages = [each for each in await store.inbox(node) if each["session"] == session.id]
    digest = sha256(speech).hexdigest() if speech else ""
    for message in messages[-count:]:
        await store.answer(node, message, audio=speech, audio_sha256=digest)


async def test_results_arrive_over_a_link_that_takes_one_large_result_at_a_time(
    client: Client, store: TimedStore
) -> None:
    """The whole backlog of a tenant is one reply otherwise, which never arrives; nor does another
    tenant's result in it. A session that asks again is as unknown as a new one.
    """
    transport = link(store, 250_000)
    async with contextlib.AsyncExitStack() as stack:
        small = await stack.enter_async_context(opened(client, tenant="acme"))
        await answer(store, small, 1)
        large = [await stack.enter_async_context(opened(client, tenant="flood")) for _ in range(3)]
        for session in large:
            await answer(store, session, 4, SPEECH)
        received: list[str] = []

        async def listen(session: Session, count: int, tenant: str) -> None:
            results = session.results()
            for _ in range(count):
                assert (await next_result(results)).text == "hola"
                received.append(tenant)
            await anext(session.results(after="0-0"))  # perhaps Truncated: the others are confirmed

        async with anyio.create_task_group() as tasks:
            for session in large:
                tasks.start_soon(listen, session, 4, "flood")
            tasks.start_soon(listen, small, 1, "acme")
        assert sorted(received) == ["acme"] + ["flood"] * 12
    assert transport.failed <= 3, "each outbox is unknown once"
    assert max(transport.replies) <= 250_000


async def test_a_read_has_a_bounded_number_of_entries(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "READ_COUNT", 2)
    transport = link(store, 450_000)
    async with opened(client) as session:
        await answer(store, session, 5, SPEECH)
        results = session.results()
        for _ in range(5):
            assert (await next_result(results)).audio == SPEECH
    assert transport.failed == 0


async def test_no_read_is_cancelled_for_a_session_that_is_opened(
    client: Client, store: TimedStore
) -> None:
    """A cancelled read loses its connection. Sessions that are opened one after another, or that
    ask for their results again, would keep all others waiting.
    """
    transport = link(store, 10**9)
    async with contextlib.AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(anyio.create_task_group())
        first = await stack.enter_async_context(opened(client, tenant="acme"))
        results = first.results()
        await answer(store, first, 1)
        assert (await next_result(results)).utterance == 0
        for _ in range(20):
            other = await stack.enter_async_context(opened(client, tenant="flood"))
            tasks.start_soon(anext, other.results())
            await answer(store, other, 1)
            assert (await next_result(other.results(after="0-0"))).text == "hola"
        await answer(store, first, 1)
        assert (await next_result(results)).utterance == 1
        assert transport.cancelled == 0
        tasks.cancel_scope.cancel()


async def test_an_entry_that_two_reads_have_is_received_once(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await answer(store, session, 3)
        key = store.keys.outbox(session.id.partition(".")[2])
        entries = await store.read_range(key, "-", "+", 10)
        subscribed = subscription.Subscription(session.id, "0-0")
        subscribed.put(entries[:2])
        subscribed.put(entries)
        subscribed.put(entries[:1])
        numbers = []
        while (entry := subscribed.pop()) is not None:
            numbers.append((entry.kind, entry.number))
        assert numbers == [("result", 1), ("result", 2), ("result", 3)]
