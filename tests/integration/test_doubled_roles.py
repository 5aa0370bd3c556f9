"""Two sessions, three nodes, every role twice: each utterance has one outcome, verify is clean."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

import eventsched
from eventsched.audit.verify import Verifier
from eventsched.client.client import Client
from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.runner import running
from eventsched.store.client import check_server, open_client
from eventsched.store.connection import Connection
from eventsched.store.transport import RedisTransport
from tests.server_kinds import Server
from tests.systems import SECOND, serving, system

UTTERANCES = 6


async def test_doubled_roles_do_each_thing_once(server: Server, cell: str) -> None:
    async with system(server.url, cell) as es:
        client = await open_client(server.url)
        twice = Connection(
            server.url, await check_server(client), RedisTransport(client, client), dict(es.stores)
        )
        async with running(twice), serving(es, *_nodes(cell)):
            outcomes_of_sessions: list[Sequence[str]] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_talk, es, outcomes_of_sessions)
                tasks.start_soon(_talk, es, outcomes_of_sessions)
                assert await _violations(es, cell) == []
            assert outcomes_of_sessions == [["result"] * UTTERANCES] * 2
            assert await _violations(es, cell) == []
        await client.aclose()


def _nodes(cell: str) -> list[eventsched.Node]:
    nodes = [
        eventsched.Node(f"{cell}.n{number}", sources=["en"], targets=["es"]) for number in range(3)
    ]
    for node in nodes:
        node.job(_answer)
    return nodes


async def _answer(job: eventsched.Job) -> eventsched.Result:
    return eventsched.Result(text=f"{len(await job.audio())} bytes")


async def _talk(es: Client, outcomes_of_sessions: list[Sequence[str]]) -> None:
    async with es.session("acme", "en", ["es"]) as session:
        for _ in range(UTTERANCES):
            await session.append(SECOND, end_of_utterance=True)
        outcomes: list[str] = []
        with anyio.fail_after(30):
            async for outcome in session.results():
                outcomes.append(outcome.outcome)
                if len(outcomes) == UTTERANCES:
                    break
        outcomes_of_sessions.append(outcomes)


async def _violations(es: Client, cell: str) -> list[str]:
    core = load_core()
    report = await Verifier(ProjectionStore(es.stores[cell].transport, cell), core).run()
    return [str(violation) for violation in report.violations]
