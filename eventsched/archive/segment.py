"""One segment as Parquet, zstd: a row per entry in the log's order.

Owns: the columns of its files, in both directions.
Never does: signatures, files' names. Read next: sealer.py, history/log.py.

    events     ms seq type session job node cause data   to query by; data is the JSON of `d`
               entry                                     the stored bytes: what leaves are made of
    sessions   session rows                              its index: row numbers, 4 bytes each
    audio      entry_id session utterance chunks         stored bytes of each chunk, with payload
    snapshot   projection entity at view                 view is msgpack; none where it was dropped
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from eventsched.archive.codec import encode_entry
from eventsched.errors import ArchiveError, require_packages
from eventsched.schema.ids import EntryId, format_id, parse_id
from eventsched.store.transport import Entry

require_packages("pyarrow")
import pyarrow as pa  # noqa: E402  one clear line where it is missing
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

ROW_GROUP = 8_192
_REPEATED = ["type", "session", "job", "node", "projection"]
EVENTS = pa.schema(
    [
        ("ms", pa.int64()),
        ("seq", pa.int64()),
        ("type", pa.string()),
        ("session", pa.string()),
        ("job", pa.string()),
        ("node", pa.string()),
        ("cause", pa.string()),
        ("data", pa.string()),
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


class Rows:
    """The rows of a segment as they are gathered."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, entries: Sequence[Entry], after: EntryId) -> EntryId:
        """A row each, in the log's order; the last one's place. Raises ArchiveError for another."""
        append, last = self._rows.append, after
        for entry in entries:
            entry_id, fields = entry
            place = parse_id(entry_id)
            if place <= last:
                raise ArchiveError(f"entry {entry_id} does not follow {format_id(*last)}")
            last = place
            nine = fields[1::2] if len(fields) == 18 else _NONE
            kind, _, session, job, node, cause, _, data, _ = nine
            append((*place, kind, session, job, node, cause, data, encode_entry(entry)))
        return last

    def entries(self) -> list[bytes]:
        return [row[-1] for row in self._rows]

    def parquet(self) -> bytes:
        columns = zip(*self._rows, strict=True)
        return encoded(
            [_column(list(each), field) for each, field in zip(columns, EVENTS, strict=True)],
            EVENTS,
        )


_NONE = [b""] * 9


def _column(values: list[Any], field: Any) -> Any:
    if field.type != pa.string():
        return pa.array(values, field.type)
    try:
        return pa.array(values, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:  # no script writes this: something to query by, not what is proved
        return pa.array([value.decode(errors="replace") for value in values], pa.string())


def sessions_parquet(indexes: Mapping[str, Sequence[int]]) -> bytes:
    names = sorted(indexes)
    rows = [array("I", indexes[name]).tobytes() for name in names]
    return encoded([pa.array(names, pa.string()), pa.array(rows, pa.binary())], SESSIONS)


class Utterance(msgspec.Struct, frozen=True):
    """The audio of one UtteranceFinalized."""

    entry_id: str
    session: str
    utterance: int
    chunks: Sequence[bytes]


def audio_parquet(utterances: Sequence[Utterance]) -> bytes:
    columns = [
        pa.array([one.entry_id for one in utterances], pa.string()),
        pa.array([one.session for one in utterances], pa.string()),
        pa.array([one.utterance for one in utterances], pa.int64()),
        pa.array([list(one.chunks) for one in utterances], pa.list_(pa.binary())),
    ]
    return encoded(columns, AUDIO, row_group=64)


class Kept(msgspec.Struct, frozen=True):
    """One record of a read model in a snapshot."""

    projection: str
    entity: str
    at: str
    view: bytes | None
    """None: there is no record any more."""


def snapshot_parquet(kept: Sequence[Kept]) -> bytes:
    columns = [
        pa.array([one.projection for one in kept], pa.string()),
        pa.array([one.entity for one in kept], pa.string()),
        pa.array([one.at for one in kept], pa.string()),
        pa.array([one.view for one in kept], pa.binary()),
    ]
    return encoded(columns, SNAPSHOT)


def encoded(columns: Sequence[Any], schema: Any, *, row_group: int = ROW_GROUP) -> bytes:
    """The same columns always give the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        sink,
        compression="zstd",
        use_dictionary=[name for name in _REPEATED if name in schema.names],
        row_group_size=row_group,
        write_statistics=["ms", "seq"] if "ms" in schema.names else False,
    )
    found: bytes = sink.getvalue().to_pybytes()
    return found


# --- reading --------------------------------------------------------------------------------


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A file's columns. Raises ArchiveError when it is not the Parquet that we write."""
    try:
        return pq.read_table(path, columns=columns, use_threads=False, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error


def read_entries(path: Path) -> list[bytes]:
    """The stored bytes of every row."""
    found: list[bytes] = _only_entries(path, read_table(path, ["entry"]))
    return found


def rows_of_session(path: Path, session: str) -> list[int]:
    """Row numbers of a session's index; `path` is a sessions file."""
    table = read_table(path)
    place = pc.index(table.column("session"), session).as_py()
    if place < 0:
        return []
    rows = array("I")
    rows.frombytes(table.column("rows")[place].as_py())
    return list(rows)


def sessions_in(path: Path) -> list[str]:
    """Every session that a segment has something of."""
    found: list[str] = read_table(path, ["session"]).column("session").to_pylist()
    return found


def entries_at(path: Path, rows: Sequence[int]) -> list[bytes]:
    """The stored bytes of some rows, in their order: reads only the row groups that hold them."""
    try:
        with pq.ParquetFile(path) as file:
            return _entries_at(file, rows)
    except (OSError, pa.ArrowException, IndexError) as error:
        raise unreadable(path, error) from error


def _entries_at(file: Any, rows: Sequence[int]) -> list[bytes]:
    found: list[bytes] = []
    ends = 0
    left = list(rows)
    for group in range(file.metadata.num_row_groups):
        begins, ends = ends, ends + file.metadata.row_group(group).num_rows
        inside = [row - begins for row in left if begins <= row < ends]
        if inside:
            column = file.read_row_group(group, columns=["entry"], use_threads=False)["entry"]
            found += column.take(pa.array(inside)).to_pylist()
    return found


def entries_where(
    path: Path, *, ms: tuple[int, int], equal: Mapping[str, str]
) -> list[tuple[int, int, bytes]]:
    """(ms, seq, stored bytes) of rows within a time and with these column values."""
    wanted: Any = (pc.field("ms") >= ms[0]) & (pc.field("ms") <= ms[1])
    for name, value in equal.items():
        wanted &= pc.field(name) == value
    try:
        table = pq.read_table(
            path,
            columns=["ms", "seq", "entry"],
            filters=wanted,
            use_threads=False,
            partitioning=None,
        )
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    columns = [table.column(name).to_pylist() for name in ("ms", "seq", "entry")]
    return list(zip(*columns, strict=True))


def read_snapshot(path: Path) -> list[Kept]:
    table = read_table(path)
    columns = [table.column(name).to_pylist() for name in SNAPSHOT.names]
    return [Kept(*row) for row in zip(*columns, strict=True)]


def read_audio(path: Path, entry_id: str) -> list[bytes]:
    """The stored chunks of one utterance."""
    try:
        table = pq.read_table(
            path,
            columns=["chunks"],
            filters=pc.field("entry_id") == entry_id,
            use_threads=False,
            partitioning=None,
        )
    except (OSError, pa.ArrowException) as error:
        raise unreadable(path, error) from error
    return [chunk for row in table.column("chunks").to_pylist() for chunk in row]


def _only_entries(path: Path, table: Any) -> list[bytes]:
    if table.schema.names != ["entry"] or table.schema.field("entry").type != pa.binary():
        raise ArchiveError(f"{path} has no column of stored bytes")
    column = table.column("entry")
    if column.null_count:
        raise ArchiveError(f"{path} has rows without stored bytes")
    found: list[bytes] = column.to_pylist()
    return found


def unreadable(path: Path, error: Exception) -> ArchiveError:
    first = str(error).strip().partition("\n")[0]
    return ArchiveError(f"{path} cannot be read: {first[:200]}")
