"""A user that may not write hashes changes nothing: its calls fail before their first write.

Otherwise a delivery could be in the log and not in the state of its session, and a timer would
deliver its number again (rule 25, ordered delivery).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from eventsched.errors import CommandRefused
from eventsched.schema.settings import Settings
from eventsched.store.client import Client, open_client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import SessionGrant
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents
from tests.scripts.jobs_of import assigned, logged
from tests.server_kinds import Server

GAP_MS = Settings().delivery_gap_timeout_ms


class Cell:
    """A cell with two running jobs, and the same cell for a user that may not run HSET."""

    def __init__(self, store: TimedStore, denied: TimedStore) -> None:
        self.store, self.denied = store, denied
        self.node: NodeGrant
        self.session: SessionGrant
        self.jobs: list[str]

    async def start(self) -> Cell:
        store = self.store
        self.node, self.session = await store.join(slots=4), await store.open("s1")
        for seq in range(2):
            await store.say(self.session, seq, end_of_utterance=True)
        await store.dispatch()
        self.jobs = [message["j"] for message in await assigned(store, self.node)]
        await store.say(self.session, 2)
        await store.say(await store.open("s2"), 0, end_of_utterance=True)  # not dispatched yet
        self.denied.at_ms = store.at_ms
        return self

    async def report(self, store: TimedStore, number: int) -> None:
        result = NodeResult(job=self.jobs[number], attempt=1, status="ok")
        assert await store.record_results(self.node.node, self.node.epoch, [result]) == [None]


@pytest.fixture
async def cell(store: TimedStore, redis: Client, server: Server) -> AsyncIterator[Cell]:
    user = store.cell
    await redis.execute_command(
        "ACL", "SETUSER", user, "reset", "on", ">pw", "~*", "+@all", "-hset"
    )
    client = await open_client(server.url.replace("://", f"://{user}:pw@"))
    try:
        denied = TimedStore(RedisTransport(client, client), store.cell)
        yield await Cell(store, denied).start()
    finally:
        await client.aclose()
        await redis.execute_command("ACL", "DELUSER", user)


CALLS: dict[str, Callable[[Cell], Awaitable[Any]]] = {
    "append_audio": lambda cell: cell.denied.say(cell.session, 3, end_of_utterance=True),
    "finalize_utterances": lambda cell: cell.denied.finalize_utterance(cell.session.session, 1, 2),
    "close_session": lambda cell: cell.denied.close_session(cell.session.session, 1),
    "open_session": lambda cell: cell.denied.open("s3"),
    "resume_session": lambda cell: cell.denied.resume(cell.session.session, "again"),
    "dispatch_jobs": lambda cell: cell.denied.dispatch(),
    "register_node": lambda cell: cell.denied.join("n2"),
    "drain_node": lambda cell: cell.denied.drain_node(cell.node.node, 1, within_ms=1_000),
    "record_results": lambda cell: cell.report(cell.denied, 0),
    "extend_lease": lambda cell: cell.denied.extend_lease(
        cell.node.node, 1, job=cell.jobs[0], attempt=1, more_ms=60_000
    ),
    "fire_timers": lambda cell: cell.denied.fire_timers(),
}


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("name", CALLS)
async def test_rule_31_a_call_of_a_user_that_may_not_write_hashes_changes_nothing(
    cell: Cell, redis: Client, name: str
) -> None:
    cell.store.tick(120_000)  # every timer is due
    cell.denied.at_ms = cell.store.at_ms
    before, clock = await contents(redis, cell.store), await cell.store.read_clock()
    with pytest.raises(CommandRefused):
        await CALLS[name](cell)
    assert await contents(redis, cell.store) == before
    assert await cell.store.read_clock() == clock


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_rule_25_a_number_is_delivered_once_although_a_delivery_was_denied(
    cell: Cell,
) -> None:
    """The first result is denied, the second waits for it; then the gap timer fires."""
    with pytest.raises(CommandRefused):
        await cell.report(cell.denied, 0)
    await cell.report(cell.store, 1)
    for ms in (GAP_MS - 1, 1):
        cell.store.tick(ms)
        await cell.store.heartbeat_node(cell.node.node, cell.node.epoch, load=0, attempts=[])
        await cell.store.timers()
    ended = await logged(cell.store, "ResultDelivered", "ResultMissing")
    assert [(event.type, event.data.delivery_no) for event in ended[:2]] == [
        ("ResultMissing", 0),
        ("ResultDelivered", 1),
    ]
