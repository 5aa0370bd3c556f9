"""Packs: many segments in one file, byte for byte, with an index of sessions and ids.

A packed archive is read and verified like the archive before; a crash at any step of packing leaves
an archive that is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import projections
from eventsched.archive import packer, sealed_file, verifier
from eventsched.archive.checkpoints import checkpoint_of
from eventsched.archive.layout import PACK, ArchiveFolder, CellFolder
from eventsched.archive.manifest import encode
from eventsched.archive.packer import remove_packed_files, unpack_from
from eventsched.archive.proof import Proof, check_proof, prove
from eventsched.archive.segment import EVENTS
from eventsched.archive.sql import Query, QueryScope
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from eventsched.history.log import EntryFilter, History
from eventsched.store.transport import Entry
from tests.archive.archives import Archived
from tests.archive.dying import Died, dying_at
from tests.archive.sealed import CELL, START_MS, entry_at, pack_all, seal_sessions, sealer_of
from tests.archive.tampering import Files, Tamperer, files_of
from tests.archive.test_sealing import sums
from tests.cli.programs import run as run_command

SEGMENTS = [["s1", "s2"], ["s2"], ["s2", "s3"], ["s1"], ["s2", "s4"], ["s4"], ["s2"], ["s1", "s2"]]
ENTRIES = sum(map(len, SEGMENTS))
PACK_SEGMENTS = 3
PACKS, SINGLE = divmod(len(SEGMENTS), PACK_SEGMENTS)


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "PACK_SEGMENTS", PACK_SEGMENTS)
    monkeypatch.setattr(verifier, "RELIST_S", 0)  # here no archiver writes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive without packs."""
    return seal_sessions(tmp_path / "archive", SEGMENTS).path


def cell_of(path: Path) -> CellFolder:
    return ArchiveFolder.open(path).cell(CELL)


def packs_in(path: Path) -> list[Path]:
    return [each for each in sorted((path / CELL).iterdir()) if PACK.fullmatch(each.name)]


def problems(path: Path, **options: Any) -> list[str]:
    return [str(each) for each in Verifier(path, **options).run().problems]


def read(path: Path, where: EntryFilter | None = None, **limits: str) -> list[Entry]:
    async def collect() -> list[Entry]:
        history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
        return [entry async for entry in history.entries(where=where or EntryFilter(), **limits)]

    return anyio.run(collect)


def select(path: Path, sql: str) -> list[tuple[Any, ...]]:
    query = Query(ArchiveFolder.open(path), sql)
    try:
        query.execute()
        return list(query.rows())
    finally:
        query.close()


def select_of(path: Path, scope: QueryScope) -> list[str]:
    """Ids of the events that the views have."""
    query = Query(ArchiveFolder.open(path), "SELECT id FROM events ORDER BY ms, seq", scope=scope)
    try:
        query.execute()
        return [row[0] for row in query.rows()]
    finally:
        query.close()


def proofs(path: Path) -> list[Proof]:
    folder = ArchiveFolder.open(path)
    return [prove(folder, f"{START_MS}-{number}") for number in range(ENTRIES)]


# --- what stays the same ------------------------------------------------------------------------


def test_a_packed_archive_reads_as_before(path: Path) -> None:
    ids = [f"{START_MS}-{number}" for number in range(ENTRIES)]
    sql = "SELECT cell, id, type, session FROM events ORDER BY ms, seq"
    everything, rows = read(path), select(path, sql)
    of_session = {name: read(path, EntryFilter(session=name)) for name in ("s1", "s3", "none")}
    assert [entry[0] for entry in everything] == ids
    assert pack_all(path) == PACKS
    assert len(list((path / CELL).glob("*.json"))) == SINGLE
    assert read(path) == everything
    assert read(path, after=ids[3], upto=ids[9]) == everything[4:10]
    for name, entries in of_session.items():
        assert read(path, EntryFilter(session=name)) == entries
    assert select(path, sql) == rows
    assert problems(path) == []


def test_proofs_and_checkpoints_from_before_stay_valid(path: Path, tmp_path: Path) -> None:
    before, public = proofs(path), ArchiveFolder.open(path).public
    checkpoint = tmp_path / "checkpoint"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(path)))
    heads = [record.head for record in cell_of(path).records()]
    assert pack_all(path) == PACKS
    assert problems(path, checkpoint=checkpoint, projection_set=projections.core) == []
    assert checkpoint_of(ArchiveFolder.open(path)) == checkpoint.read_bytes()
    assert [record.head for record in cell_of(path).records()] == heads
    assert proofs(path) == before
    for proof in before:
        check_proof(encode(proof) + b"\n", public, "proof")


def test_members_are_the_files_byte_for_byte(path: Path) -> None:
    files = {name: content for name, content in files_of(path).items() if "/" in name}
    assert pack_all(path) == PACKS
    joined = b"".join(each.read_bytes() for each in packs_in(path))
    left = files_of(path)
    packed = {name: content for name, content in files.items() if name not in left}
    assert len(packed) == PACKS * PACK_SEGMENTS * 4
    assert all(content in joined for content in packed.values())


def test_a_pack_is_one_parquet_file_of_its_events(path: Path) -> None:
    names = [record.file("events").name for record in cell_of(path).records()[:PACK_SEGMENTS]]
    expected = pa.concat_tables([pq.read_table(path / CELL / name) for name in names])
    assert pack_all(path) == PACKS
    table = pq.read_table(packs_in(path)[0])
    assert table == expected
    assert table.schema == EVENTS


def test_sealing_continues_after_packs(path: Path, tmp_path: Path) -> None:
    """The archive is the one that it would be without packs."""
    shutil.copytree(path, tmp_path / "single")
    shutil.copy(path.with_name("archive.key"), tmp_path / "single.key")
    assert pack_all(path) == PACKS
    for each in (path, tmp_path / "single"):
        sealer = sealer_of(each)
        sealer.add(_more(3))
        sealer.seal()
    assert cell_of(path).records()[:] == cell_of(tmp_path / "single").records()[:]
    assert pack_all(path) == 1
    assert problems(path) == []
    assert len(read(path)) == ENTRIES + 3


def _more(count: int) -> list[Entry]:
    return [entry_at(ENTRIES + number) for number in range(count)]


def test_a_pack_ends_at_an_amount_of_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "PACK_BYTES", 1)
    assert pack_all(path) == len(SEGMENTS)
    assert problems(path) == []


# --- files that are opened ----------------------------------------------------------------------


class Opened:
    """Counts the files of segments that are opened, in packs or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        checked = sealed_file._checked

        def counted(folder: CellFolder, file: Any, path: Path, file_sum: Any) -> Any:
            self.names.append(file_sum.name)
            return checked(folder, file, path, file_sum)

        monkeypatch.setattr(sealed_file, "_checked", counted)

    def count(self) -> int:
        names, self.names = self.names, []
        return len(names)


def test_the_history_of_a_session_opens_only_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 30 segments have the session: both files of each are opened."""
    segments = [["wanted" if n in (4, 22) else f"s{n}"] for n in range(30)]
    path = seal_sessions(tmp_path / "archive", segments).path
    opened = Opened(monkeypatch)
    expected = read(path, EntryFilter(session="wanted"))
    assert opened.count() == 30 + 2
    assert pack_all(path) == 10
    opened.count()
    assert read(path, EntryFilter(session="wanted")) == expected
    assert opened.count() == 2 * 2
    assert read(path, EntryFilter(session="wanted"), after=expected[0][0]) == expected[1:]
    assert opened.count() == 2
    assert read(path, EntryFilter(session="unknown")) == []
    assert opened.count() == 0


def test_a_time_opens_only_its_segments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pack_all(path) == PACKS
    opened = Opened(monkeypatch)
    assert len(read(path, after=f"{START_MS}-1", upto=f"{START_MS}-2")) == 1
    assert opened.count() == 1


SCOPES = {
    "session": QueryScope(session=f"{CELL}.s3"),
    "time": QueryScope(after=(START_MS, 3), upto=(START_MS, 4)),
    "session and time": QueryScope(session=f"{CELL}.s2", after=(START_MS, 10)),
    "nothing": QueryScope(session=f"{CELL}.none"),
    "another cell": QueryScope(session="c7.s1"),
    "after the end": QueryScope(after=(START_MS + 1, 0)),
    "a name that is no SQL": QueryScope(session=f"{CELL}.'{{files}}"),
}


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
def test_a_query_of_a_session_or_time_has_these_events(
    path: Path, scope: str, is_packed: bool
) -> None:
    if is_packed:
        assert pack_all(path) == PACKS
    chosen = SCOPES[scope]
    session = chosen.session.partition(".")[2]
    where = EntryFilter(session=session if chosen.session.startswith(CELL) else "none")
    expected = read(
        path,
        EntryFilter() if not session else where,
        after="{}-{}".format(*max(chosen.after, (0, 0))),
        upto="{}-{}".format(*chosen.upto),
    )
    assert select_of(path, chosen) == [entry[0] for entry in expected]


def test_a_query_of_a_session_checks_only_its_packs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack with the session, and the segments that are not packed yet."""
    assert pack_all(path) == PACKS
    opened = Opened(monkeypatch)
    assert select_of(path, SCOPES["session"]) == [f"{START_MS}-4"]
    assert opened.count() == PACK_SEGMENTS + SINGLE
    assert select_of(path, SCOPES["after the end"]) == []
    assert opened.count() == 1


def test_the_command_reads_a_session_and_a_time(path: Path) -> None:
    assert pack_all(path) == PACKS
    sql = "SELECT count(*) AS n, min(id) AS first FROM events"
    for options, count, first in (
        (["--session", f"{CELL}.s4"], 2, f"{START_MS}-7"),
        (["--session", "s4"], 2, f"{START_MS}-7"),
        (["--since", f"{START_MS}-3", "--until", f"{START_MS}-5"], 3, f"{START_MS}-3"),
    ):
        result = run_command(path.parent, "query", sql, "--archive", str(path), "--json", *options)
        assert (result.returncode, result.stderr) == (0, b"")
        assert json.loads(result.stdout) == {"n": count, "first": first}


# --- crashes -----------------------------------------------------------------------------------


OPERATIONS = ((os, "fsync"), (Path, "replace"), (Path, "unlink"))
"""The functions that change a folder."""


def crashes(path: Path, work: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Do the work on copies of the archive; yield after a crash at each of its steps."""
    before = path.with_name("before")
    shutil.copytree(path, before)
    for step in range(1, 1_000):
        shutil.rmtree(path)
        shutil.copytree(before, path)
        with monkeypatch.context() as patched:
            count = dying_at(step, patched, *OPERATIONS)
            try:
                work()
            except Died:
                pass
            else:
                assert count() < step
                return
        yield step


def test_a_crash_at_any_step_of_packing_leaves_a_readable_archive(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, of_session = read(path), read(path, EntryFilter(session="s2"))
    shutil.copytree(path, path.with_name("packed"))
    shutil.copy(path.with_name("archive.key"), path.with_name("packed.key"))
    pack_all(path.with_name("packed"))
    expected, steps = sums(path.with_name("packed")), 0
    for steps in crashes(path, lambda: pack_all(path), monkeypatch):
        assert problems(path) == [], f"after a crash at step {steps}"
        assert read(path) == everything
        assert read(path, EntryFilter(session="s2")) == of_session
        cell_of(path).remove_unfinished()  # as the next archiver does
        pack_all(path)
        assert sums(path) == expected, f"after a crash at step {steps}"
    assert steps > 20


def test_a_crash_at_any_step_of_unpacking_leaves_a_readable_archive(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, single = read(path), sums(path)
    assert pack_all(path) == PACKS
    steps = 0
    for steps in crashes(path, lambda: unpack_from(cell_of(path), 0), monkeypatch):
        assert problems(path) == [], f"after a crash at step {steps}"
        assert read(path) == everything
        unpack_from(cell_of(path), 0)
        cell_of(path).remove_unfinished()
        assert sums(path) == single, f"after a crash at step {steps}"
    assert steps > 20


def test_segments_that_are_taken_out_are_those_of_their_packs_only(path: Path) -> None:
    assert pack_all(path) == PACKS
    first, second = packs_in(path)
    unpack_from(cell_of(path), PACK_SEGMENTS + 1)
    assert packs_in(path) == [first]
    assert problems(path) == []
    assert pack_all(path) == 1
    assert packs_in(path) == [first, second]


def test_a_reader_continues_while_its_segments_are_packed(path: Path) -> None:
    """It has listed the folder before; then the files that it has listed are removed."""

    async def scenario() -> None:
        history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
        ids: list[str] = []
        async for entry in history.entries():
            if not ids:
                await anyio.to_thread.run_sync(pack_all, path)
            ids.append(entry[0])
        assert ids == [f"{START_MS}-{number}" for number in range(ENTRIES)]
        assert len([entry async for entry in history.entries()]) == ENTRIES

    anyio.run(scenario)


def test_a_reader_continues_while_its_segments_are_taken_out(path: Path) -> None:
    assert pack_all(path) == PACKS

    async def scenario() -> None:
        history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
        numbers = []
        folder = history._folder
        assert folder is not None
        segments = folder.signed_records()
        records = segments[:]
        await anyio.to_thread.run_sync(unpack_from, cell_of(path), 0)
        for record in records:
            with sealed_file.open_sealed(folder, record, "events"):
                numbers.append(record.n)
        assert numbers == list(range(len(SEGMENTS)))

    anyio.run(scenario)


def test_files_are_removed_only_if_the_pack_has_them(path: Path) -> None:
    sealer = sealer_of(path)
    assert sealer.pack()
    (pack,) = packs_in(path)
    content = bytearray(pack.read_bytes())
    content[10] ^= 1
    pack.write_bytes(bytes(content))
    before = sums(path)
    with pytest.raises(ArchiveError, match="is not the file that was sealed"):
        remove_packed_files(cell_of(path))
    assert sums(path) == before


# --- changes -----------------------------------------------------------------------------------


def test_every_change_of_a_packed_archive_is_found(path: Path) -> None:
    assert pack_all(path) == PACKS
    original = files_of(path)
    tamperer = Tamperer(original, 1)
    tamperer.kinds = [
        tamperer.flip, tamperer.insert_bytes, tamperer.cut_bytes, tamperer.swap_bytes,
        tamperer.shorten, tamperer.remove, tamperer.swap_files, tamperer.copy_file,
        tamperer.rename,
    ]  # fmt: skip
    for _ in range(150):
        kind, files = tamperer.change()
        write(path, files)
        assert is_found(path), kind
        write(path, original)
    assert not is_found(path)


def test_every_byte_of_a_pack_counts(path: Path) -> None:
    assert pack_all(path) == PACKS
    (pack, _) = packs_in(path)
    content = pack.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 150)):
        changed = bytearray(content)
        changed[at] ^= 0x10
        pack.write_bytes(bytes(changed))
        assert is_found(path), at
    pack.write_bytes(content)
    assert not is_found(path)


def test_a_change_of_a_file_beside_its_pack_is_found(path: Path) -> None:
    """The files of a segment that is in a pack are verified until they are removed."""
    sealer = sealer_of(path)
    assert sealer.pack()
    assert problems(path) == []
    for name, content in files_of(path).items():
        if "/" in name and not name.endswith("pack.parquet"):
            changed = bytearray(content)
            changed[len(changed) // 2] ^= 1
            (path / name).write_bytes(bytes(changed))
            assert is_found(path), name
            (path / name).write_bytes(content)
    assert problems(path) == []


def write(path: Path, files: Files) -> None:
    present = files_of(path)
    for name in present.keys() - files.keys():
        (path / name).unlink()
    for name, content in files.items():
        if present.get(name) != content:
            (path / name).write_bytes(content)


def is_found(path: Path) -> bool:
    try:
        return next(Verifier(path).problems(), None) is not None
    except ArchiveError:
        return True


# --- the role ----------------------------------------------------------------------------------


async def test_an_archiver_packs_what_it_has_sealed(archived: Archived) -> None:
    await archived.set(archive_entries_max=6)
    await archived.talk("s1", 12)
    sealed = await archived.seal()
    assert sealed > 2 * PACK_SEGMENTS
    assert len(packs_in_cell(archived)) == sealed // PACK_SEGMENTS
    assert problems(archived.path) == []
    history = await archived.history(store=None, cell=archived.store.cell)
    assert [entry async for entry in history.entries()] == await archived.log()
    await archived.talk("s1", 6)
    assert await archived.seal() > 0
    assert problems(archived.path) == []
    cell = archived.folder.cell(archived.store.cell)
    packed = cell.records().packed
    assert len(cell.listed_records()) == len(cell.records()) - packed + PACK_SEGMENTS


def packs_in_cell(archived: Archived) -> list[str]:
    names = archived.folder.cell(archived.store.cell).names()
    return [name for name in names if PACK.fullmatch(name)]


async def test_archiving_continues_if_segments_cannot_be_packed(
    archived: Archived, capsys: pytest.CaptureFixture[str]
) -> None:
    await archived.set(archive_entries_max=6)
    await archived.talk("s1", 2)
    assert await archived.seal()
    cell = archived.folder.cell(archived.store.cell)
    target = cell.path / cell.records()[0].file("sessions").name
    content = target.read_bytes()
    target.write_bytes(content[:-1] + b"\0")
    await archived.talk("s1", 8)
    assert await archived.seal() > PACK_SEGMENTS
    assert packs_in_cell(archived) == []
    assert not [name for name in os.listdir(cell.path) if name.endswith(".part")]
    target.write_bytes(content)
    await archived.talk("s1", 2)
    assert await archived.seal()
    assert packs_in_cell(archived)
    assert problems(archived.path) == []
