"""`consumer-groups list` and `drop`: their output, the event, and one line for each refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
import redis
from anyio.to_thread import run_sync

from eventsched.cli.options import operator_name
from eventsched.schema.events import ConsumerGroupDropped
from eventsched.schema.keys import Keys
from eventsched.server.testing import LocalServer
from eventsched.store.connection import open_connection
from tests.cli.test_audit import CommandRunner

WHY = "the service is gone"


@pytest.fixture
def runner(capfd: pytest.CaptureFixture[str]) -> CommandRunner:
    return CommandRunner(capfd)


@pytest.fixture
def client(own_server: LocalServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_server.url) as client:
        yield client


async def created(url: str) -> None:
    """Two cells."""
    async with open_connection(url, cells=2):
        pass


async def run(runner: CommandRunner, url: str, *words: str) -> int:
    return await run_sync(partial(runner.run, "--url", url, "consumer-groups", *words))


def lines(runner: CommandRunner) -> list[dict[str, object]]:
    return [json.loads(line) for line in runner.out.splitlines()]


async def test_groups_are_listed_by_cell(
    own_server: LocalServer, client: redis.Redis, runner: CommandRunner
) -> None:
    await created(own_server.url)
    assert await run(runner, own_server.url, "list") == 0
    assert runner.out.splitlines() == [
        f"cell {cell}: no consumer group of another program" for cell in ("c0", "c1")
    ]
    client.xgroup_create(Keys("c1").log, "billing", "0", mkstream=True)
    assert await run(runner, own_server.url, "list") == 0
    first, second, *shown = runner.out.splitlines()
    assert (first, second.strip()) == ("cell c0: no consumer group of another program", "cell c1")
    (head, row) = [line for line in shown if line.strip(" ─")]
    assert head.split()[:3] == ["CONSUMER", "GROUP", "POSITION"]
    assert row.split() == ["billing", "0-0", "0", "0", "–", "–"]  # noqa: RUF001
    assert await run(runner, own_server.url, "list", "--json") == 0
    (line,) = lines(runner)
    assert (line["cell"], line["group"], line["lag"], line["idle_ms"]) == ("c1", "billing", 0, None)


async def test_a_group_is_dropped_in_each_cell_with_the_name_of_the_user(
    own_server: LocalServer, client: redis.Redis, runner: CommandRunner
) -> None:
    await created(own_server.url)
    for cell in ("c0", "c1"):
        client.xgroup_create(Keys(cell).log, "billing", "0", mkstream=True)
    words = ("drop", "billing", "--why", WHY, "--json")
    assert await run(runner, own_server.url, *words, "--cell", "c1") == 0
    assert lines(runner) == [{"cell": "c1", "group": "billing", "outcome": "dropped"}]
    assert await run(runner, own_server.url, *words) == 0
    assert [line["outcome"] for line in lines(runner)] == ["dropped", "absent"]
    async with open_connection(own_server.url) as connection:
        for store in connection.stores.values():
            ((_, fields),) = await store.read_range(store.keys.log, "-", "+", 10)
            data = json.loads(fields[fields.index(b"d") + 1])
            assert data.pop("by") == operator_name()
            assert data == {"group": "billing", "position": "0-0", "why": WHY}
            assert fields[1].decode() == ConsumerGroupDropped.__name__


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("drop", "billing"), "--why: no reason is given"),
        (("drop", "billing", "--why", " "), "--why: no reason is given"),
        (("drop", "core", "--why", WHY), "NAME: core is a group of the system"),
        (("drop", "archive", "--why", WHY), "group"),
        (("drop", "billing", "--why", "w" * 501), "why"),
        (("drop", "billing", "--why", WHY, "--cell", "c9"), "--cell: no cell 'c9'"),
    ],
)
async def test_what_is_not_acceptable_is_one_line_and_drops_nothing(
    own_server: LocalServer,
    client: redis.Redis,
    runner: CommandRunner,
    words: tuple[str, ...],
    message: str,
) -> None:
    await created(own_server.url)
    client.xgroup_create(Keys("c0").log, "billing", "0", mkstream=True)
    assert await run(runner, own_server.url, *words) == 1
    assert runner.out == ""
    assert message in runner.err
    assert runner.err.count("\n") == 1
    assert len(client.xinfo_groups(Keys("c0").log)) == 1
