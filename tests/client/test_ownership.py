"""Who may act on a session: the holder of its resume secret, and nobody who hears it (rule 7)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

import eventsched
from eventsched.client.client import Client
from eventsched.client.results import encode_result
from eventsched.encryption.keystore import KeyFolder
from eventsched.schema.keys import name_of
from eventsched.store.client import Client as RedisClient
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.scripts.calls import contents
from tests.systems import SECOND, client_of

CHUNK = SECOND[:3_200]
STRANGER = "0" * 32


@pytest.fixture
def debug_logs() -> Iterator[None]:
    wrapper_class = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    yield
    structlog.configure(wrapper_class=wrapper_class)


async def stored_text(redis: RedisClient, store: TimedStore) -> str:
    """Every key of the cell with its whole value, as Python shows it."""
    values: list[Any] = []
    async for key in redis.scan_iter(match=f"{store.keys.prefix}*", count=1_000):
        match await redis.type(key):
            case b"hash":
                value: Any = await redis.hgetall(key)
            case b"stream":
                value = await redis.xrange(key)
            case b"zset":
                value = await redis.zrange(key, 0, -1)
            case b"set":
                value = await redis.smembers(key)
            case _:
                value = await redis.get(key)
        values.append((key, value))
    return repr(values)


async def answer_with_partial(store: TimedStore) -> None:
    """A node sends a partial result and a result for the only job."""
    node = await store.join()
    await store.dispatch()
    (message,) = [m for m in await store.inbox(node) if m["t"] == "assign"]
    text = encode_result(eventsched.Result(source_text="hi", text="hola"), None, 0, "es")[0]
    await store.send_partials(node.node, node.epoch, [(message["j"], 1, text)])
    await store.answer(node, message, body=text)


async def test_rule_7_the_secret_of_a_session_resumes_it(client: Client, store: TimedStore) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        assert re.fullmatch("[0-9a-f]{32}", session.resume_secret)
    async with client_of(store) as other:
        for epoch in (2, 3):
            async with other.resume(session.id, session.resume_secret) as resumed:
                resumed.detach()
                assert (resumed.epoch, resumed.resume_secret) == (epoch, session.resume_secret)


async def test_rule_7_each_session_has_a_secret_of_its_own(client: Client) -> None:
    secrets = set[str]()
    for _ in range(20):
        async with client.session("acme", "en", ["es"]) as session:
            session.detach()
            secrets.add(session.resume_secret)
    assert len(secrets) == 20


async def test_rule_7_a_wrong_secret_resumes_nothing_and_changes_nothing(
    client: Client, store: TimedStore, redis: RedisClient
) -> None:
    async with client.session("acme", "en", ["es"]) as session, client_of(store) as other:
        session.detach()
        before = await contents(redis, store)
        for session_id in (session.id, store.keys.full("nobody")):
            with pytest.raises(eventsched.SessionUnknown):
                async with other.resume(session_id, STRANGER):
                    pytest.fail("resumed")
        assert await contents(redis, store) == before
        await session.append(CHUNK)


async def test_rule_7_a_wrong_secret_of_an_encrypted_session_reveals_nothing(
    store: TimedStore, tmp_path: Any
) -> None:
    keys = KeyFolder(tmp_path / "keys")
    async with client_of(store, keys) as owner, client_of(store) as other:
        async with owner.session("acme", "en", ["es"], encrypt=True) as session:
            session.detach()
        with pytest.raises(eventsched.SessionUnknown):  # not that a key is missing
            async with other.resume(session.id, STRANGER):
                pytest.fail("resumed")


@pytest.mark.parametrize("secret", ["", "secret", "0" * 31, "0" * 33, "G" * 32, None])
async def test_rule_7_a_secret_of_another_form_is_refused_and_not_shown(
    client: Client, store: TimedStore, secret: Any
) -> None:
    with pytest.raises(eventsched.InvalidMessage, match="32 hexadecimal digits") as refused:
        async with client.resume(store.keys.full("s1"), secret):
            pytest.fail("resumed")
    assert not secret or secret == "secret" or secret not in str(refused.value)


async def test_rule_7_a_listener_cannot_act_on_the_session_of_the_speaker(
    client: Client, store: TimedStore, redis: RedisClient
) -> None:
    """Not with all that it receives, nor with any part of it that has the form of a secret."""
    room = store.keys.full("lobby")
    async with (
        client.session("acme", "en", room=room, listen_language="en") as speaker,
        client_of(store) as other,
        other.session("acme", "es", room=room, listen_language="es") as listener,
    ):
        speaker.detach()
        listener.detach()
        await speaker.append(CHUNK, end_of_utterance=True)
        await answer_with_partial(store)
        results = listener.results(partials=True)
        partial, result = await next_of(eventsched.Partial, results), await next_result(results)
        assert result.session == partial.session == speaker.id
        outbox = await redis.xrange(store.keys.outbox(name_of(listener.id)))
        partials = await redis.xrange(store.keys.partials(name_of(listener.id)))
        assert partials
        received = repr((partial, result, outbox, partials))
        assert speaker.resume_secret not in received
        before = await contents(redis, store)
        digits = re.findall(r"(?=([0-9a-f]{32}))", received)
        assert speaker.id.partition(".")[2] in digits
        for secret in {*digits, STRANGER, listener.resume_secret}:
            with pytest.raises(eventsched.SessionUnknown):
                async with other.resume(result.session, secret):
                    pytest.fail("resumed")
        assert await contents(redis, store) == before
        await speaker.append(CHUNK, end_of_utterance=True)
        assert speaker.epoch == 1


async def test_rule_7_the_secret_is_in_no_log_event_message_or_representation(
    client: Client, store: TimedStore, redis: RedisClient, debug_logs: None
) -> None:
    with capture_logs() as lines:
        async with client.session("acme", "en", ["es"]) as session, client_of(store) as other:
            session.detach()
            await session.append(CHUNK, end_of_utterance=True)
            await answer_with_partial(store)
            await next_result(session.results())
            async with other.resume(session.id, session.resume_secret) as resumed:
                with pytest.raises(eventsched.SessionSuperseded) as superseded:
                    await session.append(CHUNK)
            secret = session.resume_secret
            with pytest.raises(eventsched.SessionClosedError) as closed:
                async with other.resume(session.id, secret):
                    pytest.fail("resumed")
    assert [line for line in lines if line["event"] == "session open"]
    shown = repr((lines, session, resumed, superseded.value, closed.value))
    shown += await stored_text(redis, store)
    assert session.id in shown
    assert secret not in shown
