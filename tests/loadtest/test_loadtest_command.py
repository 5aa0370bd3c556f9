"""`eventsched loadtest` end to end: real processes, on every server, and on three masters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import anyio
import pytest

import eventsched
from eventsched.client.client import Client, running_client
from eventsched.loadtest import worker
from eventsched.loadtest.replay import ForeignNode, Replay
from eventsched.loadtest.rttm import SAMPLES, read_rttm
from eventsched.roles.runner import running
from eventsched.schema import codec
from eventsched.schema.events import RoomJoined
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.server_kinds import Server

FILE = SAMPLES / "standup.rttm"


def _trace(url: str, *more: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "eventsched.cli", "--url", url, "--json", "loadtest", str(FILE),
         "--speed", "10", *more],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _is_as_expected(report: dict[str, Any]) -> None:
    # mia 3 utterances, leo 1 and two that overlap, ida one of 11.3 s: two pieces.
    # mia hears en, leo es, ida en: the others of mia hear two languages, of leo one, of ida two.
    assert (report["sessions"], report["utterances"]) == (3, 7)
    assert report["jobs"] == report["jobs_expected"] == report["results"] == 3 * 2 + 2 * 1 + 2 * 2
    wrong = ("failed", "expired", "missing", "lost", "duplicates", "out_of_order", "truncated")
    assert [report[name] for name in wrong] == [0] * len(wrong)


def test_a_replay_comes_out_as_the_file_says(server: Server, cell: str) -> None:
    assert cell  # sweeps what the replay leaves
    _is_as_expected(_trace(server.url, "--nodes", "2"))


def test_progress_is_shown_without_a_terminal(own_server: LocalServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventsched.cli", "--url", own_server.url, "loadtest", str(FILE),
         "--speed", "50", "--nodes", "1"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    first = next(line for line in done.stderr.splitlines() if line.startswith("replaying"))
    assert first.startswith("replaying 1 conversations at 50x: time 0 of ")
    assert ", sessions 0 of 3, chunks 0, outcomes 0" in first


async def test_files_of_one_name_are_rooms_of_their_own(own_server: LocalServer) -> None:
    async with open_connection(own_server.url) as connection, running(connection):
        es = Client(connection.stores, url=connection.url)
        node = worker.make_node("held", slots=4, langs=["en", "es"], rtf=0.3, speed=50)
        async with running_client(es), anyio.create_task_group() as tasks:
            tasks.start_soon(node.run, es)
            twice = [*read_rttm(FILE, ["en", "es"]).conversations] * 2
            record = await Replay(es, twice, speed=50, run_id="twice").run()
            tasks.cancel_scope.cancel()
        rooms = await _rooms(connection.stores["c0"])
    assert (len(record.sessions), len(record.received)) == (2 * 3, 2 * (3 * 2 + 2 * 2 + 2 * 2))
    assert sorted(rooms.values()) == [3, 3]


async def _rooms(store: Store) -> Counter[str]:
    entries = await store.read_range(store.keys.log, "-", "+", 1_000)
    events = [codec.decode(entry_id, fields) for entry_id, fields in entries]
    return Counter(one.data.room for one in events if isinstance(one.data, RoomJoined))


async def test_a_foreign_node_that_answers_ends_the_replay_with_the_remedy(
    own_server: LocalServer,
) -> None:
    node = eventsched.Node("foreign", sources=["en"], targets=["en", "es"], slots=8)

    @node.job
    async def say(job: eventsched.Job) -> eventsched.Result:
        return eventsched.Result(text="something else")

    async with (
        open_connection(own_server.url) as connection,
        running(connection),
        running_client(Client(connection.stores, url=connection.url)) as es,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(node.run, es)
        replay = Replay(es, read_rttm(FILE, ["en"]).conversations, speed=50, run_id="foreign")
        with pytest.raises(BaseExceptionGroup) as failed:
            await replay.run()
        assert failed.group_contains(ForeignNode, match="another server")
        tasks.cancel_scope.cancel()


def test_a_replay_over_three_masters_and_three_cells(cluster3: LocalCluster) -> None:
    _is_as_expected(_trace(cluster3.url, "--nodes", "3", "--cells", "3"))
