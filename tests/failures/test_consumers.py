"""Consumers die, freeze and wake up beside their successors: nothing is lost, nothing twice."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from eventsched.projection.store import ProjectionStore
from eventsched.schema import codec
from eventsched.schema.events import Event
from eventsched.schema.ids import parse_id
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from eventsched.store.session_commands import Chunk, SessionGrant
from tests.failures.programs import Program, Programs, ask
from tests.fixtures_store import SECRET_SHA1
from tests.systems import until

TAKEOVER_S = 2.0


# --- the projector --------------------------------------------------------------------------------


async def test_a_standby_takes_over_within_two_seconds_after_the_active_projector_is_killed(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url) as store:
        async with _speaking(store):
            active = await _holding(own_server.url, fleet, store)
            await fleet.role(own_server.url, "projector")
            await _until_it_folds(store, "views follow")
            active.kill()
            killed = time.monotonic()
            last = await store.last_id(store.keys.log)
            await until("the standby folds on", lambda: _has_folded(store, last))
            assert time.monotonic() - killed < TAKEOVER_S
        await until("all is folded", lambda: _is_folded(store))
        _verify(own_server.url)


async def test_a_projector_suspended_beyond_its_lease_saves_nothing_when_it_resumes(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url) as store:
        async with _speaking(store):
            first = await _holding(own_server.url, fleet, store)
            second = await fleet.role(own_server.url, "projector")
            await _replace_frozen(store, first, second)
            await _replace_frozen(store, second, first)
        await until("all is folded", lambda: _is_folded(store))
        _verify(own_server.url)


async def _replace_frozen(store: Store, sleeper: Program, other: Program) -> None:
    """`sleeper` has the lease, is suspended and replaced, and loses its lease when it resumes."""
    epoch, losses = await _epoch(store), sleeper.output.count("lease lost")
    sleeper.freeze()
    await until("the other has the lease", lambda: _is_beyond(store, epoch))
    await _until_it_folds(store, "the other folds")
    new_epoch = await _epoch(store)
    sleeper.wake()
    await until("the sleeper is fenced", lambda: sleeper.output.count("lease lost") > losses)
    await _until_it_folds(store, "views follow")
    assert await _epoch(store) == new_epoch, "the other still has the lease"
    assert other.process.poll() is None


# --- the dispatcher and the timer ------------------------------------------------------------


@pytest.mark.parametrize("role", ["dispatcher", "timer"])
async def test_a_second_process_does_all_the_work_if_the_first_is_killed_or_suspended(
    own_server: LocalServer, fleet: Programs, role: str
) -> None:
    """Of two processes, each is killed or suspended in turn; the other continues in two seconds."""
    async with _connected(own_server.url, queue_timeout_ms=300) as store:
        if role == "timer":
            await fleet.role(own_server.url, "dispatcher")
        first = await fleet.role(own_server.url, role)
        second = await fleet.role(own_server.url, role)
        grant = await opened(store)
        event_type = "JobQueued" if role == "dispatcher" else "JobFailed"
        await say(store, grant, 0)
        await _until_logged(store, event_type, 1)
        first.freeze()
        await say(store, grant, 1)
        await _until_logged(store, event_type, 2)
        first.wake()
        second.kill()
        await say(store, grant, 2)
        await _until_logged(store, event_type, 3)
        assert first.process.poll() is None
        await fleet.role(own_server.url, "projector")
        await until("all is folded", lambda: _is_folded(store))
        _verify(own_server.url)


async def test_dispatchers_that_race_for_the_same_work_create_each_job_once(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url, queue_timeout_ms=60_000) as store:
        async with _speaking(store):
            racers = [await fleet.role(own_server.url, "dispatcher") for _ in range(3)]
            await fleet.role(own_server.url, "projector")
            for _ in range(6):
                racers[0].freeze()
                await anyio.sleep(0.05)  # sleeps: frozen for so long, wherever it is caught
                racers[0].wake()
                racers = [*racers[1:], racers[0]]
        jobs = [event.job for event in await _log(store) if event.type == "JobQueued"]
        assert len(jobs) == len(set(jobs)) > 10
        await until("all is folded", lambda: _is_folded(store))
        _verify(own_server.url)


# --- poison ---------------------------------------------------------------------------------------


async def test_poison_entries_become_dead_letters_and_all_others_are_processed(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with _connected(own_server.url) as store:
        await fleet.role(own_server.url, "dispatcher", "timer")
        await fleet.role(own_server.url, "projector")
        grant = await opened(store)
        own_server.call("XADD", store.keys.dispatch, "*", "k", "utterance", "d", "{")
        own_server.call("XADD", store.keys.log, "*", *_strange())
        await say(store, grant, 0)
        await _until_logged(store, "JobQueued", 1)
        await until("both are dead letters", lambda: _has_dead_letters(store, 2))
        await until("all is folded", lambda: _is_folded(store))
        listed = [json.loads(line) for line in _asked(own_server.url, "dead-letters").splitlines()]
        assert [letter["source"] for letter in listed] == ["dispatch", "log"]
        assert "no line of a session" in listed[0]["reason"]
        assert "SomethingNew" in listed[1]["reason"]
        assert not any(letter["partial"] for letter in listed)


def _strange() -> list[str]:
    fields = {"t": "SomethingNew", "v": "1", "s": "", "j": "", "n": "", "c": "", "tp": ""}
    return [part for pair in (fields | {"d": "{}", "b": ""}).items() for part in pair]


# --- helpers --------------------------------------------------------------------------------------


@asynccontextmanager
async def _connected(url: str, **settings: int) -> AsyncIterator[Store]:
    async with open_connection(url, settings=settings) as connection:
        yield connection.stores["c0"]


@asynccontextmanager
async def _speaking(store: Store) -> AsyncIterator[None]:
    """Append utterances continuously while the block runs."""
    async with anyio.create_task_group() as tasks:
        grant, is_over = await opened(store), anyio.Event()

        async def speak() -> None:
            for seq in range(100_000):
                await say(store, grant, seq)
                if is_over.is_set():
                    return
                await anyio.sleep(0.01)  # sleeps: the pace of the speech

        tasks.start_soon(speak)
        try:
            yield
        finally:
            is_over.set()


async def opened(store: Store, name: str = "s1") -> SessionGrant:
    return await store.open_session(
        name=name, token="t1", secret_sha1=SECRET_SHA1, tenant="acme",
        source="en", targets=["es"], features=[],
        features_hash="none", encoding="pcm16", sample_rate=16_000, priority=1, room="",
        listen_language="",
        traceparent="",
    )  # fmt: skip


async def say(store: Store, grant: SessionGrant, seq: int) -> None:
    chunk = Chunk(
        session=grant.session,
        epoch=grant.epoch,
        seq=seq,
        ms=100,
        payload=bytes(3_200),
        end_of_utterance=True,
    )
    (reply,) = await store.append_audio([chunk])
    assert not isinstance(reply, Exception), reply


async def _holding(url: str, fleet: Programs, store: Store) -> Program:
    """Start the only projector, which folds."""
    program = await fleet.role(url, "projector")
    await _until_it_folds(store, "it folds")
    return program


async def _epoch(store: Store) -> int:
    return int((await store.read_hash(store.keys.lease("core")))["epoch"])


async def _is_beyond(store: Store, epoch: int) -> bool:
    return await _epoch(store) > epoch


async def _has_folded(store: Store, log_id: str) -> bool:
    done = await ProjectionStore(store.transport, store.cell).checkpoint("core")
    return parse_id(done) >= parse_id(log_id)


async def _until_it_folds(store: Store, what: str) -> None:
    """Wait until all entries that are in the log now are folded."""
    last = await store.last_id(store.keys.log)
    await until(what, lambda: _has_folded(store, last))


async def _is_folded(store: Store) -> bool:
    return await _has_folded(store, await store.last_id(store.keys.log))


async def _log(store: Store) -> list[Event]:
    entries = await store.read_range(store.keys.log, "-", "+", 100_000)
    return [codec.decode(*one) for one in entries if b"SomethingNew" not in one[1]]


async def _until_logged(store: Store, kind: str, count: int) -> None:
    async def is_logged() -> bool:
        return sum(event.type == kind for event in await _log(store)) >= count

    await until(f"{count} {kind}", is_logged, within_s=TAKEOVER_S)


async def _has_dead_letters(store: Store, count: int) -> bool:
    dead = store.keys.dead_letters
    return int(await store.transport.command("XLEN", dead, key=dead)) == count


def _asked(url: str, *arguments: str) -> str:
    done = ask(url, "--json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _verify(url: str) -> None:
    report = json.loads(_asked(url, "verify"))
    assert report["clean"]
    assert report["cells"][0]["records"] > 0
