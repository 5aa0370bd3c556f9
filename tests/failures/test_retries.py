"""Retries that help: a broken node, beside a sound one and alone, with real processes."""

from __future__ import annotations

import json
from functools import partial

import anyio
from anyio.to_thread import run_sync

import eventsched
from eventsched.client.client import Client
from eventsched.schema.events import AttemptEnded, Event, JobQueued, NodeSuspended
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from tests.failures.programs import Program, Programs, ask
from tests.systems import SECOND, is_registered, until

ROLES = ("dispatcher", "projector", "timer")
WITHIN_S = 60.0


async def serve(es: Client, fleet: Programs, url: str, node: str) -> Program:
    """`eventsched node`, registered."""
    program = fleet.start(
        "eventsched.cli", "--url", url, "node", f"tests.failures.retry_nodes:{node}"
    )
    name = {"broken": "a-broken", "sound": "b-sound"}.get(node, node)
    await until(f"{name} serves", lambda: is_registered(es, f"c0.{name}"))
    return program


async def events(store: Store) -> list[Event]:
    entries = await store.read_range(store.keys.log, "-", "+", 10_000)
    return [eventsched.schema.codec.decode(entry_id, fields) for entry_id, fields in entries]


async def data_of(store: Store, kind: type) -> list[Event]:
    return [event for event in await events(store) if isinstance(event.data, kind)]


async def has(store: Store, kind: type) -> bool:
    return bool(await data_of(store, kind))


async def outcomes(session: eventsched.Session, count: int) -> list[eventsched.Outcome]:
    """The next outcomes of the session."""
    received: list[eventsched.Outcome] = []
    results = session.results()
    with anyio.fail_after(WITHIN_S):
        while len(received) < count:
            received.append(await anext(results))
    return received


async def test_a_broken_node_beside_a_sound_one_loses_no_job(
    own_server: LocalServer, fleet: Programs
) -> None:
    """The broken one is suspended, and `status`, `why` and `history` say why."""
    url = own_server.url
    await fleet.role(url, *ROLES)
    async with eventsched.connect(url) as es:
        await serve(es, fleet, url, "broken")
        await serve(es, fleet, url, "sound")
        async with es.session("a", "en", ["es"]) as first, es.session("b", "en", ["es"]) as second:
            for _ in range(8):
                for session in (first, second):
                    await session.append(SECOND, end_of_utterance=True)
            received = await outcomes(first, 8) + await outcomes(second, 8)
        assert [outcome.outcome for outcome in received] == ["result"] * 16
        (suspended, *_) = await data_of(es.stores["c0"], NodeSuspended)
        assert isinstance(suspended.data, NodeSuspended)
        assert (suspended.node, suspended.data.reason) == ("c0.a-broken", "ATTEMPTS_FAILED")
        (ended, *_) = await data_of(es.stores["c0"], AttemptEnded)
    status = await run_sync(partial(ask, url, "status"))
    assert "a-broken" in status.stdout
    assert "suspended" in status.stdout
    why = await run_sync(partial(ask, url, "why", ended.job))
    assert "GPU_LOST" in why.stdout
    assert "backoff" in why.stdout
    history = await run_sync(partial(ask, url, "history", "--node", "a-broken"))
    assert "ATTEMPTS_FAILED" in history.stdout


async def test_a_broken_node_alone_fails_a_job_after_three_backoffs(
    own_server: LocalServer, fleet: Programs
) -> None:
    url = own_server.url
    await fleet.role(url, *ROLES)
    async with eventsched.connect(url) as es:
        await serve(es, fleet, url, "broken")
        async with es.session("a", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            (outcome,) = await outcomes(session, 1)
        assert isinstance(outcome, eventsched.Failed)
        assert outcome.code == "GPU_LOST"
        ends = [event.ms for event in await data_of(es.stores["c0"], AttemptEnded)]
        assert len(ends) == 4
        assert all(
            later - earlier >= backoff_ms
            for earlier, later, backoff_ms in zip(ends, ends[1:], (100, 400, 1_600), strict=False)
        )
        assert not await has(es.stores["c0"], NodeSuspended)


async def test_a_backoff_outlives_the_processes_of_the_roles(
    own_server: LocalServer, fleet: Programs
) -> None:
    """All roles are killed while a job backs off; `status` shows it; others end the backoff."""
    url = own_server.url
    roles = await fleet.role(url, *ROLES)
    async with eventsched.connect(url) as es:
        await serve(es, fleet, url, "patient")
        async with es.session("a", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            await until("the job backs off", lambda: has(es.stores["c0"], JobQueued))
            roles.kill()
            done = await run_sync(partial(ask, url, "status", "--json"))
            (cell,) = json.loads(done.stdout)["cells"]
            assert [(row["jobs"], row["reason"]) for row in cell["waiting"]] == [
                (1, "retry_backoff")
            ]
            await fleet.role(url, *ROLES)
            (outcome,) = await outcomes(session, 1)
        assert isinstance(outcome, eventsched.Result)
        assert outcome.text == "attempt 2"
        (queued,) = await data_of(es.stores["c0"], JobQueued)
        assert isinstance(queued.data, JobQueued)
        assert queued.data.not_before_ms >= queued.ms + 3_000
