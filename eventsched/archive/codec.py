"""Encodes a log entry as the bytes that are stored, and as the leaf that is hashed.

Owns: entry <-> bytes, and the leaf of an entry. The encoding is msgpack of [id, the nine values in
order], all as bytes. An entry with other fields, which no script writes, is [id, [name, value, …]].
Each entry has exactly one encoding; other encodings of it are refused. The leaf is a prefix, the
entry's position in its segment and its bytes, which begin with its id: its hash binds all three.
Must not: interpret the values.
Read next: merkle.py (hashes the bytes), segment.py (stores them).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

NAMES = [name.encode() for name in FIELDS]
LEAF_PREFIX = b"eventsched entry 1\n"
"""Begins the leaf of an entry; the leaf of a segment begins with another prefix (manifest.py)."""
_VALUES = len(NAMES) + 1
_encode = msgspec.msgpack.Encoder().encode
_decode: Any = msgspec.msgpack.Decoder(list[bytes | list[bytes]]).decode


def encode_entry(entry: Entry) -> bytes:
    """The bytes of an entry as it was read from the stream."""
    entry_id, fields = entry
    if fields[::2] == NAMES:
        return _encode([entry_id.encode(), *fields[1::2]])
    return _encode([entry_id.encode(), fields])


def decode_entry(data: bytes) -> Entry:
    """The entry with this encoding. Raises ValueError if the bytes are not one."""
    try:
        decoded = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no stored entry: {error}") from error
    if len(decoded) == _VALUES and all(isinstance(value, bytes) for value in decoded):
        values = decoded[1:]
        fields = [part for pair in zip(NAMES, values, strict=True) for part in pair]
    elif len(decoded) == 2 and isinstance(decoded[1], list):
        fields = decoded[1]
    else:
        raise ValueError("no stored entry: neither nine values nor a list of fields")
    entry = decoded[0].decode("ascii"), fields
    if encode_entry(entry) != data:
        raise ValueError("no stored entry: there is another encoding of it")
    return entry


def entry_leaf(position: int, data: bytes) -> bytes:
    """The leaf of the entry with these stored bytes at this position of its segment, from 0."""
    return LEAF_PREFIX + position.to_bytes(8, "big") + data


def entry_leaves(entries: Iterable[bytes]) -> Iterator[bytes]:
    """The leaves of a segment's entries, in order."""
    return (entry_leaf(position, data) for position, data in enumerate(entries))


def values(data: bytes) -> list[Any]:
    """[id, value, …] of bytes whose hash has been verified: fast, without further checks."""
    return _decode(data)  # type: ignore[no-any-return]
