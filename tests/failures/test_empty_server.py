"""The server comes back empty under roles, a node and a producer that continue."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

import eventsched
from eventsched.server.testing import LocalServer
from tests.failures.programs import Programs, ask
from tests.systems import SECOND, is_registered, until


@pytest.mark.parametrize("how", ["killed", "flushed"])
async def test_a_server_that_comes_back_empty_is_configured_again_and_work_goes_on(
    fleet: Programs, tmp_path: Path, how: str
) -> None:
    with LocalServer(tmp_path / "server") as server:
        members = [
            await fleet.role(server.url, role, "--set", "pause_ms=700")
            for role in ("dispatcher", "timer", "projector")
        ]
        node = fleet.start("tests.chaos.worker", server.url, "c0.gpu", "2", "es", "0", "1", "async")
        await node.wait_for("ready: ")
        async with eventsched.connect(server.url) as es:
            await until("the node serves", lambda: is_registered(es, "c0.gpu"))
            with anyio.fail_after(60), pytest.raises(eventsched.SessionUnknown):  # noqa: PT012
                async with es.session("acme", "en", ["es"]) as session:
                    await session.append(SECOND, end_of_utterance=True)
                    if how == "killed":
                        await anyio.to_thread.run_sync(server.kill)
                        await anyio.to_thread.run_sync(server.start)
                    else:
                        server.call("FLUSHALL")
                    while True:
                        await session.append(SECOND, end_of_utterance=True)
            settings = await es.stores["c0"].read_hash(es.stores["c0"].keys.settings)
            assert settings["pause_ms"] == "700"
            await until("the node serves again", lambda: is_registered(es, "c0.gpu"))
            with anyio.fail_after(60):
                async with es.session("acme", "en", ["es"]) as another:
                    results = another.results()
                    for _ in range(20):
                        await another.append(SECOND, end_of_utterance=True)
                    first = await anext(results)
            assert isinstance(first, eventsched.Result | eventsched.NoSpeech | eventsched.Failed)
        assert [each.process.poll() for each in (*members, node)] == [None] * 4
        verified = await anyio.to_thread.run_sync(ask, server.url, "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
