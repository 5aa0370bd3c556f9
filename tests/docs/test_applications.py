"""The recipes of docs/applications.md run: an ASGI application, and a session that moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventsched
from eventsched.roles.runner import ROLES, running
from eventsched.store.connection import open_connection
from tests.docs.test_docs import SNIPPET
from tests.server_kinds import Server
from tests.systems import serving
from tests.unit.speech_recordings import record, sentences

PAGE = Path(__file__).parents[2] / "docs" / "applications.md"
WITHIN_S = 60


def _names() -> dict[str, Any]:
    """Run the snippets of the page; return the names that they define."""
    names: dict[str, Any] = {}
    for snippet in SNIPPET.findall(PAGE.read_text()):
        exec(compile(snippet, PAGE.name, "exec"), names)
    return names


class Connection:
    """One connection of an ASGI server to the application."""

    def __init__(self, app: Any, kind: str) -> None:
        self._scope = {"type": kind}
        self._app = app
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def run(self) -> None:
        await self._app(self._scope, self._to_app.get, self._from_app.put)

    def send(self, kind: str, **fields: Any) -> None:
        self._to_app.put_nowait({"type": kind, **fields})

    async def receive(self) -> dict[str, Any]:
        return await self._from_app.get()


def _node() -> eventsched.Node:
    node = eventsched.Node("n", sources=["en"], targets=["es"])

    @node.job
    async def answer(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text=f"hola {job.utterance}")

    return node


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_the_application_starts_answers_and_shuts_down(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTSCHED_URL", server.url)
    app = _names()["app"]
    lifespan, socket = Connection(app, "lifespan"), Connection(app, "websocket")
    with anyio.fail_after(WITHIN_S):
        async with (
            open_connection(server.url) as connection,
            running(connection, list(ROLES)),
            eventsched.connect(server.url) as es,
            serving(es, _node()),
            anyio.create_task_group() as tasks,
        ):
            assert cell not in connection.cells
            tasks.start_soon(lifespan.run)
            lifespan.send("lifespan.startup")
            assert (await lifespan.receive())["type"] == "lifespan.startup.complete"
            over = anyio.Event()

            async def talk() -> None:
                await socket.run()
                over.set()

            tasks.start_soon(talk)
            socket.send("websocket.connect")
            assert (await socket.receive())["type"] == "websocket.accept"
            spoken = record(sentences(2)[:1], (300, 900), rate=16_000)
            socket.send("websocket.receive", bytes=spoken.pcm)
            assert (await socket.receive())["text"] == "hola 0"
            socket.send("websocket.disconnect")
            await over.wait()  # the server ends the connections before the application
            lifespan.send("lifespan.shutdown")
            assert (await lifespan.receive())["type"] == "lifespan.shutdown.complete"


async def test_a_server_that_is_away_fails_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EVENTSCHED_URL", f"unix://{tmp_path}/no-server")
    lifespan = Connection(_names()["app"], "lifespan")
    lifespan.send("lifespan.startup")
    with anyio.fail_after(WITHIN_S):
        await lifespan.run()
    assert (await lifespan.receive())["type"] == "lifespan.startup.failed"


@asynccontextmanager
async def served(server: Server, cell: str) -> AsyncIterator[eventsched.Client]:
    """A client of a server with all roles and a node."""
    async with (
        open_connection(server.url) as connection,
        running(connection, list(ROLES)),
        eventsched.connect(server.url) as es,
        serving(es, _node()),
    ):
        assert cell not in es.cells
        yield es


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_session_moves_to_another_process(
    server: Server, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = _names()
    with anyio.fail_after(WITHIN_S):
        async with served(server, cell) as es:
            async with es.session("acme", "en", ["es"]) as session:
                await session.append(bytes(3_200))
                session_id, secret = await names["leave"](session)
            await names["go_on"](es, session_id, secret)
            assert capsys.readouterr().out == "continue with chunk 1\n"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_program_reads_sessions_and_their_results(
    server: Server, cell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with anyio.fail_after(WITHIN_S):
        async with served(server, cell) as es:
            async with es.session("acme", "en", ["es"]) as session:
                await session.append(bytes(3_200), end_of_utterance=True)
                await session.close(wait=False)
                (result,) = [outcome async for outcome in session.results()]
            assert isinstance(result, eventsched.Result)
            await es.wait_for("session", result.log)
            await _names()["report"](es)
    about, said = capsys.readouterr().out.splitlines()
    assert about == f"{session.id} acme 100 0"
    assert said.endswith(":0:translation:es:none hola 0")
