"""A dead archiver: an alarm, then backpressure, and nothing is deleted until it is back."""

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
from eventsched.errors import Backpressure
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.projector import Projector
from eventsched.roles.rebuild import Rebuild, RebuildFailed
from eventsched.store.lag import ConsumerLag
from tests.archive.archives import CORE, Archived, seal_all
from tests.projector.counts import COUNTS, UtteranceCount

LIMIT = 60


async def dead(archived: Archived) -> None:
    """Sealed and trimmed; then the archiver dies and speech goes on up to the limit."""
    await archived.set(log_keep_ms=0, archive_lag_max=LIMIT, log_retention_ms=1)
    await archived.talk("s1", 12)
    await archived.seal()
    while await ConsumerLag(archived.store).of_archive() < LIMIT:  # type: ignore[operator]
        await archived.talk("s1")
    await archived.project()


async def test_producers_are_refused_and_nothing_goes_until_it_is_back(archived: Archived) -> None:
    await dead(archived)
    watch = BackpressureMonitor(archived.store)
    readings = {one.reason: one for one in await watch.step()}
    assert readings["archive"].seen >= LIMIT
    assert readings["group"].what != "archive", "a measure of its own"
    with pytest.raises(Backpressure):
        await archived.store.open("s2")
    with pytest.raises(Backpressure):
        await archived.talk("s1")
    end = archived.folder.cell(archived.store.cell).records()[-1].last
    behind = await archived.log(end)
    archived.store.tick(1_000_000_000)
    await archived.trim()
    assert (await archived.log(end))[: len(behind)] == behind, "older than any retention"
    await seal_all(archived.archiver())
    await watch.step()
    await archived.store.open("s2")
    raised, lifted = await archived.store.log("BackpressureStarted", "BackpressureEnded")
    assert (raised.data.reason, lifted.data.reason) == ("archive", "archive")  # type: ignore[union-attr]


async def test_the_archives_distance_is_what_is_not_sealed(archived: Archived) -> None:
    distances = ConsumerLag(archived.store)
    assert await distances.of_archive() is None
    await archived.talk("s1", 3)
    one = archived.archiver()
    await one.step()
    assert await distances.of_archive() == len(await archived.log())
    await seal_all(one)
    assert await distances.of_archive() == 0
    await archived.talk("s1", 1)
    assert await distances.of_archive() == 4


async def test_an_archive_that_is_lost_for_good_is_given_up_and_all_goes_on(
    archived: Archived, tmp_path: Path
) -> None:
    await dead(archived)
    watch, calls = BackpressureMonitor(archived.store), ArchiveCommands(archived.views)
    await archived.trim()
    await watch.step()
    with pytest.raises(Backpressure):
        await archived.talk("s1")
    shutil.rmtree(archived.path)
    archived.store.tick(1_000_000)
    assert await calls.abandon((await calls.read_state()).fingerprint) == "ok"
    await watch.step()
    await archived.talk("s1")
    await archived.project()
    (lifted,) = await archived.store.log("BackpressureEnded")
    assert lifted.data.reason == "archive"  # type: ignore[union-attr]
    archived.store.tick(10_000)
    assert await archived.trim(), "by the retention that was set"
    report = await Verifier(archived.views, CORE).run()
    assert (report.is_clean, report.is_folded) == (True, False), report.violations

    another = Archived(archived.store, tmp_path / "another")
    assert await another.seal()
    gone = another.folder.cell(archived.store.cell).records()[0].head.skipped
    assert gone == await archived.views.trimmed_count()
    report = await Verifier(archived.views, CORE, history=await another.history()).run()
    assert (report.is_clean, report.is_folded) == (True, False), report.violations


# --- what reads across both --------------------------------------------------------------------


async def trimmed(archived: Archived) -> None:
    """Most of the log is in the archive alone; views are live."""
    await archived.set(log_keep_ms=0, archive_entries_max=20)
    await archived.talk("s1", 12)
    await archived.talk("s2", 3)
    await archived.project()
    await archived.seal()
    assert await archived.trim() > 30
    await archived.talk("s1", 2)
    await archived.project()


async def test_verify_goes_on_from_a_snapshot_and_compares_everything(archived: Archived) -> None:
    await trimmed(archived)
    report = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert report.is_clean, report.violations
    assert report.is_folded
    assert (report.sessions, report.jobs, report.nodes) == (2, 17, 1)
    assert report.records == 2 + 2 + 17 + 1
    assert report.events < 60, "not from the start"


async def test_verify_across_both_still_finds_what_was_changed(archived: Archived) -> None:
    await trimmed(archived)
    keys, command = archived.store.keys, archived.views.transport.command
    await command("HSET", keys.session("s1"), "utterance", "99", key=keys.session("s1"))
    await command("XTRIM", keys.log, "MAXLEN", "3", key=keys.log)
    report = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert {"I7", "I10"} <= {one.invariant for one in report.violations}


async def test_a_rebuild_folds_archive_and_log(archived: Archived) -> None:
    await trimmed(archived)
    history = await archived.history()
    rebuilt = await Rebuild(archived.views, CORE, ["session", "job"], history=history).run()
    assert rebuilt is not None
    assert rebuilt.entries > 60
    report = await Verifier(archived.views, CORE, history=history).run()
    assert report.is_clean, report.violations


async def counted(archived: Archived) -> tuple[int, list[MutableMapping[str, Any]]]:
    """What the set has of s1, once it is as far as the log; what was said meanwhile."""
    one = Projector(archived.views, COUNTS, archive=archived.folder)
    with capture_logs() as told:
        while (await one.step()).state == "folded":
            pass
    await one.release()
    _, (record,) = await archived.views.read_records("counts", "counts", ["s1"])
    found = msgspec.msgpack.decode(record["v"], type=UtteranceCount).utterances
    return found, [line for line in told if line["log_level"] == "warning"]


async def test_a_set_that_came_after_trimming_says_how_to_get_what_it_lacks(
    archived: Archived,
) -> None:
    await trimmed(archived)
    gone = await archived.views.trimmed_count()
    found, (line,) = await counted(archived)
    assert found < 14
    assert (line["event"], line["entries_gone"]) == ("starts mid-history", gone)
    assert line["projection_set"] == "counts"
    assert line["remedy"] == f"eventsched rebuild counts --archive {archived.path}"
    await Rebuild(archived.views, COUNTS, ["counts"], history=await archived.history()).run()
    await archived.talk("s1")
    assert await counted(archived) == (15, []), "said once, and no more when it has all"


async def test_a_set_on_a_log_that_was_trimmed_unarchived_says_that_nothing_helps(
    archived: Archived,
) -> None:
    await archived.set(log_keep_ms=0, log_retention_ms=1)
    await archived.talk("s1", 12)
    archived.store.tick(10_000)
    assert await archived.trim()
    await archived.talk("s1")
    _, (line,) = await counted(archived)
    assert line["remedy"] == "none: it was trimmed unarchived"


async def test_a_set_that_has_all_of_the_log_says_nothing(archived: Archived) -> None:
    await archived.talk("s1", 12)
    assert await counted(archived) == (12, [])


async def test_without_the_beginning_nothing_is_rebuilt(archived: Archived) -> None:
    """By retention, without an archive, it is gone for good."""
    await archived.set(log_keep_ms=0, log_retention_ms=1)
    await archived.talk("s1", 12)
    await archived.project()
    archived.store.tick(10_000)
    assert await archived.trim()
    with pytest.raises(RebuildFailed, match="trimmed unarchived"):
        await Rebuild(archived.views, CORE, ["session"]).run()
    report = await Verifier(archived.views, CORE).run()
    assert (report.is_clean, report.is_folded) == (True, False)
