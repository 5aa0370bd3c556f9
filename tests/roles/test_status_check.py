"""`eventsched status --check`: what needs a person, and the health check of one role."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync

from eventsched.history.problems import problems_of
from eventsched.history.status import read_status
from eventsched.server.testing import LocalServer
from eventsched.store.client import Client, check_server
from eventsched.store.connection import Connection, open_connection
from eventsched.store.role_commands import RolePresence
from tests.failures.programs import ask, programs
from tests.fixtures_store import TimedStore
from tests.scripts.jobs_of import assigned, reply, speak
from tests.scripts.test_suspensions import busy, unreadable
from tests.systems import until

ALL = [
    RolePresence("dispatcher", "", "running"),
    RolePresence("projector", "core", "running"),
    RolePresence("timer", "", "running"),
]


async def problems(store: TimedStore, redis: Client) -> list[str]:
    facts = await check_server(redis)
    connection = Connection("", facts, store.transport, {store.cell: store})  # type: ignore[arg-type]
    return [
        line.removeprefix(f"{store.cell}: ") for line in problems_of(await read_status(connection))
    ]


async def test_check_names_what_needs_a_person(store: TimedStore, redis: Client) -> None:
    await store.renew_presence("p1", 0, ALL)
    assert await problems(store, redis) == []
    store.tick(15_001)
    await store.renew_presence(
        "p1", 1, [*ALL[:1], RolePresence("timer", "", "failing", "KeyError")]
    )
    assert await problems(store, redis) == [
        "projector core: none runs: views are not updated",
        "timer: 1 of 1 failing: KeyError",
    ]
    await store.renew_presence("p1", 1, ALL)
    await store.set_backpressure("memory", is_active=True, seen=9, limit=8)
    await redis.xadd(store.keys.dead_letters, {"reason": "broken", "from": "dispatch"})
    assert await problems(store, redis) == [
        "backpressure (memory): producers are refused",
        "1 dead letter, newest: broken",
    ]


async def test_a_suspended_node_and_a_late_consumer_need_a_person(
    store: TimedStore, redis: Client
) -> None:
    node = await store.join("n1", features=["tts"])
    await speak(store, "s1", features=["tts"], features_hash="0123456789abcdef")
    await store.dispatch()
    (message,) = await assigned(store, node)
    missing: dict[str, Any] = {
        "status": "failed", "code": "MODEL_NOT_AVAILABLE", "feature": "tts", "retryable": True,
    }  # fmt: skip
    await reply(store, node, message["j"], **missing)
    store.tick(10_001)
    await store.renew_presence("p1", 0, ALL)
    assert await problems(store, redis) == [
        "core is 10.00 s late",
        f"suspended for tts: {node.node}",
    ]


async def test_a_node_that_is_suspended_for_every_job_needs_a_person(
    store: TimedStore, redis: Client
) -> None:
    await busy(store, "n2")
    node = await store.join("n1", slots=1)
    await speak(store, "s1")
    await store.dispatch()
    await unreadable(store, node, 3)
    await store.renew_presence("p1", 0, ALL)
    assert f"suspended for every job: {node.node}" in await problems(store, redis)


async def test_jobs_that_no_node_serves_need_a_person(store: TimedStore, redis: Client) -> None:
    await speak(store, "s1")
    await store.dispatch()
    await store.renew_presence("p1", 0, ALL)
    assert await problems(store, redis) == ["1 job en → es wait: no node serves them"]


async def test_the_command_ends_with_one_until_the_role_runs(
    own_server: LocalServer, tmp_path: Path
) -> None:
    async with open_connection(own_server.url):
        pass
    check = ("status", "--check", "--role", "timer")
    missing = await run_sync(ask, own_server.url, *check)
    assert missing.returncode == 1
    assert missing.stdout.startswith("c0: timer: none runs: no deadline passes")
    with programs(tmp_path) as fleet:
        await fleet.role(own_server.url, "timer")

        async def is_ok() -> bool:
            return (await run_sync(ask, own_server.url, *check)).returncode == 0

        await until("the role is there", is_ok)
        whole = await run_sync(ask, own_server.url, "--json", "status", "--check")
        assert whole.returncode == 1
        assert json.loads(whole.stdout) == {
            "ok": False,
            "problems": [
                "c0: dispatcher: none runs: jobs wait in the dispatch queue",
                "c0: projector core: none runs: views are not updated",
            ],
        }
        status = await run_sync(ask, own_server.url, "status")
        assert status.returncode == 0
        assert "none runs: views are not updated" in " ".join(status.stdout.split())


@pytest.mark.parametrize("words", [("--role", "timer"), ("--check", "--role", "baker")])
async def test_a_role_that_is_none_is_refused(
    own_server: LocalServer, words: tuple[str, ...]
) -> None:
    done = await run_sync(ask, own_server.url, "status", *words)
    assert done.returncode != 0
    assert "--role" in done.stderr
