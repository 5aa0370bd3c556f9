"""Sealing: a crash anywhere leaves what the next one writes again, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from eventsched.archive import layout
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.segment import read_audio, read_entries
from eventsched.archive.signing import SigningKey
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.schema.events import UtteranceFinalized
from eventsched.store.transport import Entry
from tests.archive.archives import Archived, seal_all
from tests.projector.test_projector import Cut, Cutting


def sums(folder: Path) -> dict[str, str]:
    """Every file below, with its content's hash."""
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def problems(archived: Archived) -> list[str]:
    report = Verifier(archived.path, projection_set=None).run()
    return [str(problem) for problem in report.problems]


async def test_every_entry_is_sealed_as_it_was_stored(archived: Archived) -> None:
    await archived.set(archive_entries_max=10)
    await archived.talk("s1", 6)
    await archived.close("s1")
    assert await archived.seal() == 3
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [one async for one in history.entries()] == await archived.log()
    records = archived.folder.cell(archived.store.cell).records()
    assert [record.events for record in records] == [10, 10, 8]
    assert [record.is_full for record in records] == [True, False, False]
    assert problems(archived) == []


async def test_a_segment_ends_where_its_window_does(archived: Archived) -> None:
    await archived.set(archive_window_ms=1_000)
    await archived.talk("s1")
    in_first = len(await archived.log())
    one = archived.archiver()
    assert (await one.step()).state == "idle", "the window is not over"
    archived.store.tick(1_000)
    await archived.talk("s1")
    stepped = await one.step()
    assert stepped.state == "sealed"
    assert stepped.record is not None
    assert stepped.record.events == in_first
    assert (await one.step()).state == "idle"


# --- crashes -----------------------------------------------------------------------------------


class Died(BaseException):
    """The process is gone here: nothing of it runs on."""


def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The n-th thing that is done to files does not happen; says how many were asked for."""
    done = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                raise Died
            return inner(*given, **more)

        return call

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(Path, "replace", counted(Path.replace))
    monkeypatch.setattr(layout, "sync_folder", counted(layout.sync_folder))
    return lambda: done


@pytest.mark.parametrize("audio", [False, True])
async def test_a_crash_at_any_step_leaves_what_is_written_again_byte_for_byte(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: bool
) -> None:
    await archived.talk("s1", 1)
    await archived.seal(audio=audio)
    await archived.talk("s1", 2)
    chunks = await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 100)
    before = tmp_path / "before"
    shutil.copytree(archived.path, before)
    await archived.seal(audio=audio)
    wanted = sums(archived.path)
    steps = 0
    for step in range(1, 100):
        shutil.rmtree(archived.path)
        shutil.copytree(before, archived.path)
        archived.folder = ArchiveFolder.open(archived.path)
        await _rewind(archived, before, chunks)
        one = archived.archiver(audio=audio, owner=f"h{step}")
        with monkeypatch.context() as patched:
            count = dying_at(step, patched)
            try:
                await seal_all(one)
            except Died:
                pass
            else:
                assert count() < step
                steps = step
                break
            finally:
                one.discard()  # the kernel does so when a process ends
        archived.store.tick(20_000)  # its hold ends
        archived.folder = ArchiveFolder.open(archived.path)
        await archived.seal(audio=audio)
        assert sums(archived.path) == wanted, f"after a crash at step {step}"
    assert steps > 10
    assert problems(archived) == []


async def _rewind(archived: Archived, before: Path, chunks: list[Entry]) -> None:
    """Redis as it was when the folder was as in `before`."""
    command, keys = archived.views.transport.command, archived.store.keys
    end = CellFolder(before / archived.store.cell).records()[-1].last
    await command("HSET", keys.archive, "to", end, key=keys.archive)
    await command("HDEL", keys.session("s1"), "archived", key=keys.session("s1"))
    await command("DEL", keys.audio("s1"), key=keys.audio("s1"))
    for entry_id, fields in chunks:
        await command("XADD", keys.audio("s1"), entry_id, *fields, key=keys.audio("s1"))


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_around_telling_redis_is_made_good(archived: Archived, after: bool) -> None:
    await archived.talk("s1", 2)
    await archived.seal()
    transport = Cutting(archived.store, "", after=after)
    cut = archived.archiver(transport)
    await cut.step()
    await archived.talk("s1", 2)
    transport._script = "record_seal"
    with pytest.raises(Cut):
        await cut.step(now=True)
    archived.store.tick(20_000)  # its hold ends
    await archived.seal()
    folder = archived.folder.cell(archived.store.cell)
    assert folder.records()[-1].last == (await archived.log())[-1][0]
    assert problems(archived) == []


async def test_a_server_that_goes_away_amid_a_segment_loses_nothing(archived: Archived) -> None:
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 4)

    class Away(Cutting):
        async def command(self, *parts: Any, key: str) -> Any:
            if parts[0] == "XRANGE" and self._script:
                self._script = ""
                raise ServerUnavailable("gone")
            return await super().command(*parts, key=key)

    one = archived.archiver(Away(archived.store, "none", after=False))
    with pytest.raises(ServerUnavailable):
        await seal_all(one)
    await seal_all(one)
    assert problems(archived) == []
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()


# --- two archivers -----------------------------------------------------------------------------


async def test_two_archivers_take_turns_and_one_seals(archived: Archived) -> None:
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 6)
    first, second = archived.archiver(), archived.archiver()
    assert (await first.step()).state in ("sealed", "buffered")
    assert (await second.step()).state == "standby"
    await first.release()
    await seal_all(second)
    assert (await first.step(now=True)).state == "standby"
    assert problems(archived) == []


async def test_one_that_wakes_after_its_hold_ended_is_turned_away(archived: Archived) -> None:
    """Frozen, it still has the folder's lock: nobody writes beside it."""
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 6)
    frozen, heir = archived.archiver(), archived.archiver()
    await frozen.step()
    archived.store.tick(20_000)
    assert (await heir.step()).state == "turned_away"
    assert (await frozen.step()).state == "standby", "it sees that it is no longer asked for"
    await seal_all(heir)
    assert (await frozen.step(now=True)).state == "standby"
    assert problems(archived) == []
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()


async def test_what_a_zombie_sealed_counts_for_the_next_one(archived: Archived) -> None:
    """It woke within its own step: its files are there, its word to Redis is refused."""
    await archived.talk("s1", 2)
    await archived.seal()
    await archived.talk("s1", 2)
    zombie = archived.archiver()
    calls = zombie._commands
    record = calls.record

    async def late(epoch: int, **given: Any) -> Any:
        if given["to"] != given["start"]:
            archived.store.tick(20_000)
            await archived.archiver()._commands.acquire("heir", 10)
        return await record(epoch, **given)

    calls.record = late  # type: ignore[method-assign]
    stepped = await zombie.step(now=True)
    assert stepped.state == "turned_away"
    archived.store.tick(20_000)
    await archived.seal()
    assert problems(archived) == []
    log = await archived.log()
    assert archived.folder.cell(archived.store.cell).records()[-1].last == log[-1][0]


# --- folders that will not do ------------------------------------------------------------------


async def refused(archived: Archived, match: str, **given: Any) -> None:
    """One clear line, and nothing changes."""
    before = sums(archived.path)
    one = archived.archiver(**given)
    with pytest.raises(ArchiveError, match=match):
        await seal_all(one)
    await one.release()
    assert sums(archived.path) == before


async def test_another_archive_of_this_cell_is_refused(archived: Archived, tmp_path: Path) -> None:
    await archived.talk()
    await archived.seal()
    folder, key = ArchiveFolder.open_or_create(tmp_path / "other", None)
    await refused(archived, "has another archive", path=folder.path, key=key)
    assert (await archived.store.transport.command(
        "HGET", archived.store.keys.archive, "of", key=archived.store.keys.archive
    )) is not None  # fmt: skip


async def test_a_folder_whose_last_segments_are_missing_is_refused(archived: Archived) -> None:
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 4)
    await archived.seal()
    folder = archived.folder.cell(archived.store.cell)
    (folder.path / folder.record_names()[-1]).unlink()
    archived.folder = ArchiveFolder.open(archived.path)
    await refused(archived, "segments are missing")


async def test_the_archive_of_another_log_is_refused(
    archived: Archived, store: Any, tmp_path: Path
) -> None:
    """A server whose data were lost begins anew under old ids."""
    await archived.talk("s1", 4)
    await archived.seal()
    keys = archived.store.keys
    for key in (keys.log, keys.archive, keys.lease("archive")):
        await archived.views.transport.command("DEL", key, key=key)
    await archived.talk("s1", 1)
    await refused(archived, "archive of another log")


def test_a_folder_that_is_no_archive_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ArchiveError, match="no archive and not empty"):
        ArchiveFolder.open_or_create(tmp_path / "mine", None)
    assert sums(tmp_path) == {"mine/letter": sha256(b"dear").hexdigest()}
    with pytest.raises(ArchiveError, match="no folder"):
        ArchiveFolder.open(tmp_path / "nowhere")


def test_a_key_of_another_archive_is_refused(tmp_path: Path) -> None:
    ArchiveFolder.open_or_create(tmp_path / "a", None)
    ArchiveFolder.open_or_create(tmp_path / "b", None)
    before = sums(tmp_path)
    with pytest.raises(ArchiveError, match="is not the key of"):
        ArchiveFolder.open_or_create(tmp_path / "a", tmp_path / "b.key")
    (tmp_path / "a.key").unlink()
    with pytest.raises(ArchiveError, match="cannot read the key"):
        ArchiveFolder.open_or_create(tmp_path / "a", None)
    (tmp_path / "a.key").write_text("nonsense")
    with pytest.raises(ArchiveError, match="no Ed25519 private key"):
        ArchiveFolder.open_or_create(tmp_path / "a", None)
    assert {k: v for k, v in sums(tmp_path).items() if k != "a.key"} == {
        k: v for k, v in before.items() if k != "a.key"
    }


def test_the_private_key_is_its_owners_alone(tmp_path: Path) -> None:
    ArchiveFolder.open_or_create(tmp_path / "a", None)
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ArchiveError, match="cannot create the key"):
        SigningKey.generate().write(tmp_path / "a.key")


# --- audio -------------------------------------------------------------------------------------


async def test_the_audio_of_each_utterance_lies_beside_it(archived: Archived) -> None:
    one = archived.archiver(audio=True)
    await one.step()
    await archived.talk("s1", 3)
    chunks = await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 100)
    await seal_all(one)
    await one.release()
    record = archived.folder.cell(archived.store.cell).records()[-1]
    assert record.utterances == 3
    path = archived.folder.cell(archived.store.cell).path
    finalized = await archived.store.log("UtteranceFinalized")
    found = []
    for event in finalized:
        assert isinstance(event.data, UtteranceFinalized)
        found += [
            decode_entry(one) for one in read_audio(path / record.file("audio").name, event.id)
        ]
    assert found == chunks
    assert await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 9) == []
    assert len(read_entries(path / record.file("events").name)) == record.events
    assert problems(archived) == []


async def test_audio_that_was_gone_before_is_not_made_up(archived: Archived) -> None:
    await archived.talk("s1", 2)
    await archived.seal(audio=True)
    record = archived.folder.cell(archived.store.cell).records()[-1]
    assert record.utterances == 0
    assert problems(archived) == []
