"""The producer's side: numbering, resending, what is heard, resuming, closing."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import redis
from structlog.testing import capture_logs

import eventsched
from eventsched.client import subscription
from eventsched.client.channel import APPEND_ITEMS_MAX, FINALIZE_ITEMS_MAX
from eventsched.client.client import Client
from eventsched.client.results import encode_result
from eventsched.client.session import Session
from eventsched.errors import ServerUnavailable
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.store.transport import Arg, Entry, Transport
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.server_kinds import Server
from tests.session_buffer import buffer_of, forget_chunks
from tests.stream_entries import OUTBOX_BODY, OUTBOX_DATA, replace_value
from tests.systems import SECOND, WITHIN_S, client_of, until

DEEP, DEEPER = (b"\x81\xa1x" + b"\x91" * levels + b"\xc0" for levels in (32, 2_000))
CHUNK = SECOND[:3_200]


@contextlib.asynccontextmanager
async def opened(es: Client, **given: Any) -> AsyncIterator[Session]:
    """A session that its block's end leaves as it is."""
    asked: dict[str, Any] = {"tenant": "acme", "source": "en", "targets": ["es"]} | given
    async with es.session(**asked) as session:
        session.detach()
        yield session


def blocked_clients(server: Server) -> int:
    """How many connections of this server wait for an entry."""
    with redis.Redis.from_url(server.url) as direct:
        return int(direct.info("clients")["blocked_clients"])


async def chunks_of(store: Store, session: Session) -> list[bytes]:
    entries = await store.read_range(store.keys.audio(name_of(session.id)), "-", "+", 10_000)
    return [fields[17] for _, fields in entries]


def body_of(result: eventsched.Result) -> bytes:
    return encode_result(result, None, 0, "es")[0]


async def served(store: TimedStore, session: Session, count: int) -> None:
    """A node does `count` jobs of the session: `hola 0`, `hola 1` …"""
    node = await store.join()
    await store.dispatch()
    messages = [m for m in await store.inbox(node) if m["t"] == "assign"]
    assert len(messages) == count
    for message in messages:
        text = eventsched.Result(text=f"hola {message['utterance']}")
        await store.answer(node, message, body=body_of(text))


async def speak_and_answer(store: TimedStore, session: Session, count: int) -> None:
    """The session says `count` utterances, and a node answers each of them with `hola`."""
    for _ in range(count):
        await session.append(CHUNK, end_of_utterance=True)
    node = await store.join(slots=count)
    await store.dispatch()
    for message in await store.inbox(node):
        await store.answer(node, message)


class Cut(Transport):
    """A real transport whose replies may get lost, before or after the call took effect."""

    def __init__(self, real: Transport) -> None:
        self._real = real
        self.before = 0
        self.after = 0
        self.of = ""
        """The one script whose replies get lost; empty: any."""
        self.scripts: list[str] = []
        self.streams: list[int] = []
        """How many streams each blocking read named."""

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.scripts.append(script)
        if self.before and self.of in ("", script):
            self.before -= 1
            raise ServerUnavailable("cut before")
        reply = await self._real.run(script, keys, args)
        if self.after and self.of in ("", script):
            self.after -= 1
            raise ServerUnavailable("cut after")
        return reply

    async def command(self, *parts: Arg, key: str) -> Any:
        return await self._real.command(*parts, key=key)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, list[Entry]]:
        self.streams.append(len(streams))
        return await self._real.read_blocking(streams, block_ms, count)

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Entry]:
        return await self._real.read_group(
            key, group, consumer, block_ms=block_ms, count=count, noack=noack
        )

    async def sleep(self, seconds: float) -> None:
        await self._real.sleep(min(seconds, 0.01))


def cut(store: TimedStore) -> Cut:
    store.transport = Cut(store.transport)
    return store.transport


# --- appending ------------------------------------------------------------------------------


async def test_append_stores_each_chunk_once_and_in_order(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        for number in range(5):
            receipt = await session.append(bytes([number]) * 3_200)
            assert (receipt.status, receipt.utterance, receipt.finalized) == ("ok", 0, ())
        assert session.next_seq == 5
        assert [payload[0] for payload in await chunks_of(store, session)] == list(range(5))


async def test_long_audio_is_one_call_and_one_receipt(client: Client, store: TimedStore) -> None:
    transport = cut(store)
    async with opened(client) as session:
        receipt = await session.append(SECOND + CHUNK * 6)
        assert receipt.finalized == ()
        assert transport.scripts.count("append_audio") == 1
        assert len(await chunks_of(store, session)) == APPEND_ITEMS_MAX
        receipt = await session.append(SECOND * 9, end_of_utterance=True)
        assert receipt.finalized == (0, 1)
        assert receipt.utterance == session.utterance == 2


async def test_sessions_that_append_at_once_share_a_call(client: Client, store: TimedStore) -> None:
    transport = cut(store)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(opened(client)) for _ in range(APPEND_ITEMS_MAX)
        ]
        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(session.append, CHUNK)
        assert transport.scripts.count("append_audio") == 1
        assert [session.next_seq for session in sessions] == [1] * APPEND_ITEMS_MAX


async def test_rule_33_what_a_call_postpones_is_sent_in_further_calls(
    client: Client, store: TimedStore
) -> None:
    """A call holds 16 chunks, and each of them completes an utterance: it stores 8."""
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(opened(client)) for _ in range(20)]
        receipts: list[eventsched.Receipt] = []

        async def append(session: Session) -> None:
            receipts.append(await session.append(CHUNK, end_of_utterance=True))

        async with anyio.create_task_group() as tasks:
            for session in sessions:
                tasks.start_soon(append, session)
        assert [(receipt.status, receipt.finalized) for receipt in receipts] == [("ok", (0,))] * 20
        assert [len(await chunks_of(store, session)) for session in sessions] == [1] * 20


async def test_one_append_at_a_time_keeps_the_order_of_calls(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(session.append, bytes([number]) * 3_200)
        assert [payload[0] for payload in await chunks_of(store, session)] == list(range(10))


@pytest.mark.parametrize("cuts", ["before", "after"])
async def test_a_lost_reply_neither_loses_nor_doubles_audio(
    client: Client, store: TimedStore, cuts: str
) -> None:
    transport = cut(store)
    async with opened(client) as session:
        await session.append(CHUNK)
        setattr(transport, cuts, 3)
        receipt = await session.append(CHUNK)
        assert receipt.status == ("ok" if cuts == "before" else "duplicate")
        await session.append(CHUNK)
        assert len(await chunks_of(store, session)) == session.next_seq == 3


@pytest.mark.parametrize("cuts", ["before", "after"])
async def test_audio_that_may_not_have_arrived_goes_before_the_next(
    client: Client, store: TimedStore, cuts: str
) -> None:
    transport = cut(store)
    async with opened(client) as session:
        setattr(transport, cuts, 12)
        with pytest.raises(ServerUnavailable):
            await session.append(b"\1" * 3_200)
        setattr(transport, cuts, 0)
        await session.append(b"\2" * 3_200)
        assert [payload[0] for payload in await chunks_of(store, session)] == [1, 2]


async def test_an_append_cancelled_before_its_turn_counts_as_made(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        with anyio.CancelScope() as given_up:
            given_up.cancel()
            await session.append(b"\1" * 3_200)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.append, b"\2" * 3_200)
            await anyio.lowlevel.checkpoint()
            with anyio.CancelScope() as given_up:
                given_up.cancel()
                await session.append(b"\3" * 3_200)
        receipt = await session.append(b"\4" * 3_200, end_of_utterance=True)
        assert [payload[0] for payload in await chunks_of(store, session)] == [1, 2, 3, 4]
        assert (receipt.status, receipt.finalized) == ("ok", (0,))


async def test_audio_that_no_server_takes_is_bounded(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsched.client.append_buffer.PENDING_BYTES_MAX", 6_000)
    transport = cut(store)
    async with opened(client) as session:
        transport.before = 10_000
        for number in (1, 2):
            with pytest.raises(ServerUnavailable):
                await session.append(bytes([number]) * 3_200)
        with pytest.raises(eventsched.Backpressure) as pressed:
            await session.append(b"\3" * 3_200)
        assert pressed.value.accepted_bytes == 0
        assert session.next_seq == 2
        transport.before = 0
        await session.append(b"\4" * 3_200)
        assert [payload[0] for payload in await chunks_of(store, session)] == [1, 2, 4]


async def test_what_a_block_raises_is_not_hidden_by_what_its_end_meets(
    client: Client, store: TimedStore
) -> None:
    async def use() -> None:
        async with client.session("acme", "en", ["es"]) as session:
            cut(store).before = 12
            with pytest.raises(ServerUnavailable):
                await session.append(CHUNK)
            await store.close_session(session.id, session.epoch)
            raise ValueError("the user's own")

    with pytest.raises(ValueError, match="the user's own"):
        await use()


async def test_a_cancelled_append_counts_as_made(client: Client, store: TimedStore) -> None:
    transport = cut(store)
    async with opened(client) as session:
        transport.before = 5
        with anyio.move_on_after(0.001) as gave_up:
            await session.append(b"\1" * 3_200)
        assert gave_up.cancelled_caught
        await session.append(b"\2" * 3_200)
        assert [payload[0] for payload in await chunks_of(store, session)] == [1, 2]


async def test_rule_7_what_a_server_forgot_is_sent_again_from_what_is_held(
    client: Client, store: TimedStore, redis: Any
) -> None:
    async with opened(client) as session:
        for number in range(6):
            await session.append(bytes([number]) * 3_200)
        # A failover lost the last four: the numbers go on from 2.
        key = store.keys.session(name_of(session.id))
        await forget_chunks(redis, key, 2)
        receipt = await session.append(b"\6" * 3_200)
        assert receipt.status == "ok"
        seen = [payload[0] for payload in await chunks_of(store, session)]
        assert seen == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 6]
        assert buffer_of(await store.read_hash(key))["next_seq"] == "7"


async def test_rule_7_a_gap_that_cannot_be_filled_is_told(
    client: Client, store: TimedStore, redis: Any
) -> None:
    async with opened(client) as session:
        for _ in range(5):
            await session.append(SECOND * 6)  # 300 chunks: more than are kept
        await forget_chunks(redis, store.keys.session(name_of(session.id)), 3)
        with pytest.raises(eventsched.SeqGap) as caught:
            await session.append(CHUNK)
        assert caught.value.expected == 3


async def test_backpressure_is_raised_with_its_pause_and_takes_nothing(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await session.append(CHUNK)
        await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
        with pytest.raises(eventsched.Backpressure) as caught:
            await session.append(SECOND * 2)
        assert caught.value.retry_after_ms > 0
        assert caught.value.accepted_bytes == 0
        with pytest.raises(eventsched.Backpressure):
            async with opened(client):
                pytest.fail("opened")
        await store.set_backpressure("memory", is_active=False, seen=1, limit=8)
        await session.append(SECOND * 2)
        assert session.next_seq == len(await chunks_of(store, session)) == 21


async def test_finalize_ends_the_utterance_once(client: Client) -> None:
    async with opened(client) as session:
        assert (await session.finalize()).status == "duplicate"
        await session.append(CHUNK)
        receipt = await session.finalize()
        assert (receipt.status, receipt.utterance, receipt.finalized) == ("ok", 1, (0,))
        assert (await session.finalize()).status == "duplicate"


async def test_sessions_that_finalize_at_once_share_a_call(
    client: Client, store: TimedStore
) -> None:
    """One that is refused spoils nothing for the others."""
    transport = cut(store)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(opened(client)) for _ in range(FINALIZE_ITEMS_MAX)
        ]
        receipts: dict[str, eventsched.Receipt] = {}

        async def finalize(session: Session) -> None:
            receipts[session.id] = await session.finalize()

        async def is_refused(session: Session) -> None:
            with pytest.raises(eventsched.SessionSuperseded):
                await session.finalize()

        for session in sessions:
            await session.append(CHUNK)
        *others, older = sessions
        await store.resume_session(older.id, older.resume_secret, "token")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(is_refused, older)
            for session in others:
                tasks.start_soon(finalize, session)
        assert transport.scripts.count("finalize_utterances") == 1
        assert [receipts[session.id].finalized for session in others] == [(0,)] * len(others)


async def has_ended(store: TimedStore) -> bool:
    return await store.log("UtteranceFinalized") != []


async def test_a_finalize_that_was_cancelled_takes_effect_once(
    client: Client, store: TimedStore
) -> None:
    transport = cut(store)
    async with opened(client) as session:
        await session.append(CHUNK)
        transport.of, transport.before = "finalize_utterances", 5
        with anyio.move_on_after(0.005) as gave_up:
            await session.finalize()
        assert gave_up.cancelled_caught
        await until("ended", lambda: has_ended(store))
        receipt = await session.append(CHUNK, end_of_utterance=True)
        assert (receipt.utterance, receipt.finalized) == (2, (1,))


async def test_opus_packets_arrive_as_they_were(client: Client, store: TimedStore) -> None:
    packet = bytes([1 << 3]) + bytes(range(30))
    async with opened(client, encoding="opus") as session:
        await session.append([packet] * 5)
        (payload,) = await chunks_of(store, session)
        assert payload == (b"\0\x1f" + packet) * 5


# --- hearing --------------------------------------------------------------------------------


async def test_results_come_in_order_and_end_with_the_session(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        for _ in range(3):
            await session.append(CHUNK, end_of_utterance=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.close)
            await until("closing", lambda: is_closing(store, session))
            # Two slots: the third job goes out when the first is done.
            node = await store.join(slots=3)
            await store.dispatch()
            for message in reversed(await store.inbox(node)):
                text = eventsched.Result(text=f"hola {message['utterance']}")
                await store.answer(node, message, body=body_of(text))
        received = [outcome async for outcome in session.results()]
        results = [outcome for outcome in received if isinstance(outcome, eventsched.Result)]
        assert results == received
        assert [(r.outcome, r.utterance, r.text) for r in results] == [
            ("result", number, f"hola {number}") for number in range(3)
        ]
        assert {r.session for r in results} == {session.id}
        assert [result async for result in session.results()] == []


async def is_closing(store: TimedStore, session: Session) -> bool:
    return "SessionClosing" in await store.types()


async def test_results_wait_for_what_comes_later(client: Client, store: TimedStore) -> None:
    async with opened(client) as session:
        results = session.results()
        received: list[str | None] = []

        async def listen() -> None:
            received.append((await next_result(results)).text)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await session.append(CHUNK, end_of_utterance=True)
            await served(store, session, 1)
        assert received == ["hola 0"]


async def test_a_session_opened_later_is_heard_at_once(
    client: Client, store: TimedStore, server: Server
) -> None:
    # The shared reader is amid a blocking read for the first session when the second one opens.
    async with (
        opened(client) as first,
        opened(client) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(anext, first.results())
        await until("the shared reader blocks", lambda: blocked_clients(server) == 1)
        await second.append(CHUNK, end_of_utterance=True)
        await served(store, second, 1)
        with anyio.fail_after(subscription.BLOCK_MS / 2_000):
            assert (await next_result(second.results())).text == "hola 0"
        tasks.cancel_scope.cancel()


async def test_a_read_names_a_bounded_number_of_outboxes(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "SHARD_MAX", 2)
    transport = cut(store)
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(opened(client)) for _ in range(5)]
        results = [session.results() for session in sessions]
        received: list[str] = []

        async def receive(number: int) -> None:
            received.append((await next_result(results[number])).text or "")

        async with anyio.create_task_group() as tasks:
            for number, session in enumerate(sessions):
                tasks.start_soon(receive, number)
                await session.append(CHUNK, end_of_utterance=True)
            node = await store.join(slots=5)
            await store.dispatch()
            for message in await store.inbox(node):
                await store.answer(node, message, body=body_of(eventsched.Result(text="hola")))
        assert received == ["hola"] * 5
        assert max(transport.streams) == 2


async def test_a_read_takes_the_outbox_of_a_session_in_place_of_one_that_has_ended(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "SHARD_MAX", 1)
    node = await store.join(slots=3)
    for text in ("a", "b", "c"):
        async with opened(client) as session:
            await session.append(CHUNK, end_of_utterance=True)
            await store.dispatch()
            message = (await store.inbox(node))[-1]
            await store.answer(node, message, body=body_of(eventsched.Result(text=text)))
            assert (await next_result(session.results())).text == text
    (channel,) = client.channels.values()
    assert len(channel.listener._shards) == 1


async def test_a_reader_that_was_overtaken_is_told_once(
    client: Client, store: TimedStore, redis: Any
) -> None:
    async with opened(client) as session:
        await speak_and_answer(store, session, 4)
        await redis.xtrim(store.keys.outbox(name_of(session.id)), maxlen=2, approximate=False)
        await store.close_session(session.id, session.epoch)
        outcomes = [result.outcome async for result in session.results()]
        assert outcomes == ["truncated", "result", "result"]


async def test_what_was_handled_is_confirmed_with_the_next_append(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        for _ in range(2):
            await session.append(CHUNK, end_of_utterance=True)
        await served(store, session, 2)
        results = session.results()
        first = await next_result(results)
        assert session.confirmed == ""
        second = await next_result(results)
        assert session.confirmed == first.id
        await session.append(CHUNK)
        out = await store.read_range(store.keys.outbox(name_of(session.id)), "-", "+", 10)
        assert [entry_id for entry_id, _ in out] == [first.id, second.id]


async def test_results_after_a_place_go_on_behind_it(client: Client, store: TimedStore) -> None:
    async with opened(client) as session:
        for _ in range(2):
            await session.append(CHUNK, end_of_utterance=True)
        await served(store, session, 2)
        first = await next_result(session.results())
        assert (await next_result(session.results())).utterance == 1
        assert (await next_result(session.results(after=first))).utterance == 1
        assert (await next_result(session.results(after=first.id))).utterance == 1
        assert (await next_result(session.results(after="0-0"))).utterance == 0


@pytest.mark.parametrize(
    "body",
    [b"\x81", b"\xde\x00", b"\x81\xa4text\xa2\xff\xff", b"\x81\xa4text\x05", DEEP, DEEPER],
    ids=["cut", "no map", "no UTF-8", "no text", "33 levels", "2,000 levels"],
)
async def test_a_text_that_is_none_is_named_and_the_others_are_heard(
    client: Client, store: TimedStore, redis: Any, body: bytes
) -> None:
    """No function delivers such a text; a program that has the server's URL can write it."""
    async with opened(client) as session, opened(client) as other:
        for one in (session, session, other):
            await one.append(CHUNK, end_of_utterance=True)
        node = await store.join(slots=3)
        await store.dispatch()
        for message in await store.inbox(node):
            await store.answer(node, message, body=body_of(eventsched.Result(text="hola")))
        outbox = store.keys.outbox(name_of(session.id))
        await replace_value(redis, outbox, 0, OUTBOX_BODY, body)
        results, with_bad = session.results(), []
        with anyio.fail_after(WITHIN_S), capture_logs() as log_lines:
            with_bad = [await next_result(results), await next_result(results)]
            (received,) = [await next_result(other.results())]
        assert [(one.utterance, one.text, one.is_unreadable) for one in with_bad] == [
            (0, None, True), (1, "hola", False),
        ]  # fmt: skip
        assert (received.text, received.is_unreadable) == ("hola", False)
        (line,) = log_lines
        assert (line["session"], line["entry"]) == (session.id, with_bad[0].id)
        assert f"eventsched history {session.id}" in line["remedy"]


async def test_an_outcome_of_another_form_is_skipped_and_the_others_arrive(
    client: Client, store: TimedStore, redis: Any
) -> None:
    """A program that has the server's URL can write any outcome into an outbox."""
    async with opened(client) as session:
        await speak_and_answer(store, session, 2)
        outbox = store.keys.outbox(name_of(session.id))
        data = b'{"outcome":"failed","code":"X"}'
        await replace_value(redis, outbox, 0, OUTBOX_DATA, data)
        results = session.results()
        with anyio.fail_after(WITHIN_S), capture_logs() as log_lines:
            hole = await next_of(eventsched.Truncated, results)
            result = await next_result(results)
        assert (result.utterance, result.text) == (1, "hola")
        (line,) = log_lines
        assert (line["event"], line["session"]) == (
            "outbox entry not understood, skipped", session.id,
        )  # fmt: skip
        assert hole.id < result.id


async def test_partials_are_heard_by_those_who_ask(client: Client, store: TimedStore) -> None:
    async with opened(client) as session:
        await session.append(CHUNK, end_of_utterance=True)
        node = await store.join()
        await store.dispatch()
        (message,) = await store.inbox(node)
        body = body_of(eventsched.Result(text="ho"))
        await store.send_partials(node.node, node.epoch, [(message["j"], 1, body)])
        await store.answer(node, message)
        results = session.results(after="0-0", partials=True)
        partial, result = await next_of(eventsched.Partial, results), await next_result(results)
        assert (partial.text, result.text) == ("ho", "hola")
        assert (await next_result(session.results(after="0-0"))).outcome == "result"


async def test_rule_26_partials_of_one_node_displace_no_result_of_another(
    client: Client, store: TimedStore
) -> None:
    """A listener that arrives late receives every result, and the newest partial results."""
    async with client.session("acme", "en", ["es", "fr"]) as session:
        session.detach()
        good, bad = await store.join("good"), await store.join("bad", targets=["fr"])
        for _ in range(2):
            await session.append(CHUNK, end_of_utterance=True)
            await store.dispatch()
            await store.answer(good, (await store.inbox(good))[-1])
            message = (await store.inbox(bad))[-1]
            partial = (message["j"], 1, body_of(eventsched.Result(text="x" * 700)))
            for _ in range(40):
                await store.send_partials(bad.node, bad.epoch, [partial] * 8)
            await store.answer(bad, message)
        results = session.results(partials=True)
        with anyio.fail_after(WITHIN_S):
            received = [await anext(results) for _ in range(4 + 32)]
    ends = [each for each in received if isinstance(each, eventsched.Result)]
    assert [(each.target, each.utterance) for each in ends] == [
        ("es", 0), ("fr", 0), ("es", 1), ("fr", 1),
    ]  # fmt: skip
    assert [each.outcome for each in received[-33:]] == ["partial"] * 32 + ["result"]


async def test_a_partial_that_is_older_than_what_was_received_is_left_out(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        node = await store.join(slots=2)
        await session.append(CHUNK, end_of_utterance=True)
        await session.append(CHUNK, end_of_utterance=True)
        await store.dispatch()
        first, second = await store.inbox(node)
        for message, text in ((first, "old"), (second, "older")):
            body = body_of(eventsched.Result(text=text))
            await store.send_partials(node.node, node.epoch, [(message["j"], 1, body)])
        await store.answer(node, first)
        assert (await next_result(session.results())).utterance == 0
        results = session.results(partials=True)
        body = body_of(eventsched.Result(text="new"))
        await store.send_partials(node.node, node.epoch, [(second["j"], 1, body)])
        assert (await next_of(eventsched.Partial, results)).text == "new"


async def test_a_session_continues_after_a_partial_where_it_was(
    client: Client, store: TimedStore
) -> None:
    """A partial result has the position of the outcome before it."""
    async with opened(client) as session:
        node = await store.join(slots=2)
        await session.append(CHUNK, end_of_utterance=True)
        await session.append(CHUNK, end_of_utterance=True)
        await store.dispatch()
        messages = await store.inbox(node)
        body = body_of(eventsched.Result(text="ho"))
        positions = []
        results = session.results(partials=True)
        for message in messages:
            await store.send_partials(node.node, node.epoch, [(message["j"], 1, body)])
            positions.append((await next_of(eventsched.Partial, results)).id)
            await store.answer(node, message)
            positions.append((await next_result(results)).id)
        assert positions[0] == "0-0"
        assert positions[2] == positions[1]
        assert positions[3] != positions[2]
        for position, utterance in ((positions[0], 0), (positions[2], 1)):
            following = await anext(session.results(after=position))
            assert isinstance(following, eventsched.Result)
            assert following.utterance == utterance
        await session.append(CHUNK)  # confirms the position before the last result
        async with (
            client_of(store) as other,
            other.resume(session.id, session.resume_secret) as resumed,
        ):
            resumed.detach()
            results = resumed.results(partials=True)
            assert (await next_of(eventsched.Partial, results)).utterance == 1
            assert (await next_result(results)).utterance == 1


async def test_a_read_has_as_many_streams_as_it_may_have(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that asks for partial results has two."""
    monkeypatch.setattr(subscription, "SHARD_MAX", 3)
    node = await store.join(slots=8)
    async with opened(client) as first, opened(client) as second, opened(client) as third:
        sessions = (first, second, third)
        (channel,) = client.channels.values()
        for asks, streams in ((False, [3]), (True, [2, 2, 2])):
            for session in sessions:
                await session.append(CHUNK, end_of_utterance=True)
            await store.dispatch()
            messages = (await store.inbox(node))[-3:]
            body = body_of(eventsched.Result(text="ho"))
            for session, message in zip(sessions, messages, strict=True):
                results = session.results(partials=asks)
                await store.send_partials(node.node, node.epoch, [(message["j"], 1, body)])
                if asks:
                    assert (await next_of(eventsched.Partial, results)).text == "ho"
                await store.answer(node, message)
                assert (await next_result(results)).text == "hola"
            assert [shard.streams for shard in channel.listener._shards] == streams


# --- resuming -------------------------------------------------------------------------------


async def test_rule_7_a_resumed_session_goes_on_where_it_was(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await session.append(CHUNK, end_of_utterance=True)
        await session.append(CHUNK)
        async with (
            client_of(store) as other,
            other.resume(session.id, session.resume_secret) as resumed,
        ):
            resumed.detach()
            assert (resumed.id, resumed.epoch) == (session.id, 2)
            assert (resumed.next_seq, resumed.utterance, resumed.sample_rate) == (2, 1, 16_000)
            await resumed.append(CHUNK, end_of_utterance=True)
            assert len(await store.log("UtteranceFinalized")) == 2
            with pytest.raises(eventsched.SessionSuperseded):
                await session.append(CHUNK)


async def test_rule_7_a_resumed_session_hears_what_was_not_handled(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        for _ in range(3):
            await session.append(CHUNK, end_of_utterance=True)
        await store.join(slots=3)
        await served_all(store)
        results = session.results()
        assert (await next_result(results)).utterance == 0
        assert (await next_result(results)).utterance == 1  # so 0 was handled
        await session.append(CHUNK)
        async with (
            client_of(store) as other,
            other.resume(session.id, session.resume_secret) as resumed,
        ):
            resumed.detach()
            assert (await next_result(resumed.results())).utterance == 1
            assert (await next_result(resumed.results())).utterance == 2


async def test_rule_7_a_session_resumed_before_anything_was_handled_hears_it_all(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await session.append(CHUNK, end_of_utterance=True)
        await served(store, session, 1)
        async with (
            client_of(store) as other,
            other.resume(session.id, session.resume_secret) as resumed,
        ):
            resumed.detach()
            with anyio.fail_after(5):
                assert (await next_result(resumed.results())).utterance == 0


class Listener:
    """Listens to a session; `code` is the refusal with which its results end."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.code = ""

    async def run(self) -> None:
        try:
            async for _ in self._session.results():
                pass
        except eventsched.Refused as refused:
            self.code = refused.code


async def test_rule_7_a_session_resumed_in_the_same_process_ends_its_first_owner_alone(
    client: Client, store: TimedStore
) -> None:
    channel = client.channels[store.cell]
    async with contextlib.AsyncExitStack() as first_block, anyio.create_task_group() as tasks:
        first = await first_block.enter_async_context(opened(client))
        listener = Listener(first)
        tasks.start_soon(listener.run)
        await anyio.lowlevel.checkpoint()
        async with client.resume(first.id, first.resume_secret) as second:
            second.detach()
            await until("its results end", lambda: listener.code == "SESSION_SUPERSEDED")
            with pytest.raises(eventsched.SessionSuperseded):
                first.results()
            with pytest.raises(eventsched.SessionSuperseded):
                await first.append(CHUNK)
            with pytest.raises(eventsched.SessionSuperseded):
                await first.close()
            await first_block.aclose()
            assert channel.producers == [second]
            await second.append(CHUNK, end_of_utterance=True)
            await served(store, second, 1)
            with anyio.fail_after(5):
                assert (await next_result(second.results())).utterance == 0


async def test_rule_7_a_late_keepalive_of_the_first_owner_leaves_the_second_alone(
    client: Client, store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = client.channels[store.cell]
    sent, may_continue, keep_alive = anyio.Event(), anyio.Event(), store.keep_alive

    async def keep_alive_late(items: Sequence[tuple[str, int, str]]) -> Any:
        sent.set()
        await may_continue.wait()
        return await keep_alive(items)

    async with opened(client) as first, anyio.create_task_group() as tasks:
        monkeypatch.setattr(channel.store, "keep_alive", keep_alive_late)
        tasks.start_soon(channel.send_keepalives, [first])
        await sent.wait()
        async with client.resume(first.id, first.resume_secret) as second:
            second.detach()
            first.quiet_s = 15
            may_continue.set()
            await until("the reply is there", lambda: first.quiet_s == 0)
            assert channel.producers == [second]


async def test_rule_7_results_end_when_another_process_has_resumed_the_session(
    client: Client, store: TimedStore
) -> None:
    channel = client.channels[store.cell]
    async with opened(client) as session, anyio.create_task_group() as tasks:
        listener = Listener(session)
        tasks.start_soon(listener.run)
        await store.resume_session(session.id, session.resume_secret, "another")
        await channel.send_keepalives([session])
        await until("its results end", lambda: listener.code == "SESSION_SUPERSEDED")
        assert channel.producers == []


async def test_rule_7_of_two_owners_in_one_process_the_higher_epoch_stays(
    client: Client, store: TimedStore
) -> None:
    """Their replies may arrive in the other order."""
    channel = client.channels[store.cell]
    async with opened(client) as first, client.resume(first.id, first.resume_secret) as second:
        second.detach()
        channel.register(first)
        assert channel.producers == [second]
        assert not channel.unregister(first)


async def test_the_results_of_a_detached_session_end_with_its_block(
    client: Client, store: TimedStore
) -> None:
    async with anyio.create_task_group() as tasks:
        async with opened(client) as session:
            await session.append(CHUNK, end_of_utterance=True)
            await served(store, session, 1)
            results = session.results()
            assert (await next_result(results)).utterance == 0
            ended = anyio.Event()

            async def listen() -> None:
                async for _ in results:
                    raise AssertionError("there is one outcome")
                ended.set()

            tasks.start_soon(listen)
            await anyio.lowlevel.checkpoint()
            session.detach()
        with anyio.fail_after(5):
            await ended.wait()
    with anyio.fail_after(5):
        assert [each async for each in session.results()] == []
        assert [each async for each in session.results(after="0-0")] == []
    async with client.resume(session.id, session.resume_secret) as resumed:
        with anyio.fail_after(5):
            assert (await next_result(resumed.results(after="0-0"))).utterance == 0


async def test_the_results_of_a_session_that_was_detached_without_listening_end(
    client: Client,
) -> None:
    async with opened(client) as session:
        session.detach()
    with anyio.fail_after(5):
        assert [each async for each in session.results()] == []


async def served_all(store: TimedStore) -> None:
    node = await store.join(slots=3)
    await store.dispatch()
    for message in await store.inbox(node):
        await store.answer(node, message)


# --- staying and ending ---------------------------------------------------------------------


async def test_rule_8_a_quiet_session_is_kept_alive(client: Client, store: TimedStore) -> None:
    async with opened(client) as session:
        store.tick(50_000)
        session.quiet_s = 15
        await until("a keepalive", lambda: session.quiet_s < 15)
        store.tick(50_000)
        await store.timers()
        assert "SessionClosing" not in await store.types()


async def test_rule_8_a_shorter_idle_time_is_kept_alive_more_often(
    client: Client, store: TimedStore
) -> None:
    await store.configure_cell({"idle_ms": 10_000}, overwrite=True)
    async with opened(client) as session:
        store.tick(9_000)
        session.quiet_s = 3
        await until("a keepalive", lambda: session.quiet_s < 3)
        store.tick(9_000)
        await store.timers()
        assert "SessionClosing" not in await store.types()


async def test_rule_8_a_session_whose_audio_is_refused_under_pressure_is_kept_alive(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await session.append(CHUNK)
        await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
        store.tick(50_000)
        session.quiet_s = 15
        with pytest.raises(eventsched.Backpressure):
            await session.append(CHUNK)
        await until("a keepalive", lambda: session.quiet_s < 15)
        store.tick(50_000)
        await store.timers()
        await store.set_backpressure("memory", is_active=False, seen=1, limit=8)
        await session.append(CHUNK)


async def test_rule_8_a_session_that_is_gone_is_not_kept_alive(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        store.tick(60_000)
        await store.timers()
        await client.channels[store.cell].send_keepalives([session])
        assert client.channels[store.cell].producers == []
        with pytest.raises(eventsched.SessionClosedError):
            await session.append(CHUNK)


async def test_rule_6_the_end_of_the_block_closes_and_waits_for_the_last_words(
    client: Client, store: TimedStore
) -> None:
    async def serve() -> None:
        await until("closing", lambda: is_closing_any(store))
        await served_all(store)

    async with anyio.create_task_group() as tasks:
        async with client.session("acme", "en", ["es"]) as session:
            await session.append(CHUNK)
            tasks.start_soon(serve)
        assert (await store.types())[-1] == "SessionClosed"
        finalized = (await store.log("UtteranceFinalized"))[0].data
        assert getattr(finalized, "reason", "") == "close"


async def is_closing_any(store: TimedStore) -> bool:
    return "SessionClosing" in await store.types()


async def test_rule_6_an_exception_closes_the_session_and_comes_out_as_it_was(
    client: Client, store: TimedStore
) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with client.session("acme", "en", ["es"]):
            raise KeyError("mine")
    assert (await store.types())[-1] == "SessionClosed"


async def test_a_cancelled_session_asks_to_be_closed_and_waits_for_nothing(
    client: Client, store: TimedStore
) -> None:
    with anyio.fail_after(5), anyio.move_on_after(0.1):
        async with client.session("acme", "en", ["es"]) as session:
            await session.append(CHUNK)
            await anyio.sleep_forever()
    assert (await store.types())[-2:] == ["SessionClosing", "UtteranceFinalized"]


async def test_the_end_of_a_superseded_session_is_somebody_elses(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        await store.resume_session(session.id, session.resume_secret, "another")
    assert (await store.types())[-1] == "SessionResumed"


async def test_rule_5_playback_marks_name_where_and_whose(
    client: Client, store: TimedStore
) -> None:
    async with opened(client) as session:
        await session.append(CHUNK, end_of_utterance=True)
        await served(store, session, 1)
        result = await next_result(session.results())
        await session.playback_started(result)
        await session.playback_ended(result)
        started, ended = await store.log("PlaybackStarted", "PlaybackEnded")
        for event in (started, ended):
            assert event.session == session.id
            assert (event.data.origin, event.data.target) == (session.id, "es")  # type: ignore[union-attr]


async def test_only_a_result_is_played(client: Client, store: TimedStore) -> None:
    async with opened(client) as session:
        for other in (eventsched.NoSpeech(id="1-0"), eventsched.Result(text="no delivery")):
            with pytest.raises(eventsched.InvalidMessage, match="a result expected"):
                await session.playback_started(other)  # type: ignore[arg-type]
        assert await store.types() == ["SessionOpened"]


async def test_rule_12_a_room_hears_what_the_others_say(client: Client, store: TimedStore) -> None:
    room = store.keys.full("lobby")
    async with (
        opened(client, room=room, listen_language="en") as speaker,
        opened(client, room=room, listen_language="es") as listener,
    ):
        await speaker.append(CHUNK, end_of_utterance=True)
        await served(store, speaker, 1)
        result = await next_result(listener.results())
        assert (result.session, result.target) == (speaker.id, "es")


async def test_rule_7_names_and_tokens_are_128_random_bits(client: Client) -> None:
    names = {client.new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in names)
