"""Encodes and decodes the files of a segment: Parquet with zstd, a row per entry in log order.

Owns: the columns of the files. Values are plain: no dictionary, which a few bytes could expand
without a bound (pages.py).
Must not: sign, choose the names of files, or open a file by its name (sealed_file.py does).
Read next: sealer.py (writes segments), history/log.py (reads them).

    events     ms seq type session job node cause data   for queries; data is the JSON of `d`
               time                                      of the event: a timestamp of `ms`, in UTC
               text source_text                          of a result; null if there is none, and of
                                                         sessions that are encrypted
               entry                                     the stored bytes, which the leaves hash
    sessions   session rows                              its index: row numbers, 4 bytes each
    audio      entry_id session utterance chunks         stored bytes of each chunk, with payload
    snapshot   projection entity at view                 view is msgpack; null if it was dropped
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, BinaryIO

import msgspec

from eventsched.archive.codec import encode_entry
from eventsched.errors import ArchiveError, require_packages
from eventsched.schema.codec import UnreadableText, decode_text
from eventsched.schema.ids import EntryId, format_id, parse_id
from eventsched.store.transport import Entry

require_packages("pyarrow")
import pyarrow as pa  # noqa: E402  after a clear error if it is missing
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

ROW_GROUP = 8_192
MS_MAX = (1 << 63) - 1
"""The greatest milliseconds in the column `ms`, which has a sign, so that SQL can subtract. A later
entry, which no clock makes, has this number there; its stored bytes have its id."""
TIME_MAX = MS_MAX // 1_000 - 1
"""Likewise in the column `time`: a greater one has no microseconds of 64 bits."""
EVENTS = pa.schema(
    [
        ("ms", pa.int64()),
        ("seq", pa.uint64()),
        ("type", pa.string()),
        ("session", pa.string()),
        ("job", pa.string()),
        ("node", pa.string()),
        ("cause", pa.string()),
        ("data", pa.string()),
        ("time", pa.timestamp("ms")),
        ("text", pa.string()),
        ("source_text", pa.string()),
        ("entry", pa.binary()),
    ]
)
SESSIONS = pa.schema([("session", pa.string()), ("rows", pa.binary())])
AUDIO = pa.schema(
    [
        ("entry_id", pa.string()),
        ("session", pa.string()),
        ("utterance", pa.int64()),
        ("chunks", pa.list_(pa.binary())),
    ]
)
SNAPSHOT = pa.schema(
    [
        ("projection", pa.string()),
        ("entity", pa.string()),
        ("at", pa.string()),
        ("view", pa.binary()),
    ]
)

_TEXTS = ("text", "source_text")
SCHEMAS = {"events": EVENTS, "sessions": SESSIONS, "audio": AUDIO, "snapshot": SNAPSHOT}
"""Kind of a file -> its columns."""


class RowBuffer:
    """The buffered rows of a segment."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self.bytes = 0
        """Stored bytes of the entries."""

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, entries: Sequence[Entry], after: EntryId) -> EntryId:
        """Add a row per entry and return the last id. Raises ArchiveError unless ids increase."""
        append, last = self._rows.append, after
        for entry in entries:
            entry_id, fields = entry
            id_ = parse_id(entry_id)
            if id_ <= last:
                raise ArchiveError(f"entry {entry_id} does not follow {format_id(*last)}")
            last = id_
            values = fields[1::2] if len(fields) == 18 else _NO_VALUES
            kind, _, session, job, node, cause, _, data, body = values
            stored, ms = encode_entry(entry), id_[0]
            self.bytes += len(stored)
            row_ids = min(ms, MS_MAX), id_[1]
            time = min(ms, TIME_MAX)
            append((*row_ids, kind, session, job, node, cause, data, time, *_texts(body), stored))
        return last

    def entries(self) -> list[bytes]:
        return [row[-1] for row in self._rows]

    def columns(self) -> list[Any]:
        """The values of each column of EVENTS."""
        columns = zip(*self._rows, strict=True)
        return [_column(list(each), field) for each, field in zip(columns, EVENTS, strict=True)]

    def parquet(self) -> bytes:
        return encode_parquet(self.columns(), EVENTS)


_NO_VALUES = [b""] * 9


def _texts(body: bytes) -> tuple[str | None, str | None]:
    """The text and the source text of a body; None where it has none that can be read."""
    if not body:
        return None, None
    try:
        text = decode_text(body)
    except UnreadableText:  # not written by a script; the column is for queries only
        return None, None
    return (None, None) if text.encrypted else (text.text, text.source_text)


def _column(values: list[Any], field: Any) -> Any:
    if field.type != pa.string() or field.name in _TEXTS:
        return pa.array(values, field.type)
    try:
        return pa.array(values, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:  # not written by a script; the column is for queries only
        return pa.array([value.decode(errors="replace") for value in values], pa.string())


def session_columns(indexes: Mapping[str, Sequence[int]]) -> list[Any]:
    """The values of each column of SESSIONS."""
    names = sorted(indexes)
    rows = [array("I", indexes[name]).tobytes() for name in names]
    return [pa.array(names, pa.string()), pa.array(rows, pa.binary())]


def sessions_parquet(indexes: Mapping[str, Sequence[int]]) -> bytes:
    return encode_parquet(session_columns(indexes), SESSIONS)


class Utterance(msgspec.Struct, frozen=True):
    """The audio of the utterance that an UtteranceFinalized event ends."""

    entry_id: str
    session: str
    utterance: int
    chunks: Sequence[bytes]


def audio_parquet(utterances: Sequence[Utterance]) -> bytes:
    columns = [
        pa.array([each.entry_id for each in utterances], pa.string()),
        pa.array([each.session for each in utterances], pa.string()),
        pa.array([each.utterance for each in utterances], pa.int64()),
        pa.array([list(each.chunks) for each in utterances], pa.list_(pa.binary())),
    ]
    return encode_parquet(columns, AUDIO, row_group=64)


class SnapshotRecord(msgspec.Struct, frozen=True):
    """A record of a read model in a snapshot."""

    projection: str
    entity: str
    at: str
    view: bytes | None
    """None: the record was dropped."""


def snapshot_parquet(records: Sequence[SnapshotRecord]) -> bytes:
    columns = [
        pa.array([record.projection for record in records], pa.string()),
        pa.array([record.entity for record in records], pa.string()),
        pa.array([record.at for record in records], pa.string()),
        pa.array([record.view for record in records], pa.binary()),
    ]
    return encode_parquet(columns, SNAPSHOT)


def encode_parquet(columns: Sequence[Any], schema: Any, *, row_group: int = ROW_GROUP) -> bytes:
    """The Parquet file of these columns. The same columns always give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        sink,
        compression="zstd",
        use_dictionary=False,
        row_group_size=row_group,
        write_statistics=["ms", "seq"] if "ms" in schema.names else False,
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


# --- reading --------------------------------------------------------------------------------
#
# Every file is one that sealed_file.py has opened.


def open_parquet(file: BinaryIO) -> Any:
    """A Parquet reader that starts no thread. Raises OSError or pa.ArrowException.

    The threads of Arrow's pools hold the Python file for a moment after a read. Such a thread can
    end the process with SIGABRT if the interpreter exits in that moment. Reads in advance
    (`pre_buffer`), reads with `use_threads`, and every filter of `pq.read_table` use the pools.
    """
    return pq.ParquetFile(file, pre_buffer=False)


def read_entries(file: BinaryIO) -> list[bytes]:
    """The stored bytes of every row."""
    column = _read_table(file, ["entry"]).column("entry")
    if column.null_count:
        raise ArchiveError(f"{file.name} has rows without stored bytes")
    entries: list[bytes] = column.to_pylist()
    return entries


def differing_column(file: BinaryIO, kind: str, columns: Sequence[Any]) -> str:
    """The first column of a file of this kind that has other values than these, or "".

    The column `entry` is not compared: it is the source of the others.
    """
    fields = SCHEMAS[kind]
    table = _read_table(file, [name for name in fields.names if name != "entry"])
    expected = zip(fields.names, columns, strict=True)
    return next(
        (
            name
            for name, values in expected
            if name != "entry" and not table.column(name).equals(pa.chunked_array([values]))
        ),
        "",
    )


def session_names(file: BinaryIO) -> list[str]:
    """The sessions of a segment's index; `file` is a sessions file."""
    return _sessions_in(file)


def sessions_of_events(file: BinaryIO) -> set[str]:
    """The full ids of the sessions in an events file; empty for events of no session."""
    return set(_sessions_in(file))


def _sessions_in(file: BinaryIO) -> list[str]:
    column = _read_table(file, ["session"]).column("session")
    if column.null_count:
        raise ArchiveError(f"{file.name} has rows without a session")
    try:
        names: list[str] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise unreadable(file, error) from error
    return names


def rows_of_session(file: BinaryIO, session: str, events: int) -> list[int]:
    """Row numbers of a session's index; `file` is a sessions file of a segment of `events` events.

    Raises ArchiveError unless each number is above the one before it, and that of an event.
    """
    table = _read_table(file)
    index = pc.index(table.column("session"), session).as_py()
    if index < 0:
        return []
    stored, rows = table.column("rows")[index], array("I")
    try:
        if stored.as_buffer().size > events * rows.itemsize:
            raise ValueError(f"the index of {session} has more rows than the segment")
        rows.frombytes(stored.as_py())
    except (AttributeError, TypeError, ValueError) as error:
        raise unreadable(file, error) from error
    numbers = list(rows)
    if any(low >= high for low, high in pairwise(numbers)) or (numbers and numbers[-1] >= events):
        raise unreadable(file, ValueError(f"the index of {session} is not in the order of rows"))
    return numbers


def entries_at(file: BinaryIO, rows: Sequence[int]) -> list[bytes]:
    """The stored bytes of these rows, in order. Reads only the row groups that have them."""
    return _values_at(file, "entry", rows)


def entries_where(
    file: BinaryIO, *, ms: tuple[int, int], equal: Mapping[str, str]
) -> list[tuple[int, int, bytes]]:
    """(ms, seq, stored bytes) of the rows in a range of times with these column values."""
    table = _read_table(file, ["ms", "seq", *equal])
    times = table.column("ms")
    low, high = (min(bound, MS_MAX) for bound in ms)
    matches = pc.and_(pc.greater_equal(times, low), pc.less_equal(times, high))
    for name, value in equal.items():
        matches = pc.and_(matches, pc.equal(table.column(name), value))
    indices = pc.indices_nonzero(matches)
    entries = entries_at(file, indices.to_pylist())
    ids = [table.column(name).take(indices).to_pylist() for name in ("ms", "seq")]
    return list(zip(*ids, entries, strict=True))


def read_snapshot(file: BinaryIO) -> list[SnapshotRecord]:
    table = _read_table(file)
    columns = [table.column(name).to_pylist() for name in SNAPSHOT.names]
    return [SnapshotRecord(*row) for row in zip(*columns, strict=True)]


def read_audio(file: BinaryIO, entry_id: str) -> list[bytes]:
    """The stored chunks of the utterance that this entry finalizes."""
    ids = _read_table(file, ["entry_id"]).column("entry_id")
    rows = pc.indices_nonzero(pc.equal(ids, entry_id)).to_pylist()
    return [chunk for chunks in _values_at(file, "chunks", rows) for chunk in chunks]


def read_utterances(file: BinaryIO) -> list[Utterance]:
    """Every utterance of an audio file, with its stored chunks."""
    table = _read_table(file)
    if any(table.column(name).null_count for name in AUDIO.names):
        raise ArchiveError(f"{file.name} has rows without a value")
    try:
        columns = [table.column(name).to_pylist() for name in AUDIO.names]
    except UnicodeDecodeError as error:
        raise unreadable(file, error) from error
    return [Utterance(*row) for row in zip(*columns, strict=True)]


def _read_table(file: BinaryIO, columns: Sequence[str] | None = None) -> Any:
    """A table of the file's rows. Raises ArchiveError if it is not valid Parquet."""
    try:
        with open_parquet(file) as parquet:
            return parquet.read(columns, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, error) from error


def _values_at(file: BinaryIO, column: str, rows: Sequence[int]) -> list[Any]:
    """The values of a column at these rows, in order. Reads only the row groups that have them."""
    try:
        with open_parquet(file) as parquet:
            return _values_in_groups(parquet, column, rows)
    except (OSError, pa.ArrowException, IndexError) as error:
        raise unreadable(file, error) from error


def _values_in_groups(parquet: Any, column: str, rows: Sequence[int]) -> list[Any]:
    values: list[Any] = []
    end = 0
    for group in range(parquet.metadata.num_row_groups):
        start, end = end, end + parquet.metadata.row_group(group).num_rows
        in_group = [row - start for row in rows if start <= row < end]
        if in_group:
            table = parquet.read_row_group(group, columns=[column], use_threads=False)
            values += table.column(column).take(pa.array(in_group)).to_pylist()
    return values


def unreadable(file: BinaryIO, error: Exception) -> ArchiveError:
    first_line = str(error).strip().partition("\n")[0]
    return ArchiveError(f"{file.name} cannot be read: {first_line[:200]}")
