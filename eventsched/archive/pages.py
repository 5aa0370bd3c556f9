"""Bounds the size of a Parquet file before any of it is decompressed.

Owns: reading the page headers of a file, and what a file of an archive may have: these columns,
plain values in pages of version 1, at most so many values and bytes after decompression, and a
footer that is no larger than its rows need.
Must not: decompress, or interpret values.
Read next: segment.py (writes and reads the files), sealed_file.py (the caller).

Anybody can make an archive, sign it, and give it to an auditor. A few bytes of a compressed page
may unpack to gigabytes; so may dictionaries, whose values are repeated by number, and values that
share the beginning of the value before. The footer of a file states sizes, but the reader believes
the headers of the pages. So every header is read first. Headers are in the compact protocol of
Apache Thrift; PageHeader is defined by parquet.thrift.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from eventsched.archive.footer import footer_bytes
from eventsched.archive.thrift import CompactReader
from eventsched.errors import require_packages

require_packages("pyarrow")
import pyarrow as pa  # noqa: E402  after a clear error if it is missing
import pyarrow.parquet as pq  # noqa: E402

UNPACKED_BYTES_MAX = 2 << 30
"""Bytes of a file's pages after decompression."""
VALUES_MAX = 50_000_000
"""Values of a file, of all columns; a value without bytes takes memory, too."""
FOOTER_BYTES_MAX = 8 << 20
"""Bytes of a footer; its parser takes many times as much memory."""
_OTHER_FOOTER_BYTES_MAX, _GROUP_BYTES_MAX = 65_536, 8_192
_ROW_GROUP, _AUDIO_ROW_GROUP = 8_192, 64
"""Rows of each row group but the last one, as segment.py writes them."""
_HEADER_BYTES_MAX = 1_024
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3
_TYPE, _UNPACKED_BYTES, _PACKED_BYTES, _DATA_HEADER = 1, 2, 3, 5
_VALUES, _ENCODING, _DEFINITIONS, _REPETITIONS = 1, 2, 3, 4
_TRUE, _FALSE, _I32, _I64, _BINARY, _STRUCT = 1, 2, 5, 6, 8, 12
_DEPTH_MAX = 4


def find_fault(file: BinaryIO, schema: Any) -> str:
    """Why a file must not be decompressed, or an empty text.

    Args:
        file: The file; its position changes.
        schema: The columns that it must have.
    """
    try:
        footer = footer_bytes(file, file.seek(0, os.SEEK_END))
        if footer > FOOTER_BYTES_MAX:
            return f"has a footer of more than {FOOTER_BYTES_MAX:,} bytes"
        with pq.ParquetFile(file, pre_buffer=False) as parquet:  # no thread: segment.py
            if not parquet.schema_arrow.equals(schema):
                return "has other columns"
            row_group = _AUDIO_ROW_GROUP if "chunks" in schema.names else _ROW_GROUP
            return _find_row_group_fault(footer, parquet.metadata, row_group) or _find_fault(
                file, parquet.metadata
            )
    except (OSError, pa.ArrowException, ValueError) as error:
        return f"cannot be read: {str(error).strip().partition(chr(10))[0]:.200}"


def _find_row_group_fault(footer: int, metadata: Any, row_group: int) -> str:
    """Why the footer takes more time to read than its rows need, or an empty text."""
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if len(rows) > 1 and min(rows) < 1:
        return "has a row group without rows"
    if sum(rows) != metadata.num_rows:
        return "has a footer with another number of rows"
    if len(rows) > 1 + metadata.num_rows // row_group:
        return "has more row groups than its rows need"
    if footer > _OTHER_FOOTER_BYTES_MAX + len(rows) * _GROUP_BYTES_MAX:
        return "has a footer with more than its row groups need"
    return ""


def _find_fault(file: BinaryIO, metadata: Any) -> str:
    unpacked = values = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.has_dictionary_page:
                return "has a dictionary"
            chunk_values = 0
            at, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
            while at < end:
                file.seek(at)
                header, size = _page_header(file.read(_HEADER_BYTES_MAX))
                data_header = _plain_data(header)
                chunk_values += data_header[_VALUES]
                unpacked += header[_UNPACKED_BYTES]
                at += size + header[_PACKED_BYTES]
            values += chunk_values
            if chunk_values < metadata.row_group(group).num_rows:
                return "has a column with fewer values than rows"
            if at != end or chunk_values != chunk.num_values:
                return "has pages that do not fill their column"
            if unpacked > UNPACKED_BYTES_MAX:
                return f"has more than {UNPACKED_BYTES_MAX:,} bytes after decompression"
            if values > VALUES_MAX:
                return f"has more than {VALUES_MAX:,} values"
    return ""


def _plain_data(header: dict[int, Any]) -> dict[int, Any]:
    """The header of a data page with plain values. Raises ValueError for any other page."""
    sizes = header.get(_UNPACKED_BYTES), header.get(_PACKED_BYTES)
    data_header = header.get(_DATA_HEADER)
    if header.get(_TYPE) != _DATA_PAGE or not isinstance(data_header, dict):
        raise ValueError("a page of another kind")
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise ValueError("a page without a size")
    values = data_header.get(_VALUES)
    if not isinstance(values, int) or values < 0:
        raise ValueError("a page without a number of values")
    encodings = tuple(data_header.get(name) for name in (_ENCODING, _DEFINITIONS, _REPETITIONS))
    if encodings != (_PLAIN, _RLE, _RLE):
        raise ValueError("a page whose values are not plain")
    return data_header


def _page_header(data: bytes) -> tuple[dict[int, Any], int]:
    """The fields of a page header by number, and its length in bytes. Raises ValueError."""
    reader = _HeaderReader(data, "a page header")
    return reader.struct(0), reader.at


class _HeaderReader(CompactReader):
    """Reads a struct of numbers, texts and structs. Raises ValueError for anything else."""

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _DEPTH_MAX:
            raise ValueError("a page header that is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self.zigzag()
            if number in fields:
                raise ValueError("a page header with a field twice")
            fields[number] = self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_I32, _I64):
            return self.zigzag()
        if kind == _BINARY:
            length = self.varint()
            self.at += length
            return None
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError("a page header of another kind")
