"""Sealing: after a crash at any step the next archiver writes the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from eventsched.archive import layout
from eventsched.archive.codec import decode_entry
from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.segment import read_audio, read_entries
from eventsched.archive.signing import SigningKey
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError, ServerUnavailable
from eventsched.schema.events import FIELDS, UtteranceFinalized
from eventsched.schema.ids import SEQUENCE_MAX
from eventsched.store.transport import Entry
from tests.archive.archives import Archived, seal_all
from tests.archive.dying import Died, dying_at
from tests.projector.test_projector import Cut, Cutting, fold_all, projector_of


def sums(folder: Path) -> dict[str, str]:
    """The hash of every file below, by name."""
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
    assert [entry async for entry in history.entries()] == await archived.log()
    records = archived.folder.cell(archived.store.cell).records()
    assert [record.events for record in records] == [10, 10, 2]
    assert [record.is_full for record in records] == [True, False, False]
    assert problems(archived) == []


async def test_entries_with_the_greatest_sequence_are_folded_and_sealed(
    archived: Archived,
) -> None:
    """Any program that has the server's URL can append them; both numbers have 64 bits."""
    await archived.talk("s1", 1)
    store = archived.store
    log = store.keys.log
    fields = {"t": "BackpressureEnded", "v": "1", "d": '{"reason":"memory"}'}
    flat = [part for pair in (dict.fromkeys(FIELDS, "") | fields).items() for part in pair]
    for seq in ((1 << 63) - 1, 1 << 63, SEQUENCE_MAX - 1, SEQUENCE_MAX):
        await store.transport.command("XADD", log, f"{store.at_ms}-{seq}", *flat, key=log)
    store.tick(1)
    await archived.talk("s2", 1)
    projector = projector_of(store)
    await fold_all(projector)
    assert projector.checkpoint == await store.last_id(log)
    await projector.release()
    await archived.seal()
    history = await archived.history(store=None, cell=store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()
    assert problems(archived) == []


async def test_a_segment_ends_at_the_end_of_its_window(archived: Archived) -> None:
    await archived.set(archive_window_ms=1_000)
    await archived.talk("s1")
    in_first = len(await archived.log())
    archiver = archived.archiver()
    assert (await archiver.step()).state == "idle", "the window is not over"
    archived.store.tick(1_000)
    await archived.talk("s1")
    result = await archiver.step()
    assert result.state == "sealed"
    assert result.record is not None
    assert result.record.events == in_first
    assert (await archiver.step()).state == "idle"


# --- crashes -----------------------------------------------------------------------------------


OPERATIONS = ((os, "fsync"), (Path, "replace"), (layout, "sync_folder"))
"""The functions that change a folder."""


@pytest.mark.parametrize("audio", [False, True])
async def test_after_a_crash_at_any_step_the_same_bytes_are_written(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, audio: bool
) -> None:
    await archived.talk("s1", 1)
    await archived.seal(audio=audio)
    await archived.talk("s1", 2)
    chunks = await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 100)
    before = tmp_path / "before"
    shutil.copytree(archived.path, before)
    await archived.seal(audio=audio)
    expected = sums(archived.path)
    steps = 0
    for step in range(1, 100):
        shutil.rmtree(archived.path)
        shutil.copytree(before, archived.path)
        archived.folder = ArchiveFolder.open(archived.path)
        await _rewind(archived, before, chunks)
        archiver = archived.archiver(audio=audio, owner=f"h{step}")
        with monkeypatch.context() as patched:
            count = dying_at(step, patched, *OPERATIONS)
            try:
                await seal_all(archiver)
            except Died:
                pass
            else:
                assert count() < step
                steps = step
                break
            finally:
                archiver.discard()  # the kernel releases the lock when a process ends
        archived.store.tick(20_000)  # its lease ends
        archived.folder = ArchiveFolder.open(archived.path)
        await archived.seal(audio=audio)
        assert sums(archived.path) == expected, f"after a crash at step {step}"
    assert steps > 10
    assert problems(archived) == []


async def _rewind(archived: Archived, before: Path, chunks: list[Entry]) -> None:
    """Restore Redis to the time of the folder `before`."""
    command, keys = archived.views.transport.command, archived.store.keys
    end = CellFolder(before / archived.store.cell).records()[-1].last
    await command("HSET", keys.archive, "to", end, key=keys.archive)
    await command("HDEL", keys.session("s1"), "archived", key=keys.session("s1"))
    await command("DEL", keys.audio("s1"), key=keys.audio("s1"))
    for entry_id, fields in chunks:
        await command("XADD", keys.audio("s1"), entry_id, *fields, key=keys.audio("s1"))


@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_while_recording_the_seal_is_repaired(
    archived: Archived, after: bool
) -> None:
    await archived.talk("s1", 2)
    await archived.seal()
    transport = Cutting(archived.store, "", after=after)
    cut = archived.archiver(transport)
    await cut.step()
    await archived.talk("s1", 2)
    transport._script = "record_seal"
    with pytest.raises(Cut):
        await cut.step(now=True)
    archived.store.tick(20_000)  # its lease ends
    await archived.seal()
    folder = archived.folder.cell(archived.store.cell)
    assert folder.records()[-1].last == (await archived.log())[-1][0]
    assert problems(archived) == []


async def test_an_unavailable_server_during_a_segment_loses_nothing(archived: Archived) -> None:
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 4)

    class Unavailable(Cutting):
        async def command(self, *parts: Any, key: str) -> Any:
            if parts[0] == "XRANGE" and self._script:
                self._script = ""
                raise ServerUnavailable("no answer")
            return await super().command(*parts, key=key)

    archiver = archived.archiver(Unavailable(archived.store, "none", after=False))
    with pytest.raises(ServerUnavailable):
        await seal_all(archiver)
    await seal_all(archiver)
    assert problems(archived) == []
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()


async def test_a_segment_ends_at_an_amount_of_entries_that_readers_accept(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsched.archive.archiver.ENTRY_BYTES_MAX", 2_000)
    monkeypatch.setattr("eventsched.archive.archiver.READ_MAX", 4)
    await archived.talk("s1", 6)
    await archived.seal()
    records = archived.folder.cell(archived.store.cell).records()
    assert len(records) > 2
    assert all(4 <= record.events <= 16 for record in records[:-1])
    assert problems(archived) == []


@pytest.mark.parametrize("audio", [False, True])
async def test_segments_do_not_depend_on_how_many_entries_are_read_at_once(
    archived: Archived, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, audio: bool
) -> None:
    """Archives of the same log, read in batches of other sizes, are the same files."""
    limit = "AUDIO_BYTES_MAX" if audio else "ENTRY_BYTES_MAX"
    monkeypatch.setattr(f"eventsched.archive.archiver.{limit}", 14_000 if audio else 2_500)
    await archived.set(archive_entries_max=30)
    await archived.talk("s1", 12)
    key, log = archived.store.keys.archive, archived.store.keys.log
    archives = []
    for seed in range(8):
        rng = Random(seed)
        path = tmp_path / str(seed)
        shutil.copytree(archived.path, path)
        archiver = archived.archiver(path=path, audio=audio)
        for _ in range(200):
            for name in ("READ_MAX", "AUDIO_READ_MAX"):
                size = 1_000 if not seed else rng.choice([1, 2, 3, 7, 20])
                monkeypatch.setattr(f"eventsched.archive.archiver.{name}", size)
            if (await archiver.step(now=True)).state == "idle":
                break
        await archiver.release()
        assert Verifier(path, projection_set=None).run().problems == []
        archives.append(sums(path))
        await archived.store.transport.command("DEL", key, key=key)
        await archived.store.transport.command("XGROUP", "DESTROY", log, "archive", key=log)
    segments = len(ArchiveFolder.open(tmp_path / "0").cell(archived.store.cell).records())
    assert segments > 2, "the limit of bytes ends segments"
    assert segments > len(await archived.log()) / 30 + 1
    for each in archives[1:]:
        assert each == archives[0]


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


async def test_an_archiver_that_resumes_after_its_lease_ended_is_turned_away(
    archived: Archived,
) -> None:
    """While paused it has the lock on the folder, so that no other archiver writes."""
    await archived.set(archive_entries_max=8)
    await archived.talk("s1", 6)
    paused, heir = archived.archiver(), archived.archiver()
    await paused.step()
    archived.store.tick(20_000)
    assert (await heir.step()).state == "lease_lost"
    assert (await paused.step()).state == "standby", "it sees that it has lost the lease"
    await seal_all(heir)
    assert (await paused.step(now=True)).state == "standby"
    assert problems(archived) == []
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()


async def test_the_next_archiver_adopts_the_segment_of_a_fenced_one(archived: Archived) -> None:
    """Its lease ended during its step: its files are written, its record in Redis is refused."""
    await archived.talk("s1", 2)
    await archived.seal()
    await archived.talk("s1", 2)
    zombie = archived.archiver()
    commands = zombie._commands
    record = commands.record

    async def late(epoch: int, **kwargs: Any) -> Any:
        if kwargs["to"] != kwargs["start"]:
            archived.store.tick(20_000)
            await archived.archiver()._commands.acquire("heir", 10)
        return await record(epoch, **kwargs)

    commands.record = late  # type: ignore[method-assign]
    result = await zombie.step(now=True)
    assert result.state == "lease_lost"
    archived.store.tick(20_000)
    await archived.seal()
    assert problems(archived) == []
    log = await archived.log()
    assert archived.folder.cell(archived.store.cell).records()[-1].last == log[-1][0]


# --- folders that are refused ------------------------------------------------------------------


async def refused(archived: Archived, match: str, **options: Any) -> None:
    """Assert that an archiver is refused with this message and changes nothing."""
    before = sums(archived.path)
    archiver = archived.archiver(**options)
    with pytest.raises(ArchiveError, match=match):
        await seal_all(archiver)
    await archiver.release()
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
    """A server that lost its data starts again with the same ids."""
    await archived.talk("s1", 4)
    await archived.seal()
    keys = archived.store.keys
    for key in (keys.log, keys.archive, keys.lease("archive")):
        await archived.views.transport.command("DEL", key, key=key)
    await archived.talk("s1", 1)
    await refused(archived, "archive of another log")


def test_a_folder_that_is_no_archive_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(ArchiveError, match="no archive and not empty"):
        ArchiveFolder.open_or_create(tmp_path / "mine", None)
    assert sums(tmp_path) == {"mine/letter": sha256(b"dear").hexdigest()}
    with pytest.raises(ArchiveError, match="no folder"):
        ArchiveFolder.open(tmp_path / "nowhere")


def test_processes_that_create_an_archive_at_the_same_time_share_its_key(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eventsched.archive.layout import ArchiveFolder;"
        "sys.stdin.readline();"
        "print(ArchiveFolder.open_or_create(Path(sys.argv[1]), None)[1].public.hex())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "new")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    keys = {output.splitlines()[-1] for output in outputs}  # after the line about a new key
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert keys == {ArchiveFolder.open(tmp_path / "new").public.hex()}
    assert sorted(os.listdir(tmp_path)) == ["new", "new.key"]


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
    (tmp_path / "a.key").chmod(0o600)
    with pytest.raises(ArchiveError, match="no Ed25519 private key"):
        ArchiveFolder.open_or_create(tmp_path / "a", None)
    assert {k: v for k, v in sums(tmp_path).items() if k != "a.key"} == {
        k: v for k, v in before.items() if k != "a.key"
    }


def test_only_the_owner_can_read_the_private_key(tmp_path: Path) -> None:
    ArchiveFolder.open_or_create(tmp_path / "a", None)
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ArchiveError, match="cannot create the key"):
        SigningKey.generate().write(tmp_path / "a.key")


# --- audio -------------------------------------------------------------------------------------


async def test_the_audio_of_each_utterance_is_archived(archived: Archived) -> None:
    archiver = archived.archiver(audio=True)
    await archiver.step()
    await archived.talk("s1", 3)
    chunks = await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 100)
    await seal_all(archiver)
    await archiver.release()
    record = archived.folder.cell(archived.store.cell).records()[-1]
    assert record.utterances == 3
    folder = archived.folder.cell(archived.store.cell)
    finalized = await archived.store.log("UtteranceFinalized")
    archived_chunks = []
    for event in finalized:
        assert isinstance(event.data, UtteranceFinalized)
        with open_sealed(folder, record, "audio") as file:
            archived_chunks += [decode_entry(data) for data in read_audio(file, event.id)]
    assert archived_chunks == chunks
    assert await archived.store.read_range(archived.store.keys.audio("s1"), "-", "+", 9) == []
    with open_sealed(folder, record, "events") as file:
        assert len(read_entries(file)) == record.events
    assert problems(archived) == []


async def test_audio_that_was_trimmed_before_is_not_archived(archived: Archived) -> None:
    await archived.talk("s1", 2)
    await archived.seal(audio=True)
    record = archived.folder.cell(archived.store.cell).records()[-1]
    assert record.utterances == 0
    assert problems(archived) == []
