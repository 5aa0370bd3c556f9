"""Segments that the log has lost are set aside, unchanged, and archiving continues."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from eventsched.archive.checkpoints import checkpoint_of
from eventsched.archive.commands import LEASE_MS, ArchiveCommands
from eventsched.archive.layout import NOTE, CellFolder
from eventsched.archive.manifest import Record
from eventsched.archive.set_aside import SetAside
from eventsched.archive.verifier import Verifier as ArchiveVerifier
from eventsched.audit.verify import Verifier
from eventsched.errors import ArchiveError, InvalidMessage
from eventsched.schema.events import ArchiveSetAside
from tests.archive.archives import CORE, LOST, Archived
from tests.archive.test_sealing import sums
from tests.fixtures_store import TimedStore
from tests.scripts.calls import call, code_of

WHY = {"why": "the server was restored", "by": "ann@host", "owner": "o1"}


def action(archived: Archived) -> SetAside:
    folder = CellFolder(archived.path / archived.store.cell)
    return SetAside(archived.views, folder, archived.folder.public)


def records(archived: Archived) -> list[Record]:
    return archived.folder.cell(archived.store.cell).records()[:]


async def lose_tail(archived: Archived) -> list[Record]:
    """Seal six segments, then restore the cell to the time after the third. Return the tail."""
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 5)
    await archived.project()
    await archived.seal()
    record_count = len(records(archived))
    saved = await dump(archived)
    archived.store.tick(100)
    await archived.talk("s1", 5)
    await archived.project()
    await archived.seal()
    await restore(archived, saved)
    archived.seqs["s1"] -= 10
    archived.store.tick(60_000)
    tail = records(archived)[record_count:]
    assert record_count >= 2
    assert len(tail) >= 2
    return tail


async def dump(archived: Archived) -> dict[bytes, bytes]:
    command = archived.views.transport.command
    log = archived.store.keys.log
    names = await command("KEYS", f"{archived.store.keys.prefix}*", key=log)
    return {name: await command("DUMP", name, key=log) for name in names}


async def restore(archived: Archived, saved: dict[bytes, bytes]) -> None:
    """The server comes back with what it had at an earlier time."""
    command = archived.views.transport.command
    log = archived.store.keys.log
    for name in await command("KEYS", f"{archived.store.keys.prefix}*", key=log):
        await command("DEL", name, key=log)
    for name, value in saved.items():
        await command("RESTORE", name, 0, value, key=log)


def audit(archived: Archived, checkpoint: Path | None = None) -> ArchiveVerifier:
    verifier = ArchiveVerifier(archived.path, checkpoint=checkpoint)
    verifier.run()
    return verifier


async def test_the_archiver_refuses_and_names_the_command(archived: Archived) -> None:
    await lose_tail(archived)
    with pytest.raises(ArchiveError, match="eventsched audit set-aside --archive"):
        await archived.seal()


async def test_a_lost_tail_moves_byte_for_byte_and_archiving_continues(
    archived: Archived, tmp_path: Path
) -> None:
    tail = await lose_tail(archived)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(checkpoint_of(archived.folder))
    before = sums(archived.path)
    note = await action(archived).run(**WHY)
    assert note is not None
    assert (note.first_segment, note.segments) == (tail[0].n, len(tail))
    assert (note.first, note.last, note.head) == (tail[0].first, tail[-1].last, tail[-1].head.root)
    after = sums(archived.path)
    target = f"{archived.store.cell}/set-aside/{tail[0].file('events').name.partition('_')[0]}"
    moved = {name: value for name, value in after.items() if name.startswith(target)}
    names = {name.rpartition("/")[2]: value for name, value in moved.items()}
    del names[NOTE]
    assert names == {
        name.rpartition("/")[2]: value for name, value in before.items() if name not in after
    }
    (event,) = await archived.store.log("ArchiveSetAside")
    assert event.data == ArchiveSetAside(
        of=note.key,
        first_segment=note.first_segment,
        segments=note.segments,
        entries=note.entries,
        first=note.first,
        last=note.last,
        head=note.head,
        roots=[record.root for record in tail],
        why="the server was restored",
        by="ann@host",
    )

    await archived.talk("s1", 5)
    await archived.project()
    assert await archived.seal() >= 2
    report = audit(archived, checkpoint).report
    where = f"{archived.store.cell}/set-aside/"
    (problem,) = report.problems
    assert f"segment {tail[-1].n} was set aside: ask the operator whether {where}" in problem.what
    assert report.set_aside == [note]
    checkpoint.write_bytes(checkpoint_of(archived.folder))
    report = audit(archived, checkpoint).report
    assert report.problems == []
    assert report.events == len(await archived.log())
    verified = await Verifier(archived.views, CORE, history=await archived.history()).run()
    assert (verified.is_clean, verified.is_complete) == (True, True), verified.violations


async def test_nothing_is_set_aside_if_the_log_has_everything(archived: Archived) -> None:
    await archived.talk("s1", 5)
    await archived.seal()
    before = sums(archived.path)
    assert await action(archived).lost_tail() == []
    assert await action(archived).run(**WHY) is None
    assert sums(archived.path) == before
    assert await archived.store.log("ArchiveSetAside") == []


async def test_an_interrupted_move_is_completed_and_recorded_once(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before each link, then after each removal, and run again each time."""
    tail = await lose_tail(archived)
    files = sum(len(record.files) + 1 for record in tail)
    content = sorted(sums(archived.path).values())
    for step in range(files):
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", interrupted(os.link, step))
            with pytest.raises(KeyboardInterrupt):
                await action(archived).run(**WHY)
        report = audit(archived).report
        assert report.problems == [], "an interrupted move is no change"
        assert {each.why for each in report.set_aside} <= {""}
    for _ in range(files - 1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupted(Path.unlink, 1))
            with pytest.raises(KeyboardInterrupt):
                await action(archived).run(**WHY)
        records(archived)  # the rest is a sequence of segments
    note = await action(archived).run(**WHY)
    assert note is None, "the last run only removes what earlier ones have moved"
    assert await action(archived).lost_tail() == []
    assert len(await archived.store.log("ArchiveSetAside")) == 1
    left = sums(archived.path)
    assert sorted(value for name, value in left.items() if not name.endswith(NOTE)) == content
    assert audit(archived).report.problems == []


def interrupted(call: Callable[..., None], step: int) -> Callable[..., None]:
    """The call, which is interrupted before its effect the step-th time, counted from 0."""
    calls = count()

    def run(*args: object) -> None:
        if next(calls) == step:
            raise KeyboardInterrupt
        call(*args)

    return run


async def test_a_change_of_a_segment_that_was_set_aside_is_found(archived: Archived) -> None:
    tail = await lose_tail(archived)
    note = await action(archived).run(**WHY)
    assert note is not None
    folder = archived.folder.cell(archived.store.cell).path_of(note)
    path = folder / tail[0].file("events").name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    (problem, *_) = audit(archived).report.problems
    assert "is not the file that was sealed" in str(problem)
    (folder / NOTE).write_bytes((folder / NOTE).read_bytes().replace(b"ann@", b"bob@"))
    assert not [each for each in audit(archived).report.problems if NOTE in str(each)]
    (folder / NOTE).write_bytes(
        (folder / NOTE).read_bytes().replace(b'"segments":', b'"segments":1')
    )
    assert [each for each in audit(archived).report.problems if NOTE in str(each)]


async def test_an_archiver_that_runs_is_not_disturbed(archived: Archived) -> None:
    await lose_tail(archived)
    await ArchiveCommands(archived.views).acquire("another", 15_000)
    before = sums(archived.path)
    with pytest.raises(ArchiveError, match="runs: stop it first"):
        await action(archived).run(**WHY)
    assert sums(archived.path) == before


@pytest.mark.parametrize("words", [{"why": ""}, {"why": "x" * 501}, {"by": ""}, {"by": "x" * 201}])
async def test_a_reason_and_a_name_are_needed(archived: Archived, words: dict[str, str]) -> None:
    await lose_tail(archived)
    before = sums(archived.path)
    with pytest.raises(InvalidMessage):
        await action(archived).run(**WHY | words)
    assert sums(archived.path) == before
    assert await archived.store.log("ArchiveSetAside") == []


async def test_the_folder_of_another_archive_is_refused(archived: Archived, tmp_path: Path) -> None:
    await archived.talk("s1", 5)
    await archived.seal()
    other = Archived(archived.store, tmp_path / "other")
    with pytest.raises(ArchiveError, match="has another archive"):
        await action(other).lost_tail()


async def test_a_folder_that_lacks_segments_is_refused(archived: Archived) -> None:
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 5)
    await archived.seal()
    for path in (archived.path / archived.store.cell).glob(f"{stem(records(archived)[-1])}.*"):
        path.unlink()
    with pytest.raises(ArchiveError, match="segments are missing"):
        await action(archived).lost_tail()


def stem(record: Record) -> str:
    return record.file("events").name.partition(".")[0]


async def test_the_folder_of_an_abandoned_archive_is_used_again(archived: Archived) -> None:
    """All of it, if the log continues where it ends; else its segments are set aside first."""
    await archived.set(log_keep_ms=0, archive_entries_max=8)
    await archived.talk("s1", 8)
    await archived.project()
    await archived.seal()
    commands = ArchiveCommands(archived.views)
    key = (await commands.read_state()).fingerprint
    assert await commands.abandon(key, **LOST) == "ok"
    assert await archived.seal() >= 1, "the log continues where the folder ends"

    await archived.project()
    await archived.trim()
    assert await commands.abandon(key, **LOST) == "ok"
    await archived.set(log_retention_ms=1)
    archived.store.tick(60_000)
    await archived.talk("s1", 2)
    await archived.project()
    archived.store.tick(60_000)
    assert await archived.trim(), "the log no longer has the end of the folder"
    with pytest.raises(ArchiveError, match="audit set-aside"):
        await archived.seal()
    archived.store.tick(LEASE_MS + 1)
    sealed = len(records(archived))
    note = await action(archived).run(**WHY)
    assert note is not None
    assert (note.first_segment, note.segments) == (0, sealed)
    await archived.talk("s1", 2)
    assert await archived.seal() >= 1
    report = audit(archived).report
    assert (report.problems, report.set_aside) == ([], [note])


async def test_two_tails_may_be_set_aside(archived: Archived) -> None:
    await lose_tail(archived)
    first = await action(archived).run(**WHY)
    saved = await dump(archived)
    await archived.talk("s1", 4)
    await archived.project()
    await archived.seal()
    await restore(archived, saved)
    archived.store.tick(60_000)
    second = await action(archived).run(**WHY)
    assert None not in (first, second)
    report = audit(archived).report
    assert report.problems == []
    assert sorted(report.set_aside, key=lambda note: note.first) == [first, second]


ROOT = "0123456789abcdef" * 4
GOOD: dict[str, str | int] = {
    "of": "key", "first_segment": 5, "segments": 2, "entries": 28, "first": "5-0", "last": "9-3",
    "head": ROOT, "roots": f"{ROOT},{ROOT}", "why": "power loss", "by": "ann@host",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"first_segment": -1}, "segments"),
        ({"segments": 0}, "segments"),
        ({"entries": "x"}, "segments"),
        ({"first": "yesterday"}, "last"),
        ({"last": "4-9"}, "last"),
        ({"head": ROOT[:-1]}, "roots"),
        ({"roots": ""}, "roots"),
        ({"roots": ",".join([ROOT] * 65)}, "roots"),
        ({"roots": ROOT.upper()}, "roots"),
        ({"why": ""}, "why"),
        ({"by": "x" * 201}, "by"),
    ],
)
async def test_a_malformed_call_is_refused(
    store: TimedStore, changed: dict[str, str | int], field: str
) -> None:
    epoch = (await call(store, "acquire_set_lease", "archive", "p1", 15_000, "archive"))[1]
    args = (GOOD | changed).values()
    assert f" {field}: " in await code_of(store, "set_aside_archive", epoch, *args)
    assert await store.log() == []


async def test_only_the_owner_of_the_lease_sets_aside_and_each_tail_once(
    store: TimedStore,
) -> None:
    epoch = (await call(store, "acquire_set_lease", "archive", "p1", 15_000, "archive"))[1]
    for number, expected in ((epoch + 1, b"fenced"), (epoch, b"ok"), (epoch, b"duplicate")):
        assert await call(store, "set_aside_archive", number, *GOOD.values()) == expected
    assert await store.types() == ["ArchiveSetAside"]
    await call(store, "record_seal", epoch, "0-0", "0-0", "another", 0, 0)
    assert " key: " in await code_of(store, "set_aside_archive", epoch, *GOOD.values())
