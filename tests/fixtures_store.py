"""`store`: one fresh cell with a manual clock, on every kind of server.

store.tick(ms) moves time; store.log() reads every event; store.timers() fires what is due.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cache, lru_cache
from typing import Any

import msgspec
import pytest_asyncio

from eventsched.errors import Refused
from eventsched.schema import codec
from eventsched.schema.deliveries import Delivery, delivery_of
from eventsched.schema.events import Data, Event, Text
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import named_fields_of
from eventsched.store.session_commands import Chunk, Finalize, Receipt, SessionGrant, hash_secret
from eventsched.store.transport import RedisTransport, Transport

START_MS = 1_000_000
SECRET = "5ec4e7" + "0" * 26
"""The resume secret of every session that a test opens by `TimedStore.open`."""
SECRET_SHA1 = hash_secret(SECRET)


class TimedStore(Store):
    """A store whose clock is moved by hand, with shorthands that tests read well with."""

    def __init__(self, transport: Transport, cell: str) -> None:
        self.at_ms = START_MS
        super().__init__(transport, cell, now_ms=lambda: self.at_ms)

    def tick(self, ms: int) -> int:
        self.at_ms += ms
        return self.at_ms

    async def log(self, *types: str) -> list[Event]:
        """Every event of the log, or those of the given types."""
        entries = await self.read_range(self.keys.log, "-", "+", 100_000)
        events = [_decoded(entry_id, tuple(fields)) for entry_id, fields in entries]
        return [event for event in events if not types or event.type in types]

    async def deliveries(self) -> list[tuple[Event, Delivery]]:
        """Every event that delivers an outcome, with the delivery."""
        deliveries = [(event, delivery_of(event.data)) for event in await self.log()]
        return [(event, delivery) for event, delivery in deliveries if delivery is not None]

    async def types(self) -> list[str]:
        return [event.type for event in await self.log()]

    async def timers(self, calls_max: int = 1_000) -> int:
        """Fire until nothing more is due now."""
        fired = 0
        for _ in range(calls_max):
            reply = await self.fire_timers()
            fired += reply.fired
            if reply.next_ms is None or reply.next_ms > reply.now_ms:
                return fired
        raise AssertionError(f"timers are still due after {calls_max} calls")

    async def finalize_utterance(
        self, session: str, epoch: int, utterance: int, *, traceparent: str = ""
    ) -> Receipt:
        """One alone; raises its refusal."""
        asked = Finalize(session=session, epoch=epoch, utterance=utterance, traceparent=traceparent)
        (reply,) = await self.finalize_utterances([asked])
        if isinstance(reply, Refused):
            raise reply
        return reply

    async def dispatch(self) -> int:
        """Dispatch until `work` is empty."""
        jobs = 0
        while True:
            reply = await self.dispatch_jobs()
            jobs += reply.jobs
            if not reply.left:
                return jobs

    async def open(self, name: str = "s1", **given: Any) -> SessionGrant:
        asked: dict[str, Any] = {
            "name": name,
            "token": f"token-{name}",
            "secret_sha1": SECRET_SHA1,
            "tenant": "acme",
            "source": "en",
            "targets": ["es"],
            "features": [],
            "features_hash": "none",
            "encoding": "pcm16",
            "sample_rate": 16_000,
            "priority": 1,
            "room": "",
            "listen_language": "",
            "traceparent": "",
        }
        return await self.open_session(**asked | given)

    async def resume(self, session: str, token: str) -> SessionGrant:
        """Resume a session of `open` with its secret."""
        return await self.resume_session(session, SECRET, token)

    async def say(
        self, session: SessionGrant, seq: int, *, ms: int = 100, end_of_utterance: bool = False
    ) -> Receipt:
        """Append one chunk of `ms` milliseconds; its refusal is raised."""
        payload = bytes([seq % 251]) * (ms * 32)
        chunk = Chunk(
            session=session.session,
            epoch=session.epoch,
            seq=seq,
            ms=ms,
            payload=payload,
            end_of_utterance=end_of_utterance,
        )
        (reply,) = await self.append_audio([chunk])
        if isinstance(reply, Refused):
            raise reply
        assert isinstance(reply, Receipt)
        return reply

    async def join(self, name: str = "n1", **given: Any) -> NodeGrant:
        asked: dict[str, Any] = {
            "node": self.keys.full(name),
            "token": f"token-{name}",
            "sources": ["en"],
            "targets": ["es"],
            "features": [],
            "slots": 2,
            "version": "",
        }
        return await self.register_node(**asked | given)

    async def inbox(self, node: NodeGrant) -> list[dict[str, Any]]:
        """What is in the node's inbox: `t`, `j`, the fields of `d`, and `b`."""
        name = node.node.partition(".")[2]
        entries = await self.read_range(self.keys.inbox(name), "-", "+", 10_000)
        return [_message(fields) for _, fields in entries]

    async def out(self, session: SessionGrant) -> list[dict[str, Any]]:
        """What the session's listeners have heard so far."""
        name = session.session.partition(".")[2]
        entries = await self.read_range(self.keys.outbox(name), "-", "+", 10_000)
        return [_message(fields) for _, fields in entries]

    async def partials(self, session: SessionGrant) -> list[dict[str, Any]]:
        """The partial results that wait for the session's listeners."""
        name = session.session.partition(".")[2]
        entries = await self.read_range(self.keys.partials(name), "-", "+", 10_000)
        return [_message(fields) for _, fields in entries]

    async def answer(self, node: NodeGrant, message: dict[str, Any], **given: Any) -> None:
        """The node's result for an assignment; its refusal is raised."""
        asked: dict[str, Any] = {
            "job": message["j"],
            "attempt": message["attempt"],
            "status": "ok",
            "body": codec.encode_text(Text(source_text="hi", text="hola")),
        }
        (reply,) = await self.record_results(node.node, node.epoch, [NodeResult(**asked | given)])
        if reply is not None:
            raise reply


@lru_cache(maxsize=10_000)
def _decoded(entry_id: str, fields: tuple[bytes, ...]) -> Event:
    """The event of an entry; every field that the script wrote is in the schema."""
    event, data = codec.decode(entry_id, fields), fields[15]
    unknown = set(msgspec.json.decode(data)) - _field_names(type(event.data))
    assert not unknown, f"{event.type} has no {sorted(unknown)}: eventsched/schema/events.py"
    return event


@cache
def _field_names(struct: type[Data]) -> frozenset[str]:
    return frozenset(field.encode_name for field in msgspec.structs.fields(struct))


def _message(fields: Sequence[bytes]) -> dict[str, Any]:
    named = named_fields_of(fields)
    data: dict[str, Any] = msgspec.json.decode(named.pop("d"))
    return {k: v if k in ("a", "b") else v.decode() for k, v in named.items()} | data


@pytest_asyncio.fixture
async def store(redis: Client, cell: str) -> AsyncIterator[TimedStore]:
    """A fresh cell at START_MS with the default settings."""
    store = TimedStore(RedisTransport(redis, redis), cell)
    await store.configure_cell(msgspec.to_builtins(Settings()), overwrite=False, manual_clock=True)
    yield store
