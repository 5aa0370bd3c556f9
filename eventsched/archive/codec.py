"""The stored bytes of one log entry: what leaves are made of, exactly as the stream had it.

Owns: entry <-> bytes. msgpack of [id, the nine values in their order], all of them bytes; an entry
of any other layout, which no script writes, is [id, [name, value, …]]. There is one encoding of an
entry and one entry of an encoding: what decodes to it and is not it, is refused.
Never does: look into the values. Read next: merkle.py, segment.py.
"""

from __future__ import annotations

from typing import Any

import msgspec

from eventsched.schema.events import FIELDS
from eventsched.store.transport import Entry

NAMES = [name.encode() for name in FIELDS]
_WIDE = len(NAMES) + 1
_encode = msgspec.msgpack.Encoder().encode
_decode: Any = msgspec.msgpack.Decoder(list[bytes | list[bytes]]).decode


def encode_entry(entry: Entry) -> bytes:
    """The bytes of an entry as a stream gave it."""
    entry_id, fields = entry
    if fields[::2] == NAMES:
        return _encode([entry_id.encode(), *fields[1::2]])
    return _encode([entry_id.encode(), fields])


def decode_entry(data: bytes) -> Entry:
    """The entry that was stored as these bytes. Raises ValueError for any others."""
    try:
        found = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no stored entry: {error}") from error
    if len(found) == _WIDE and all(isinstance(value, bytes) for value in found):
        values = found[1:]
        fields = [part for pair in zip(NAMES, values, strict=True) for part in pair]
    elif len(found) == 2 and isinstance(found[1], list):
        fields = found[1]
    else:
        raise ValueError("no stored entry: neither nine values nor a list of fields")
    entry = found[0].decode("ascii"), fields
    if encode_entry(entry) != data:
        raise ValueError("no stored entry: there is another encoding of it")
    return entry


def values(data: bytes) -> list[Any]:
    """[id, value, …] of bytes whose hash has been checked: quick, without a second look."""
    return _decode(data)  # type: ignore[no-any-return]
