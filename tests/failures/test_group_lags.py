"""The lag of each group of the system is right after a restart, a load and a promotion.

Each test runs on every server program of this machine: the one in the wheel, and those on PATH.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from eventsched.archive.commands import LEASE_MS, ArchiveCommands
from eventsched.audit.group_checks import GroupChecks
from eventsched.projection.store import ProjectionStore, SetLease
from eventsched.server.discovery import Binary, in_wheel, on_path
from eventsched.server.testing import LocalServer, wait_for
from eventsched.store.replies import decode_text, named_fields_of
from tests.archive.archives import CORE, Archived, views_of
from tests.failures.test_restart import store_on
from tests.fixtures_store import TimedStore

BINARIES = [binary for binary in (in_wheel(), *on_path()) if binary and binary.is_new_enough]
pytestmark = [pytest.mark.served, pytest.mark.parametrize("binary", BINARIES, ids=str)]
ALL = {"core", "archive", "dispatch"}
OWNERS_MS = 10_000


async def lags_of(store: TimedStore, key: str) -> dict[str, tuple[str, int | None]]:
    """The position and the lag of each group of a stream, as the server reports them."""
    reply = await store.transport.command("XINFO", "GROUPS", key, key=key)
    groups = map(named_fields_of, reply)
    return {
        decode_text(group["name"]): (decode_text(group["last-delivered-id"]), group["lag"])
        for group in groups
    }


async def assert_right(store: TimedStore, groups: set[str]) -> None:
    """The lag of these groups is the number of entries after their positions."""
    log, queue = store.keys.log, store.keys.dispatch
    for name, (position, lag) in (await lags_of(store, log)).items():
        if name in groups:
            after = await store.read_range(log, f"({position}", "+", 100_000)
            assert (name, lag) == (name, len(after))
    assert groups - {"dispatch"} <= set(await lags_of(store, log))
    if "dispatch" in groups:
        left = await store.transport.command("XLEN", queue, key=queue)
        assert (await lags_of(store, queue))["dispatch"][1] == left


async def worked(archived: Archived) -> None:
    """A trimmed log with entries that are not saved, and a queue that is not dispatched."""
    await archived.set(log_keep_ms=0, archive_entries_max=20)
    await archived.talk("s1", 30)
    await archived.project()
    await archived.seal()
    assert await archived.trim() > 0
    await assert_right(archived.store, ALL)
    await archived.talk("s1", 3)
    await archived.store.say(archived.sessions["s1"], archived.seqs["s1"], end_of_utterance=True)
    archived.seqs["s1"] += 1
    await archived.views.read_group("core", "owner-that-dies", 4)
    await assert_right(archived.store, ALL)


async def taken_over(archived: Archived) -> None:
    """New owners take over: from then on each lag is right, and after each save."""
    store, views = archived.store, archived.views
    assert isinstance(await views.acquire(CORE, "owner-2", OWNERS_MS), SetLease)
    await assert_right(store, {"core"})
    assert isinstance(await ArchiveCommands(views).acquire("archiver-2", LEASE_MS), SetLease)
    await assert_right(store, {"core", "archive"})
    await store.dispatch_jobs()
    await assert_right(store, ALL)
    assert await violations(views) == []
    await views.acquire(CORE, "owner-2", 0)
    await ArchiveCommands(views).acquire("archiver-2", 0)
    await archived.talk("s2", 3)
    await archived.project()
    await assert_right(store, ALL)
    await archived.seal()
    await assert_right(store, ALL)
    assert await violations(views) == []


async def violations(views: ProjectionStore) -> list[Any]:
    return list(await GroupChecks(views).run())


@asynccontextmanager
async def archived_on(server: LocalServer, path: Path) -> AsyncIterator[Archived]:
    async with store_on(server, 1_000_000) as store:
        yield Archived(store, path)


@asynccontextmanager
async def continued(archived: Archived, server: LocalServer) -> AsyncIterator[Archived]:
    """The same cell, by a connection that knows nothing of an earlier one."""
    async with store_on(server, archived.store.at_ms) as store:
        archived.store, archived.views = store, views_of(store)
        yield archived


@pytest.mark.parametrize("rewrite", ["", "yes", "no"], ids=["appended", "snapshot", "commands"])
async def test_each_lag_is_right_after_a_load_of_the_append_only_file(
    binary: Binary, tmp_path: Path, rewrite: str
) -> None:
    """The file has the calls as they were appended, or it was rewritten as snapshot or commands."""
    with LocalServer(tmp_path / "own", binary, durable=True) as server:
        async with archived_on(server, tmp_path / "archive") as archived:
            await worked(archived)
        if rewrite:
            server.call("CONFIG", "SET", "aof-use-rdb-preamble", rewrite)
            server.call("BGREWRITEAOF")
            wait_for("the file is rewritten", lambda: _is_rewritten(server))
        await anyio.to_thread.run_sync(server.restart)
        async with continued(archived, server):
            await taken_over(archived)


async def test_each_lag_is_right_after_a_promotion(binary: Binary, tmp_path: Path) -> None:
    with (
        LocalServer(tmp_path / "primary", binary, has_port=True) as primary,
        LocalServer(tmp_path / "replica", binary, has_port=True) as replica,
    ):
        replica.call("REPLICAOF", "127.0.0.1", primary.options["port"])
        wait_for("the replica is linked", lambda: _is_linked(replica))
        async with archived_on(primary, tmp_path / "archive") as archived:
            await worked(archived)
        offset = primary.call("INFO", "replication")["master_repl_offset"]
        wait_for("the replica has all", lambda: _has_received(replica, offset))
        primary.kill()
        replica.call("REPLICAOF", "NO", "ONE")
        async with continued(archived, replica):
            await taken_over(archived)


def _is_rewritten(server: LocalServer) -> bool:
    info = server.call("INFO", "persistence")
    return not (int(info["aof_rewrite_in_progress"]) or int(info["aof_rewrite_scheduled"]))


def _is_linked(replica: LocalServer) -> bool:
    return bool(replica.call("INFO", "replication").get("master_link_status") == "up")


def _has_received(replica: LocalServer, offset: int | str) -> bool:
    info = replica.call("INFO", "replication")
    return int(info["slave_repl_offset"]) >= int(offset)
