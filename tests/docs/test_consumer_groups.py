"""The recipes of docs/consumer-groups.md run: a service in Python, and redis-cli alone."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventsched.client.client import Client
from tests.docs.test_docs import SNIPPET
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import finish_one, speak
from tests.systems import client_of

PAGE = (Path(__file__).parents[2] / "docs" / "consumer-groups.md").read_text()
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def lines_of(cell: str) -> list[list[str]]:
    """The words of each redis-cli line, for another cell than c0."""
    lines = re.findall(r"^redis-cli (.+)$", PAGE, re.MULTILINE)
    return [shlex.split(line.replace("{c0}", f"{{{cell}}}")) for line in lines]


async def log_with_a_result(store: TimedStore) -> list[str]:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    await finish_one(store, node)
    return [event.id for event in await store.log()]


async def test_five_lines_of_redis_cli_read_the_log_as_a_group(
    store: TimedStore, redis: Any
) -> None:
    ids = await log_with_a_result(store)
    create, read, acknowledge, claim, look = lines_of(store.cell)
    assert await redis.execute_command(*create)
    ((_, entries),) = await redis.execute_command(*read)
    assert [entry_id.decode() for entry_id, _ in entries] == ids
    assert {name.decode() for name in entries[0][1]} == {*"tvsjncdb", "tp"}
    await redis.execute_command(*[ids[0] if word == "ID" else word for word in acknowledge])
    assert (await redis.execute_command(*look))["pending"] == len(ids) - 1
    await redis.xclaim(store.keys.log, "billing", "gone", 0, ids[1:], idle=60_001, justid=True)
    _, claimed, *_ = await redis.execute_command(*claim)
    assert [entry_id.decode() for entry_id, _ in claimed] == ids[1:]


async def test_the_service_of_the_guide_gets_each_result(store: TimedStore) -> None:
    ids = await log_with_a_result(store)
    (snippet,) = SNIPPET.findall(PAGE)
    names: dict[str, Any] = {}
    exec(compile(snippet, "consumer-groups.md", "exec"), names)
    (recorded,) = await store.log("ResultRecorded")
    charged: list[tuple[str, str, str]] = []

    async def run(es: Client, tasks: Any) -> None:
        async def charge(cell: str, entry_id: str, job: str) -> None:
            charged.append((cell, entry_id, job))
            tasks.cancel_scope.cancel()

        await names["bill"](es, charge)

    async with client_of(store) as es, anyio.create_task_group() as tasks:
        tasks.start_soon(run, es, tasks)
    assert charged == [(store.cell, recorded.id, recorded.job)]
    assert recorded.id in ids
