"""The disk of the archive is full: the role is failing, and goes on when there is space again."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

from eventsched.schema.codec import encode_text
from eventsched.schema.events import Text
from eventsched.schema.keys import name_of
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.replies import fields_of
from tests.failures.programs import Program, Programs
from tests.failures.test_consumers import opened, say
from tests.failures.test_lost_tail import asked, is_archived, is_running
from tests.systems import until

FILE_BYTES_MAX = 100_000
"""The limit of a file: a log line fits, a segment with three results does not."""


async def test_an_archiver_without_disk_space_is_failing_until_there_is_space(
    fleet: Programs, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    with LocalServer(tmp_path / "server") as server:
        roles = fleet.start(
            "eventsched.cli", "--url", server.url, "run", "dispatcher", "archiver",
            "--archive", str(archive), "--set", "archive_entries_max=10",
            "--set", "archive_window_ms=1000",
        )  # fmt: skip
        await roles.wait_for("ready: ")
        limit_files(roles, FILE_BYTES_MAX)
        async with open_connection(server.url, create=False) as connection:
            store = connection.stores["c0"]
            await answer_with_random_texts(store, 6)
            last = await store.last_id(store.keys.log)
            await until("the archiver is failing", lambda: is_failing(server.url, archive))
            (archiver,) = [
                each for each in (await asked(server.url, "status"))["cells"][0]["roles"]
                if each["role"] == "archiver"
            ]  # fmt: skip
            assert (archiver["running"], archiver["failing"]) == (1, 1)
            assert "File too large" in archiver["error"]
            assert roles.process.poll() is None
            assert "cannot write to" in roles.output
            limit_files(roles, resource.RLIM_INFINITY)
            await until("the log is archived", lambda: is_archived(store, last), within_s=60)
            await until("nothing fails", lambda: is_running(server.url), within_s=60)
        assert roles.end() == 0


def limit_files(program: Program, size: int) -> None:
    """The program cannot write beyond this size of a file, as if the disk were full."""
    resource.prlimit(program.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def answer_with_random_texts(store: Store, utterances: int) -> None:
    """Speak, and report results whose texts no archive compresses."""
    node = await store.register_node(
        node=store.keys.full("n1"), token="n1", sources=["en"], targets=["es"], features=[],
        slots=utterances, version="",
    )  # fmt: skip
    grant = await opened(store, "s1")
    for seq in range(utterances):
        await say(store, grant, seq)
    jobs: list[str] = []

    async def are_dispatched() -> bool:
        jobs[:] = await assigned(store, node)
        return len(jobs) == utterances

    await until("the jobs are dispatched", are_dispatched)
    results = [
        NodeResult(
            job=job, attempt=1, status="ok", body=encode_text(Text(text=os.urandom(30_000).hex()))
        )
        for job in jobs
    ]  # fmt: skip
    assert await store.record_results(node.node, node.epoch, results) == [None] * utterances


async def assigned(store: Store, node: NodeGrant) -> list[str]:
    entries = await store.read_range(store.keys.inbox(name_of(node.node)), "-", "+", 100)
    return [fields_of(flat)[b"j"].decode() for _, flat in entries]


async def is_failing(url: str, archive: Path) -> bool:
    status: Any = await asked(url, "status", "--check", "--role", "archiver")
    expected = f"1 of 1 failing: ArchiveError: cannot write to {archive}"
    return any(expected in problem for problem in status["problems"])
