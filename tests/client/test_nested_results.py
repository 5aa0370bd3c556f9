"""A stored result or record that is nested too deep stops no reader but its own."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

import eventsched
import projections
from eventsched.audit.verify import Verifier
from eventsched.client.client import Client
from eventsched.client.outbox_entry import ErrorData, parse_error
from eventsched.client.results import encode_result
from eventsched.errors import UnreadableRecord
from eventsched.history.dead_letters import _lacks
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.roles.refold import _Context, _context
from eventsched.roles.supervisor import error_line
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import NESTING_MAX
from projections.session import Sessions
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.stream_entries import LOG_BODY, OUTBOX_BODY, replace_value
from tests.systems import SECOND, WITHIN_S

CHUNK = SECOND[:3_200]
GOOD = encode_result(eventsched.Result(text="hola"), None, 0, "es")[0]


def nested(depth: int) -> bytes:
    """A text with a field that nobody knows, of this number of levels."""
    return b"\x81\xa1x" + b"\x91" * (depth - 2) + b"\x90"


def views_of(store: TimedStore) -> ProjectionStore:
    return ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)


async def fold(store: TimedStore) -> None:
    projector = Projector(views_of(store), projections.core)
    while (await projector.step()).state != "idle":
        pass
    await projector.release()


@pytest.mark.parametrize("depth", [NESTING_MAX + 1, 2_000])
async def test_a_result_that_is_nested_too_deep_is_unreadable_and_stops_nobody(
    client: Client, store: TimedStore, redis: Any, depth: int
) -> None:
    """No function stores such a result; a program that has the server's URL can write it."""
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        await session.append(CHUNK, end_of_utterance=True)
        await session.append(CHUNK, end_of_utterance=True)
        node = await store.join()
        await store.dispatch()
        first, second = await store.inbox(node)
        await store.send_partials(node.node, node.epoch, [(first["j"], 1, nested(depth))])
        await store.answer(node, first, body=GOOD)
        await store.answer(node, second, body=GOOD)
        outbox = store.keys.outbox(name_of(session.id))
        await replace_value(redis, outbox, 0, OUTBOX_BODY, nested(depth))
        delivered = (await store.types()).index("ResultRecorded")
        await replace_value(redis, store.keys.log, delivered, LOG_BODY, nested(depth))
        with anyio.fail_after(WITHIN_S), capture_logs() as lines:
            results = session.results(partials=True)
            assert (await next_of(eventsched.Partial, results)).is_unreadable
            received = [await next_result(results), await next_result(results)]
    assert [(each.text, each.is_unreadable) for each in received] == [(None, True), ("hola", False)]
    assert {line["event"] for line in lines} == {"text not readable"}
    await fold(store)
    dead = await store.read_range(store.keys.dead_letters, "-", "+", 10)
    assert len(dead) == 1, "the group view skips the event that has no readable text"
    report = await Verifier(views_of(store), projections.core).run()
    assert report.violations == []


def test_the_error_of_a_failed_outcome_that_is_nested_too_deep_is_none() -> None:
    for depth in (NESTING_MAX, 5_000):
        levels = b"[" * depth + b"]" * depth
        assert parse_error(b'{"error_type":"ValueError","more":%s}' % levels) is None
    assert parse_error(b'{"error_type":"ValueError"}') == ErrorData("ValueError")


def test_the_context_of_a_dead_letter_that_is_nested_too_deep_names_no_revision() -> None:
    deep = '{"revisions":' + "[" * 5_000 + "]" * 5_000 + "}"
    assert not _lacks(deep, "session", "3.1")
    assert _context(deep) == _Context()
    assert _lacks('{"revisions":{"session":"3.1"}}', "session", "3.1")


async def test_a_result_of_32_levels_is_read(client: Client, store: TimedStore, redis: Any) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
        await session.append(CHUNK, end_of_utterance=True)
        node = await store.join()
        await store.dispatch()
        (message,) = await store.inbox(node)
        await store.answer(node, message, body=GOOD)
        outbox = store.keys.outbox(name_of(session.id))
        await replace_value(redis, outbox, 0, OUTBOX_BODY, nested(NESTING_MAX))
        with anyio.fail_after(WITHIN_S):
            assert not (await next_result(session.results())).is_unreadable


async def test_a_record_that_is_nested_too_deep_is_named_with_its_remedy(
    client: Client, store: TimedStore
) -> None:
    async with client.session("acme", "en", ["es"]) as session:
        session.detach()
    await fold(store)
    name = session.id.partition(".")[2]
    key = store.keys.view("session", f"{Sessions.version}.1", name)
    assert await store.read_hash(key)
    await store.transport.command("HSET", key, "v", nested(2_000), key=key)
    report = await Verifier(views_of(store), projections.core).run()
    assert [(each.invariant, each.where) for each in report.violations] == [
        ("I6", f"view:session:{name}")
    ]
    async with client.session("acme", "en", ["es"]) as other:
        other.detach()
    await store.resume_session(session.id, session.resume_secret, "again")
    with pytest.raises(UnreadableRecord) as unreadable:
        await fold(store)
    assert "eventsched rebuild session" in error_line(unreadable.value)
