"""An archive that somebody else has made: signed with a key of its own, with anything in it.

Every reader refuses it in one line. None follows a link, reads a file whose sum is wrong, or
decompresses more than the limit.
"""

from __future__ import annotations

import copy
import io
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

import projections
from eventsched.archive import pages
from eventsched.archive.footer import MAGIC, _put_struct, decode_footer, footer_bytes, structs
from eventsched.archive.layout import PUBLIC, ArchiveFolder
from eventsched.archive.manifest import RECORD_BYTES_MAX, Segment
from eventsched.archive.pages import find_fault
from eventsched.archive.proof import prove
from eventsched.archive.segment import EVENTS, SCHEMAS
from eventsched.archive.sql import Query
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from eventsched.history.log import EntryFilter, History
from tests.archive.sealed import CELL, START_MS, replace_file, seal_entries, sign_again

SIZES = [4, 3]
I64, LIST, STRUCT = 6, 9, 12
"""Types of the compact protocol of Apache Thrift."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The folder of an archive of two segments."""
    return seal_entries(tmp_path / "archive", SIZES).path


async def entries_of(path: Path, where: EntryFilter) -> int:
    history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
    return len([entry async for entry in history.entries(where=where)])


def count_by_sql(path: Path) -> int:
    query = Query(ArchiveFolder.open(path), "SELECT count(*) FROM events")
    try:
        query.execute()
        ((count,),) = query.rows()
        return int(count)
    finally:
        query.close()


READERS: dict[str, Callable[[Path], Any]] = {
    "history": lambda path: anyio.run(entries_of, path, EntryFilter()),
    "history of a session": lambda path: anyio.run(entries_of, path, EntryFilter(session="s1")),
    "query": count_by_sql,
    "prove": lambda path: prove(ArchiveFolder.open(path), f"{START_MS}-1"),
}


def refusals(path: Path) -> list[str]:
    """The messages of all readers, which must refuse, and the problems of `audit verify`."""
    messages = []
    for read in READERS.values():
        with pytest.raises(ArchiveError) as caught:
            read(path)
        messages.append(str(caught.value))
    problems = [str(problem) for problem in Verifier(path).run().problems]
    assert problems
    return [*messages, *problems]


def file_of(path: Path, kind: str) -> Path:
    cell = ArchiveFolder.open(path).cell(CELL)
    return cell.path / cell.records()[0].file(kind).name


def test_every_reader_reads_an_untouched_archive(path: Path) -> None:
    results = [read(path) for read in READERS.values()]
    assert results[:3] == [sum(SIZES)] * 3
    assert Verifier(path).run().problems == []


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../../secret.events.parquet",
        "/etc/passwd",
        "/etc/x.events.parquet",
        "..",
        "",
        "sub/x.events.parquet",
        "x.events.parquet",
        "001700000000000-000004_001700000000000-000006.events.parquet",
    ],
)
def test_a_record_names_files_of_its_own_segment_only(path: Path, name: str) -> None:
    (path.parent / "secret.events.parquet").write_bytes(b"secret")

    def edit(segment: Segment) -> Segment:
        if segment.n:
            return segment
        return replace(segment, files=[replace(segment.files[0], name=name), *segment.files[1:]])

    sign_again(path, edit)
    assert all("names files that are not of its segment" in text for text in refusals(path)[:4])


def test_a_record_names_each_file_once(path: Path) -> None:
    sign_again(path, lambda segment: replace(segment, files=[segment.files[0], *segment.files]))
    assert all("names files that are not of its segment" in text for text in refusals(path)[:4])


def test_a_record_is_read_with_a_bound(path: Path) -> None:
    record = next((path / CELL).glob("*.json"))
    record.write_bytes(record.read_bytes() + b" " * RECORD_BYTES_MAX)
    assert all("has more than 65,536 bytes" in text for text in refusals(path)[:4])


# --- links and other kinds of files ------------------------------------------------------------


def moved_behind_a_link(path: Path) -> None:
    """The content is the same: only the link gives it away."""
    target = path.parent.parent / f"outside-{path.name}"
    shutil.move(path, target)
    path.symlink_to(target)


@pytest.mark.parametrize("which", ["events", "record", "cell", "key"])
def test_no_link_in_an_archive_is_followed(path: Path, which: str) -> None:
    target = {
        "events": file_of(path, "events"),
        "record": min((path / CELL).glob("*.json")),
        "cell": path / CELL,
        "key": path / PUBLIC,
    }[which]
    moved_behind_a_link(target)
    if which == "key":
        with pytest.raises(ArchiveError, match="is a link"):
            ArchiveFolder.open(path)
        return
    assert all("is a link" in text for text in refusals(path)[:4])


@pytest.mark.parametrize("which", ["events", "record", "key"])
def test_a_pipe_in_an_archive_is_refused_and_waits_for_nobody(path: Path, which: str) -> None:
    records = sorted((path / CELL).glob("*.json"))
    target = {"events": file_of(path, "events"), "record": records[0], "key": path / PUBLIC}[which]
    target.unlink()
    os.mkfifo(target)
    if which == "key":
        with pytest.raises(ArchiveError, match="is not a regular file"):
            ArchiveFolder.open(path)
        return
    assert all("is not a regular file" in text for text in refusals(path)[:4])


# --- sums and signatures -----------------------------------------------------------------------


def test_nothing_is_read_from_a_file_whose_sum_is_wrong(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet is not opened at all: a reader may have faults of its own."""
    for kind in ("events", "sessions", "snapshot"):
        target = file_of(path, kind)
        content = bytearray(target.read_bytes())
        content[10] ^= 1
        target.write_bytes(bytes(content))
    monkeypatch.setattr(pq, "ParquetFile", _not_to_be_called)
    for read in READERS.values():
        with pytest.raises(ArchiveError, match="is not the file that was sealed"):
            read(path)


def _not_to_be_called(*_: Any, **__: Any) -> None:
    raise AssertionError("the file was read")


async def test_a_file_that_changes_after_its_first_check_is_checked_again(path: Path) -> None:
    history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
    assert len([entry async for entry in history.entries()]) == sum(SIZES)
    target = file_of(path, "events")
    content = bytearray(target.read_bytes())
    content[10] ^= 1
    target.write_bytes(bytes(content))
    with pytest.raises(ArchiveError, match="is not the file that was sealed"):
        _ = [entry async for entry in history.entries()]


def test_records_that_the_key_has_not_signed_are_refused(path: Path, tmp_path: Path) -> None:
    """The records of another archive: their sums are right, and their signature is not ours."""
    other = seal_entries(tmp_path / "other", SIZES)
    shutil.rmtree(path / CELL)
    shutil.copytree(other.path / CELL, path / CELL)
    assert all("is not signed by key" in text for text in refusals(path)[:3])


def test_a_record_that_does_not_follow_is_refused(path: Path) -> None:
    first, second = sorted((path / CELL).glob("*.json"))
    key = second.read_bytes()
    sign_again(path, lambda segment: replace(segment, utterances=segment.utterances + 1))
    second.write_bytes(key)
    assert first.exists()
    assert all("does not follow" in text for text in refusals(path)[:3])


# --- sizes -------------------------------------------------------------------------------------


def events_table(entry: bytes, rows: int = 4) -> Any:
    columns: dict[str, list[Any]] = {name: [""] * rows for name in EVENTS.names}
    numbers = list(range(rows))
    columns |= {"ms": numbers, "time": numbers, "seq": [0] * rows, "entry": [entry] * rows}
    return pa.table(columns, schema=EVENTS)


def parquet(table: Any, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    usual = {"compression": "zstd", "use_dictionary": False, "write_statistics": ["ms", "seq"]}
    pq.write_table(table, sink, **usual | options)
    content: bytes = sink.getvalue().to_pybytes()
    return content


UNUSUAL: dict[str, tuple[dict[str, Any], str]] = {
    "a dictionary": ({"use_dictionary": ["entry"]}, "has a dictionary"),
    "values that share beginnings": (
        {"column_encoding": {"entry": "DELTA_BYTE_ARRAY"}, "write_statistics": False},
        "whose values are not plain",
    ),
    "pages of version 2": ({"data_page_version": "2.0"}, "a page of another kind"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_file_in_another_form_is_refused(path: Path, kind: str) -> None:
    """Each form lets a few bytes stand for any number of values."""
    options, match = UNUSUAL[kind]
    replace_file(path, "events", parquet(events_table(b"x" * 1_000), **options))
    assert all(match in text for text in refusals(path))


def test_a_file_with_other_columns_is_refused(path: Path) -> None:
    table = events_table(b"x").drop_columns(["cause"])
    replace_file(path, "events", parquet(table))
    assert all("has other columns" in text for text in refusals(path))


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = parquet(events_table(bytes(1 << 20)))
    assert len(content) < 10_000, "it is small until it is unpacked"
    replace_file(path, "events", content)
    monkeypatch.setattr(pages, "UNPACKED_BYTES_MAX", 3 << 20)
    allocated = pa.total_allocated_bytes()
    assert all("bytes after decompression" in text for text in refusals(path))
    assert pa.total_allocated_bytes() - allocated < 1 << 20


def test_a_file_of_too_many_values_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million empty values take some hundred bytes."""
    replace_file(path, "events", parquet(events_table(b"", rows=20_000)))
    monkeypatch.setattr(pages, "VALUES_MAX", 100_000)
    assert all("has more than 100,000 values" in text for text in refusals(path))


def test_the_sizes_in_the_pages_count_and_not_those_in_the_footer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The footer can say anything; the reader allocates what the page says."""
    target = file_of(path, "events")
    with target.open("rb") as file:
        assert find_fault(file, EVENTS) == ""
        metadata = pq.ParquetFile(file).metadata
        unpacked = sum(
            metadata.row_group(0).column(each).total_uncompressed_size
            for each in range(metadata.num_columns)
        )
        monkeypatch.setattr(pages, "UNPACKED_BYTES_MAX", unpacked // 2)
        assert "bytes after decompression" in find_fault(file, EVENTS)


def with_row_groups(content: bytes, count: int, rows: int, total: int) -> bytes:
    """The file with `count` more row groups, each of `rows` rows and no value; `total` rows."""
    metadata = decode_footer(io.BytesIO(content))
    end = footer_bytes(io.BytesIO(content), len(content))
    groups = structs(metadata, 4)
    empty = copy.deepcopy(groups[0]) | {2: (I64, 0), 3: (I64, rows)}
    empty = {number: field for number, field in empty.items() if number in (1, 2, 3)}
    for column in structs(empty, 1):
        values = dict.fromkeys((5, 6, 7), (I64, 0))
        kept = {number: field for number, field in column[3][1].items() if number not in (8, 12)}
        column[3] = (STRUCT, kept | values)
    metadata |= {3: (I64, total), 4: (LIST, (STRUCT, [*groups, *[empty] * count]))}
    footer = bytearray()
    _put_struct(footer, metadata)
    return content[:-end] + bytes(footer) + len(footer).to_bytes(4, "little") + MAGIC


@pytest.mark.parametrize(
    ("rows", "total", "match"),
    [
        (0, 4, "has a row group without rows"),
        (1, 4, "has a footer with another number of rows"),
        (1, 4 + 3_000, "has more row groups than its rows need"),
        (8_192, 4 + 3_000 * 8_192, "has a column with fewer values than rows"),
    ],
)
def test_row_groups_without_rows_are_refused_before_their_pages_are_read(
    path: Path, rows: int, total: int, match: str
) -> None:
    """A limit of time does not interrupt the check of a file."""
    content = with_row_groups(parquet(events_table(b"x")), 3_000, rows, total)
    replace_file(path, "events", content)
    assert all(match in text for text in refusals(path))


def test_a_row_group_for_each_row_is_refused(path: Path) -> None:
    replace_file(path, "events", parquet(events_table(b"x"), row_group_size=1))
    assert all("has more row groups than its rows need" in text for text in refusals(path))


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (100_000, "has a footer with more than its row groups need"),
        (pages.FOOTER_BYTES_MAX, "has a footer of more than 8,388,608 bytes"),
    ],
)
def test_a_footer_that_is_larger_than_its_rows_need_is_refused(
    path: Path, size: int, match: str
) -> None:
    table = events_table(b"x").replace_schema_metadata({"note": "x" * size})
    replace_file(path, "events", parquet(table))
    assert all(match in text for text in refusals(path))


@pytest.mark.parametrize("kind", ["events", "sessions", "snapshot"])
def test_a_broken_file_is_a_fault_and_no_traceback(path: Path, tmp_path: Path, kind: str) -> None:
    content = file_of(path, kind).read_bytes()
    rng, broken = random.Random(1), tmp_path / "broken"
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        broken.write_bytes(
            bytes(changed[: rng.choice([len(changed), rng.randrange(len(changed))])])
        )
        with broken.open("rb") as file:
            assert isinstance(find_fault(file, SCHEMAS[kind]), str)


@pytest.mark.parametrize("reader", ["history", "history of a session", "prove"])
def test_bytes_that_are_no_entry_are_refused(path: Path, reader: str) -> None:
    replace_file(path, "events", parquet(events_table(b"\x91" * 5_000)))
    with pytest.raises(ArchiveError, match="no stored entry"):
        READERS[reader](path)


@pytest.mark.parametrize(
    "rows", [b"123", bytes(8), bytes(4 * 10_000), b"\1\0\0\0" + bytes(4), b"\xff" * 4]
)
def test_an_index_that_is_broken_is_refused(path: Path, rows: bytes) -> None:
    """Of other bytes; with a row again, or again and again; in another order; of no row."""
    table = pa.table({"session": ["s1"], "rows": [rows]}, schema=SCHEMAS["sessions"])
    replace_file(path, "sessions", parquet(table))
    with pytest.raises(ArchiveError, match="cannot be read"):
        READERS["history of a session"](path)


@pytest.mark.parametrize("view", [b"\xff", b"", b"\x91" * 5_000, None])
@pytest.mark.parametrize("projection", ["session", "unknown"])
async def test_a_snapshot_that_is_broken_is_refused(
    path: Path, view: bytes | None, projection: str
) -> None:
    row = {"projection": [projection], "entity": ["s1"], "at": ["1-0"], "view": [view]}
    replace_file(path, "snapshot", parquet(pa.table(row, schema=SCHEMAS["snapshot"])))
    history = await History.open(None, ArchiveFolder.open(path), projections.core, cell=CELL)
    if view is None:  # a record that was dropped
        await history.folding_at(f"{START_MS}-3")
        return
    with pytest.raises(ArchiveError, match="has no readable record"):
        await history.folding_at(f"{START_MS}-3")
