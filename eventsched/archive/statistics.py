"""Checks that the footer of an events file says nothing else than its columns.

Owns: which statistics and indexes an events file may have, and whether they are true.
Must not: check sizes (pages.py does, before), or the columns themselves (derived.py does).
Read next: footer.py (the form of a footer), sealed_file.py (the caller), sql.py.

DuckDB skips the rows of a group whose statistics exclude a value, and so do its filters on Bloom
filters and indexes of pages. Arrow reads all rows. So the maker of an archive could hide events
from SQL only. Statistics exist for `ms` and `seq`, because packs are read by time; nothing else may
be there.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from eventsched.archive.footer import Struct, check_fields, decode_footer, integer, structs
from eventsched.errors import require_packages

require_packages("pyarrow")
import pyarrow as pa  # noqa: E402  after a clear error if it is missing
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

_MEASURED = ("ms", "seq")
"""The first columns of an events file: those with statistics."""
_STRUCT, _BINARY, _TRUE = 12, 8, 1
_ROWS, _GROUPS, _COLUMNS, _METADATA, _VALUES, _STATISTICS = 3, 4, 1, 3, 5, 12
_GROUP_FIELDS, _COLUMN_FIELDS = {1, 2, 3, 5, 6, 7}, {2, 3}
_METADATA_FIELDS = {1, 2, 3, 4, 5, 6, 7, 9, 13, 16}
_MAXIMA, _MINIMA, _NULLS, _EXACT = (1, 5), (2, 6), 3, (7, 8)


def find_statistics_fault(file: BinaryIO) -> str:
    """Why SQL could read other rows than the file has, or an empty text.

    Args:
        file: An events file whose sizes are checked; its position changes.
    """
    try:
        footer = decode_footer(file)
        with pq.ParquetFile(file, pre_buffer=False) as parquet:  # no thread: segment.py
            groups = structs(footer, _GROUPS)
            if integer(footer, _ROWS) != sum(integer(group, _ROWS) for group in groups):
                return "has a footer with another number of rows"
            for number, group in enumerate(groups):
                check_fields(group, _GROUP_FIELDS)
                table = parquet.read_row_group(number, columns=_MEASURED, use_threads=False)
                _check_group(group, [table.column(name) for name in _MEASURED])
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        return f"cannot be read: {str(error).strip().partition(chr(10))[0]:.200}"
    return ""


def _check_group(group: Struct, measured: list[Any]) -> None:
    """Raises ValueError unless the statistics of a row group are those of its columns."""
    rows = integer(group, _ROWS)
    for at, column in enumerate(structs(group, _COLUMNS)):
        check_fields(column, _COLUMN_FIELDS)
        kind, metadata = column.get(_METADATA, (0, None))
        if kind != _STRUCT:
            raise ValueError("a column without metadata")
        is_measured = at < len(measured)
        check_fields(
            metadata, _METADATA_FIELDS | {_STATISTICS} if is_measured else _METADATA_FIELDS
        )
        if integer(metadata, _VALUES) != rows:
            raise ValueError("a column with another number of values than rows")
        if is_measured:
            _check_statistics(metadata.get(_STATISTICS), measured[at])


def _check_statistics(statistics: tuple[int, Any] | None, column: Any) -> None:
    if column.null_count:
        raise ValueError("a row without a time")
    if statistics is None:
        return
    kind, fields = statistics
    if kind != _STRUCT:
        raise ValueError("statistics of another kind")
    bounds = pc.min_max(column).as_py()
    expected: Struct = {_NULLS: (6, 0)}
    expected |= {number: (_BINARY, _encoded(bounds["min"])) for number in _MINIMA}
    expected |= {number: (_BINARY, _encoded(bounds["max"])) for number in _MAXIMA}
    expected |= dict.fromkeys(_EXACT, (_TRUE, None))
    if any(expected.get(number) != field for number, field in fields.items()):
        raise ValueError("statistics that are not those of the column")


def _encoded(value: int | None) -> bytes:
    """A number as statistics have it; of a column without rows none is right."""
    return (value % (1 << 64)).to_bytes(8, "little") if value is not None else b""
