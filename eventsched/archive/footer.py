"""Joins the footers of Parquet files, so that files that are joined are one Parquet file.

Owns: parsing and encoding of a Parquet footer, and the footer of a pack: the row groups of its
members, each at the place of its member.
Must not: read pages, or decide which files are joined (packer.py does).
Read next: packer.py (writes packs), sql.py (lets DuckDB read them), pages.py (bounds of a file).

A footer is a FileMetaData of parquet.thrift in the compact protocol of Apache Thrift. It names
the place of each column in the file; only these numbers and the number of rows change. A footer
with any other place or with a field twice is refused, so two readers cannot understand it
differently.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, BinaryIO, TypeAlias

from eventsched.archive.thrift import CompactReader

MAGIC = b"PAR1"
FOOTER_BYTES_MAX = 64 << 20
_END_BYTES = 8
"""Length of the footer (4 bytes) and MAGIC."""
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE = 1, 2, 3, 4, 5, 6, 7
_BINARY, _LIST, _STRUCT = 8, 9, 12
_DEPTH_MAX = 12
_ROWS, _GROUPS = 3, 4
_COLUMNS, _GROUP_AT, _ORDINAL = 1, 5, 7
_COLUMN_AT, _COLUMN_METADATA = 2, 3
_DATA_PAGES_AT = 9
_GROUP_FIELDS = {1, 2, 3, 5, 6, 7}
_COLUMN_FIELDS = {2, 3}
_METADATA_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 16}

Struct: TypeAlias = dict[int, tuple[int, Any]]
"""Number of a field -> its type and value. The value of a list is its element type and elements."""


def joined_footer(members: Iterable[tuple[int, BinaryIO]]) -> bytes:
    """Return the end of a file that has these Parquet files one after another.

    Args:
        members: Place of each Parquet file in the joined file, and the file.

    Returns:
        The footer, its length and MAGIC.

    Raises:
        ValueError: A file has no footer of the form that segments have.
    """
    joined: Struct = {}
    rows, groups = 0, []
    for at, file in members:
        metadata = decode_footer(file)
        rows += integer(metadata, _ROWS)
        groups += [_moved(group, at) for group in structs(metadata, _GROUPS)]
        joined = joined or metadata
    joined = joined | {_ROWS: (_I64, rows), _GROUPS: (_LIST, (_STRUCT, groups))}
    encoded = bytearray()
    _put_struct(encoded, joined)
    return bytes(encoded) + len(encoded).to_bytes(4, "little") + MAGIC


def footer_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of the footer at the end of a file of this size, with its length and MAGIC.

    Raises ValueError if the file does not end with a footer.
    """
    file.seek(max(0, size - _END_BYTES))
    end = file.read(_END_BYTES)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != MAGIC or length > min(size - _END_BYTES, FOOTER_BYTES_MAX):
        raise ValueError("the file does not end with a Parquet footer")
    return length + _END_BYTES


def decode_footer(file: BinaryIO) -> Struct:
    """The footer of a Parquet file. Raises ValueError if it has another form."""
    return _decode(_read_footer(file))


def _read_footer(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    length = footer_bytes(file, size)
    file.seek(size - length)
    return file.read(length - _END_BYTES)


def _moved(group: Struct, at: int) -> Struct:
    """The row group of a member that begins at this place. Raises ValueError for other places."""
    check_fields(group, _GROUP_FIELDS)
    columns = []
    for column in structs(group, _COLUMNS):
        check_fields(column, _COLUMN_FIELDS)
        kind, metadata = column.get(_COLUMN_METADATA, (0, None))
        if kind != _STRUCT:
            raise ValueError("a column without metadata")
        check_fields(metadata, _METADATA_FIELDS)
        moved = metadata | {_DATA_PAGES_AT: (_I64, integer(metadata, _DATA_PAGES_AT) + at)}
        columns.append(_shifted(column, _COLUMN_AT, at) | {_COLUMN_METADATA: (_STRUCT, moved)})
    group = _shifted(group, _GROUP_AT, at) | {_COLUMNS: (_LIST, (_STRUCT, columns))}
    return {number: field for number, field in group.items() if number != _ORDINAL}


def _shifted(struct: Struct, number: int, at: int) -> Struct:
    """The struct with `at` added to a place; 0 means that the writer names no place."""
    if number not in struct or not (place := integer(struct, number)):
        return struct
    return struct | {number: (_I64, place + at)}


def check_fields(struct: Struct, fields: set[int]) -> None:
    """Raises ValueError if the struct has another field than these."""
    others = struct.keys() - fields
    if others:
        raise ValueError(f"a footer with field {min(others)}, which segments do not have")


def integer(struct: Struct, number: int) -> int:
    """A number of rows, or a place. Raises ValueError if the field has no such number."""
    kind, value = struct.get(number, (0, None))
    if kind != _I64 or value < 0:
        raise ValueError("a footer without a number of rows or a place")
    return int(value)


def structs(struct: Struct, number: int) -> list[Struct]:
    """The structs of a list. Raises ValueError if the field has no such list."""
    kind, value = struct.get(number, (0, None))
    if kind != _LIST or (value[1] and value[0] != _STRUCT):
        raise ValueError("a footer without row groups or columns")
    structs: list[Struct] = value[1]
    return structs


# --- the compact protocol -------------------------------------------------------------------


def _decode(data: bytes) -> Struct:
    reader = _FooterReader(data, "a footer")
    struct = reader.struct(0)
    if reader.at != len(data):
        raise ValueError("a footer with more bytes than its fields")
    return struct


class _FooterReader(CompactReader):
    """Reads the types that a footer has. Raises ValueError for anything else."""

    def struct(self, depth: int) -> Struct:
        if depth > _DEPTH_MAX:
            raise ValueError("a footer that is nested too deep")
        fields: Struct = {}
        number = 0
        while head := self.byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self.zigzag()
            if number in fields or number < 0:
                raise ValueError("a footer with a field twice")
            fields[number] = (kind, self._value(kind, depth))
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return None
        if kind in (_I16, _I32, _I64):
            return self.zigzag()
        if kind == _BYTE:
            return self.byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self.varint())
        if kind == _LIST:
            return self._list(depth)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError("a footer with a value of another kind")

    def _list(self, depth: int) -> tuple[int, list[Any]]:
        if depth > _DEPTH_MAX:
            raise ValueError("a footer that is nested too deep")
        head = self.byte()
        size, kind = head >> 4, head & 15
        if size == 15:
            size = self.varint()
        # Each element has at least one byte.
        if kind in (_TRUE, _FALSE) or size > len(self._data) - self.at:
            raise ValueError("a footer with a list that is too long, or of another kind")
        return kind, [self._value(kind, depth + 1) for _ in range(size)]

    def _bytes(self, size: int) -> bytes:
        value = self._data[self.at : self.at + size]
        if len(value) != size:
            raise ValueError("a footer that is cut off")
        self.at += size
        return value


def _put_struct(out: bytearray, fields: Struct) -> None:
    last = 0
    for number in sorted(fields):
        kind, value = fields[number]
        step = number - last
        if 0 < step <= 15:
            out.append(step << 4 | kind)
        else:
            out.append(kind)
            _put_zigzag(out, number)
        _put_value(out, kind, value)
        last = number
    out.append(0)


def _put_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (_I16, _I32, _I64):
        _put_zigzag(out, value)
    elif kind == _BYTE:
        out.append(value)
    elif kind == _DOUBLE:
        out += value
    elif kind == _BINARY:
        _put_varint(out, len(value))
        out += value
    elif kind == _LIST:
        element, values = value
        out.append(min(len(values), 15) << 4 | element)
        if len(values) >= 15:
            _put_varint(out, len(values))
        for each in values:
            _put_value(out, element, each)
    elif kind == _STRUCT:
        _put_struct(out, value)


def _put_zigzag(out: bytearray, value: int) -> None:
    _put_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)


def _put_varint(out: bytearray, value: int) -> None:
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
