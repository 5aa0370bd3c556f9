"""A server loses its last writes after the archiver has sealed them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from eventsched.schema.ids import parse_id
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import open_connection
from tests.archive.test_sealing import sums
from tests.failures.programs import Programs, ask
from tests.failures.test_consumers import opened, say
from tests.systems import until

ROLES = ("dispatcher", "timer", "projector", "archiver")


async def test_a_sealed_tail_that_the_log_lost_is_set_aside_and_archiving_continues(
    fleet: Programs, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    with LocalServer(tmp_path / "server") as server:
        roles = fleet.start(
            "eventsched.cli", "--url", server.url, "run", *ROLES, "--archive", str(archive),
            "--set", "archive_entries_max=10", "--set", "queue_timeout_ms=600000",
        )  # fmt: skip
        await roles.wait_for("ready: ")
        async with open_connection(server.url, create=False) as connection:
            store = connection.stores["c0"]
            await speak_until_sealed(store, "s1", segments=2)
            server.call("SAVE")
            saved = await archived_to(store)
            await speak_until_sealed(store, "s2", segments=2)
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            assert await archived_to(store) <= saved
            await until("the archiver is shown as failing", lambda: is_failing(server.url))
            assert roles.process.poll() is None
            assert roles.output.count("Traceback") >= 1
            listed = (await asked(server.url, "status"))["cells"][0]["roles"]
            assert [each["role"] for each in listed if each["failing"] or not each["running"]] == [
                "archiver"
            ]
            await speak(store, await opened(store, "s3"), 20)

            before = sums(archive)
            words = ("audit", "set-aside", "--archive", str(archive), "--why", "power loss")
            dry = await anyio.to_thread.run_sync(ask, server.url, *words)
            assert dry.returncode == 1
            assert "would be set aside" in dry.stdout
            assert sums(archive) == before
            done = await anyio.to_thread.run_sync(ask, server.url, *words, "--yes")
            assert (done.returncode, done.stderr) == (0, "")
            assert "are set aside" in done.stdout

            last = await store.last_id(store.keys.log)
            await speak(store, await opened(store, "s4"), 20)
            await until("the archive goes on", lambda: is_archived(store, last), within_s=60)
            await until("nothing fails", lambda: is_running(server.url))
        assert roles.end() == 0
        verified = await anyio.to_thread.run_sync(
            ask, server.url, "verify", "--archive", str(archive)
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        history = ask(server.url, "--json", "history", "--type", "ArchiveSetAside").stdout
        assert "power loss" in history
    audit = ask("", "audit", "verify", str(archive))
    assert audit.returncode == 0, audit.stdout + audit.stderr
    assert audit.stdout.startswith("SET ASIDE  c0: ")
    assert "power loss" in audit.stdout


async def speak(store: Store, grant: Any, utterances: int) -> None:
    for seq in range(utterances):
        await say(store, grant, seq)


async def speak_until_sealed(store: Store, session: str, segments: int) -> None:
    """Speak until the archive has so many segments more."""
    grant, seq = await opened(store, session), 0
    for _ in range(segments):
        before = await archived_to(store)
        for _ in range(10):
            await say(store, grant, seq)
            seq += 1
        await until("a segment is sealed", partial(is_beyond, store, before))


async def archived_to(store: Store) -> tuple[int, int]:
    return parse_id((await store.read_hash(store.keys.archive)).get("to", "0-0"))


async def is_beyond(store: Store, entry_id: tuple[int, int]) -> bool:
    return await archived_to(store) > entry_id


async def is_archived(store: Store, entry_id: str) -> bool:
    return await archived_to(store) >= parse_id(entry_id)


async def asked(url: str, *arguments: str) -> Any:
    done = await anyio.to_thread.run_sync(ask, url, "--json", *arguments)
    return json.loads(done.stdout)


async def is_failing(url: str) -> bool:
    problems = (await asked(url, "status", "--check", "--role", "archiver"))["problems"]
    return any("1 of 1 failing: ArchiveError" in problem for problem in problems)


async def is_running(url: str) -> bool:
    return bool((await asked(url, "status", "--check", "--role", "archiver"))["ok"])
