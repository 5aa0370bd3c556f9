"""The slot of a cell moves to another server of the cluster while the cell is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import redis

import eventsched
from eventsched.client.client import Client
from eventsched.history.log import History
from eventsched.projection.store import ProjectionStore
from eventsched.schema import codec
from eventsched.schema.events import UtteranceFinalized
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store import library as lua_library
from eventsched.store.cell import Store
from tests.archive.archives import CORE
from tests.failures.programs import Programs, ask
from tests.failures.slot_moves import WITHIN_S, SlotMove, has_atomic_moves
from tests.systems import system, until

HALF_MOVED_S = 4.0
SPEAKERS = 4
PAUSE_S = 0.02
CHUNK = b"\1\2" * 1_600
"""100 ms of audio."""


class Speakers:
    """Sessions that speak without a pause until `stop`; each checks what it received."""

    def __init__(self, es: Client, count: int) -> None:
        self._es = es
        self._count = count
        self._stop = anyio.Event()
        self.appended: dict[str, int] = {}
        self.received: dict[str, list[int]] = {}

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(self._count):
                tasks.start_soon(self._speak)

    def stop(self) -> None:
        self._stop.set()

    async def _speak(self) -> None:
        async with anyio.create_task_group() as tasks:
            async with self._es.session("a", "en", ["es"]) as session:
                tasks.start_soon(self._listen, session)
                self.appended[session.id] = 0
                while not self._stop.is_set():
                    self.appended[session.id] += 1
                    with suppress(eventsched.ServerUnavailable):  # the audio counts as appended
                        await session.append(CHUNK, end_of_utterance=True)
                    await anyio.sleep(PAUSE_S)  # sleeps: the pace of speech
            await until("all is received", lambda: self._is_complete(session), WITHIN_S)
            tasks.cancel_scope.cancel()

    async def _listen(self, session: eventsched.Session) -> None:
        received = self.received[session.id] = []
        async for outcome in session.results():
            assert not isinstance(outcome, eventsched.Truncated | eventsched.Partial)
            received.append(outcome.utterance)

    def _is_complete(self, session: eventsched.Session) -> bool:
        return len(self.received[session.id]) >= self.appended[session.id]

    def check(self) -> None:
        """Each utterance has one outcome, in order."""
        assert len(self.appended) == self._count
        for session, count in self.appended.items():
            assert count > 0
            assert self.received[session] == list(range(count))


async def _finalized(store: Store) -> list[tuple[str, int]]:
    entries = await store.read_range(store.keys.log, "-", "+", 100_000)
    events = [codec.decode(*entry) for entry in entries]
    return [
        (event.session, event.data.utterance)
        for event in events
        if isinstance(event.data, UtteranceFinalized)
    ]


@pytest.mark.parametrize("way", ["half", "key by key", "atomic"])
async def test_while_a_slot_moves_nothing_is_stored_twice_and_no_process_ends(
    own_cluster: LocalCluster, fleet: Programs, way: str
) -> None:
    """The slot moves to another server and back, under roles, a node and producers."""
    url, move = own_cluster.url, SlotMove(own_cluster, "c0")
    roles = await fleet.role(url, "dispatcher", "projector", "timer")
    node = fleet.start("tests.chaos.worker", url, "c0.gpu", "4", "es", "0", "1", "async")
    await node.wait_for("ready: ")
    async with eventsched.connect(url) as es:
        store, speakers = es.stores["c0"], Speakers(es, SPEAKERS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(speakers.run)
            await until("all speak", lambda: len(speakers.appended) == SPEAKERS)
            for _ in range(2):
                await _move(move, way)
                move.back()
                before = await store.last_id(store.keys.log)
                await until("the cell is in use", partial(_has_more, store, before))
            speakers.stop()
        speakers.check()
        finalized = await _finalized(store)
    assert sorted(finalized) == sorted(set(finalized))
    assert len(finalized) == sum(speakers.appended.values())
    assert roles.process.poll() is node.process.poll() is None
    done = await anyio.to_thread.run_sync(ask, url, "verify")
    assert done.returncode == 0, done.stdout + done.stderr


async def _move(move: SlotMove, way: str) -> None:
    if way == "atomic" and has_atomic_moves(move.source):
        await anyio.to_thread.run_sync(move.atomic)
        return
    await anyio.to_thread.run_sync(move.begin)
    if way == "half":
        keys, refusals = move.key_count(), move.refusals
        await anyio.to_thread.run_sync(move.move_keys, keys // 2)
        assert 0 < move.key_count() < keys
        await anyio.sleep(HALF_MOVED_S)  # sleeps: the move rests for so long
        assert move.refusals > refusals
    await anyio.to_thread.run_sync(move.end)


async def _has_more(store: Store, before: str) -> bool:
    return await store.last_id(store.keys.log) != before


async def test_no_function_starts_while_its_slot_is_moved(own_cluster: LocalCluster) -> None:
    async with system(own_cluster.url, "c0", roles=()) as es:
        store = es.stores["c0"]
        async with es.session("a", "en", ["es"]) as session:
            session.detach()
            for _ in range(30):
                await session.append(CHUNK, end_of_utterance=True)
    move = SlotMove(own_cluster, "c0")
    for server in (move.source, move.target):
        server.call("FUNCTION", "LOAD", "REPLACE", lua_library.library().source)
    before = _contents(move.source) | _contents(move.target)
    move.begin()
    while move.key_count():
        _assert_refused(move, store.keys.declared)
        move.move_keys(2)
    _assert_refused(move, store.keys.declared)
    assert _contents(move.source) | _contents(move.target) == before
    move.end()
    call = ("FCALL", lua_library.library().function("scan_ids"), 2, *store.keys.declared)
    assert move.target.call(*call, "", "session", "0")[1] == [session.id.partition(".")[2]]


def _assert_refused(move: SlotMove, declared: Sequence[str]) -> None:
    """Neither server starts a function, with any client that follows redirections or does not."""
    for name in lua_library.names():
        function = lua_library.library().function(name)
        call: list[str | int] = ["FCALL", function, 2, *declared, ""]
        with pytest.raises((redis.exceptions.AskError, redis.exceptions.TryAgainError)):
            move.source.call(*call)
        with _asking(move.target) as ask, pytest.raises(redis.exceptions.TryAgainError):
            ask(*call)


@contextmanager
def _asking(server: LocalServer) -> Iterator[Callable[..., Any]]:
    """Sends ASKING before each command, on the same connection."""
    with redis.Redis.from_url(server.url, single_connection_client=True) as client:

        def ask(*command: str | bytes | int) -> Any:
            client.execute_command("ASKING")
            return client.execute_command(*command)

        yield ask


def _contents(server: LocalServer) -> dict[bytes, bytes]:
    """Every key of the server."""
    with _asking(server) as ask:
        return {key: ask("DUMP", key) for key in ask("KEYS", "*")}


async def test_a_read_of_one_key_is_right_at_each_step_of_a_move(
    own_cluster: LocalCluster,
) -> None:
    async with system(own_cluster.url, "c0", roles=()) as es:
        connection = es.stores["c0"]
        store = ProjectionStore(connection.transport, "c0")
        async with es.session("a", "en", ["es"]) as session:
            session.detach()
            for _ in range(20):
                await session.append(CHUNK, end_of_utterance=True)
        last = await store.last_id(store.keys.log)
        history = History(store, None, CORE)
        logged = [entry async for entry in history.entries(upto=last)]
        assert len(logged) > 20
        move = SlotMove(own_cluster, "c0")
        await anyio.to_thread.run_sync(move.begin)
        while move.key_count():
            await anyio.to_thread.run_sync(move.move_keys, 3)
            assert [entry async for entry in history.entries(upto=last)] == logged
        await anyio.to_thread.run_sync(move.end)
        assert [entry async for entry in history.entries(upto=last)] == logged
