"""A dead archiver causes an alarm, then backpressure; nothing is deleted until it is back."""

from __future__ import annotations

import shutil
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from eventsched.archive.commands import ArchiveCommands
from eventsched.audit.verify import Verifier
from eventsched.client.client import Client
from eventsched.errors import ArchiveError, Backpressure
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.projector import Projector
from eventsched.roles.rebuild import Rebuild, RebuildFailed
from eventsched.schema.events import Event
from eventsched.store.lag import ConsumerLag
from tests.archive.archives import CORE, LOST, Archived, seal_all
from tests.projector.counts import COUNTS, UtteranceCount

LIMIT = 60


async def dead(archived: Archived) -> None:
    """Seal and trim; then the archiver dies and speech continues up to the limit."""
    await archived.set(log_keep_ms=0, archive_lag_max=LIMIT, log_retention_ms=1)
    await archived.talk("s1", 12)
    await archived.seal()
    while await ConsumerLag(archived.store).of_archive() < LIMIT:  # type: ignore[operator]
        await archived.talk("s1")
    await archived.project()


async def test_producers_are_refused_and_nothing_is_trimmed_until_it_is_back(
    archived: Archived,
) -> None:
    await dead(archived)
    monitor = BackpressureMonitor(archived.store)
    readings = {each.reason: each for each in await monitor.step()}
    assert readings["archive"].seen >= LIMIT
    assert readings["group"].description != "archive", "the archive has a reason of its own"
    with pytest.raises(Backpressure):
        await archived.store.open("s2")
    with pytest.raises(Backpressure):
        await archived.talk("s1")
    end = archived.folder.cell(archived.store.cell).records()[-1].last
    unsealed = await archived.log(end)
    archived.store.tick(1_000_000_000)
    await archived.trim()
    assert (await archived.log(end))[: len(unsealed)] == unsealed, "older than any retention"
    await seal_all(archived.archiver())
    await monitor.step()
    await archived.store.open("s2")
    started, ended = await archived.store.log("BackpressureStarted", "BackpressureEnded")
    assert (started.data.reason, ended.data.reason) == ("archive", "archive")  # type: ignore[union-attr]


async def test_the_lag_of_the_archive_is_the_unsealed_entries(archived: Archived) -> None:
    lag = ConsumerLag(archived.store)
    assert await lag.of_archive() is None
    await archived.talk("s1", 3)
    archiver = archived.archiver()
    await archiver.step()
    assert await lag.of_archive() == len(await archived.log())
    await seal_all(archiver)
    assert await lag.of_archive() == 0
    await archived.talk("s1", 1)
    assert await lag.of_archive() == 3  # finalized, dispatched, recorded and delivered


async def test_after_a_lost_archive_is_abandoned_the_cell_continues(
    archived: Archived, tmp_path: Path
) -> None:
    await dead(archived)
    monitor, commands = BackpressureMonitor(archived.store), ArchiveCommands(archived.views)
    await archived.trim()
    await monitor.step()
    with pytest.raises(Backpressure):
        await archived.talk("s1")
    shutil.rmtree(archived.path)
    archived.store.tick(1_000_000)
    assert await commands.abandon((await commands.read_state()).fingerprint, **LOST) == "ok"
    await monitor.step()
    await archived.talk("s1")
    await archived.project()
    (ended,) = await archived.store.log("BackpressureEnded")
    assert ended.data.reason == "archive"  # type: ignore[union-attr]
    archived.store.tick(10_000)
    assert await archived.trim(), "by the configured retention"
    report = await Verifier(archived.views, CORE).run()
    assert (report.is_clean, report.is_complete) == (True, False), report.violations

    another = Archived(archived.store, tmp_path / "another")
    assert await another.seal()
    skipped = another.folder.cell(archived.store.cell).records()[0].head.skipped
    assert skipped == await archived.views.trimmed_count()
    report = await Verifier(archived.views, CORE, history=await another.history()).run()
    assert (report.is_clean, report.is_complete) == (True, False), report.violations


# --- reads of archive and log --------------------------------------------------------------------


async def trimmed(archived: Archived) -> None:
    """Trim most of the log after it is archived and projected."""
    await archived.set(log_keep_ms=0, archive_entries_max=20)
    await archived.talk("s1", 12)
    await archived.talk("s2", 3)
    await archived.project()
    await archived.seal()
    assert await archived.trim() > 30
    await archived.talk("s1", 2)
    await archived.project()


async def test_verify_starts_from_a_snapshot_and_compares_everything(archived: Archived) -> None:
    await trimmed(archived)
    report = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert report.is_clean, report.violations
    assert report.is_complete
    assert (report.sessions, report.jobs, report.nodes) == (2, 17, 1)
    assert report.records == 2 + 2 + 17 + 1 + 1
    assert report.events < 60, "not from the first event"


async def test_verify_counts_the_trims_of_a_quiet_cell(archived: Archived) -> None:
    """The log of a quiet cell has one entry left, the sealed record of the last trim."""
    await trimmed(archived)
    for _ in range(3):
        archived.store.tick(1_000)
        await archived.project()
        await archived.seal()
        await archived.trim()
    await archived.project()
    await archived.seal()
    (left,) = await archived.log()
    assert b"StreamTrimmed" in left[1]
    report = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert report.is_clean, report.violations


async def test_a_quiet_cell_is_trimmed_and_sealed_once(archived: Archived) -> None:
    """The event of a trimming is no reason for the next one."""
    await trimmed(archived)
    sealed = []
    for _ in range(4):
        archived.store.tick(1_000)
        await archived.project()
        await archived.seal()
        await archived.trim()
        sealed.append(len(archived.folder.cell(archived.store.cell).records()))
    assert sealed[1:] == [sealed[1]] * 3


async def test_a_program_reads_events_that_only_the_archive_has(archived: Archived) -> None:
    await trimmed(archived)
    stores, session = {archived.store.cell: archived.store}, archived.store.keys.full("s1")
    with pytest.raises(ArchiveError, match="--archive DIR"):
        await anext(Client(stores).history(session))
    elsewhere = Client(stores, archive=archived.path.with_name("none"))
    with pytest.raises(ArchiveError, match="there is no folder"):
        await anext(elsewhere.history(session))
    assert await elsewhere.list("session")  # needs the server alone, as does a present record
    assert (await elsewhere.state("session", session)).id == session
    events = [event async for event in Client(stores, archive=archived.path).history(session)]
    first, *_ = events
    assert isinstance(first, Event)
    assert first.type == "SessionOpened"


async def test_verify_across_archive_and_log_finds_changes(archived: Archived) -> None:
    await trimmed(archived)
    keys, command = archived.store.keys, archived.views.transport.command
    await command("HSET", keys.session("s1"), "utterance", "99", key=keys.session("s1"))
    await command("XTRIM", keys.log, "MAXLEN", "3", key=keys.log)
    report = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert {"I7", "I10"} <= {violation.invariant for violation in report.violations}


async def test_a_rebuild_folds_archive_and_log(archived: Archived) -> None:
    await trimmed(archived)
    history = await archived.history()
    rebuild = await Rebuild(archived.views, CORE, ["session", "job"], history=history).run()
    assert rebuild is not None
    assert rebuild.entries > 50
    report = await Verifier(archived.views, CORE, history=history).run()
    assert report.is_clean, report.violations


async def counted(archived: Archived) -> tuple[int, list[MutableMapping[str, Any]]]:
    """The count of s1 after all events are projected, and the warnings that were logged."""
    projector = Projector(archived.views, COUNTS, archive=archived.folder)
    with capture_logs() as lines:
        while (await projector.step()).state == "folded":
            pass
    await projector.release()
    _, ((_, record),) = await archived.views.read_records("counts", "counts", ["s1"])
    count = msgspec.msgpack.decode(record["v"], type=UtteranceCount).utterances
    return count, [line for line in lines if line["log_level"] == "warning"]


async def test_a_set_that_starts_after_trimming_logs_the_remedy(
    archived: Archived,
) -> None:
    await trimmed(archived)
    trimmed_count = await archived.views.trimmed_count()
    count, (line,) = await counted(archived)
    assert count < 14
    assert (line["event"], line["trimmed_entries"]) == ("starts mid-history", trimmed_count)
    assert line["projection_set"] == "counts"
    assert line["remedy"] == f"eventsched rebuild counts --archive {archived.path} --why TEXT"
    await Rebuild(archived.views, COUNTS, ["counts"], history=await archived.history()).run()
    await archived.talk("s1")
    assert await counted(archived) == (15, []), "logged once, and not after the rebuild"


async def test_a_set_on_a_log_that_was_trimmed_unarchived_logs_that_there_is_no_remedy(
    archived: Archived,
) -> None:
    await archived.set(log_keep_ms=0, log_retention_ms=1)
    await archived.talk("s1", 12)
    archived.store.tick(10_000)
    assert await archived.trim()
    await archived.talk("s1")
    _, (line,) = await counted(archived)
    assert line["remedy"] == "none: the entries were not archived"


async def test_a_set_with_the_complete_log_logs_no_warning(archived: Archived) -> None:
    await archived.talk("s1", 12)
    assert await counted(archived) == (12, [])


async def test_without_the_beginning_nothing_is_rebuilt(archived: Archived) -> None:
    """Entries trimmed by retention, without an archive, are lost."""
    await archived.set(log_keep_ms=0, log_retention_ms=1)
    await archived.talk("s1", 12)
    await archived.project()
    archived.store.tick(10_000)
    assert await archived.trim()
    with pytest.raises(RebuildFailed, match="trimmed and not archived"):
        await Rebuild(archived.views, CORE, ["session"]).run()
    report = await Verifier(archived.views, CORE).run()
    assert (report.is_clean, report.is_complete) == (True, False)
