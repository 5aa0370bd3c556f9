"""The limit on the nesting of stored JSON and MessagePack: 32 levels.

Owns: `check_json` and `check_msgpack`, which decoders of stored values call first.
Must not: decode.
Read next: codec.py.

A decoder skips fields that it does not know, however deep they are. It fails at the recursion limit
of Python, which counts the frames of the caller too: one reader could read an entry that another
one cannot, and the error is no DecodeError. So the depth is checked first, by a scan without
recursion. No value of this package has more than ten levels.
"""

from __future__ import annotations

import re

import msgspec

NESTING_MAX = 32
_JSON_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""A string, to its end or that of the data."""
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MSGPACK_CONTAINERS = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
"""First bytes of arrays and maps. The same bytes occur in texts."""
_SIZES = {
    0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1),
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0),
}  # fmt: skip
"""First byte of a binary, extension or text -> bytes of its length, further bytes before it."""
_FIXED = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1,
    0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip
"""First byte of a value of fixed size -> bytes that follow."""
_COUNTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""First byte of an array or a map -> bytes of its count, values of each item."""


def check_json(data: bytes) -> bytes:
    """Return the data. Raises msgspec.DecodeError if it is nested beyond 32 levels."""
    if data.count(b"[") + data.count(b"{") > NESTING_MAX:
        brackets = _JSON_TEXT.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
        for _ in range(NESTING_MAX):  # each round removes the innermost level
            if not brackets:
                break
            brackets = brackets.replace(b"[]", b"")
        if brackets:
            raise _too_deep()
    return data


def check_msgpack(data: bytes) -> bytes:
    """Return the data. Raises msgspec.DecodeError if it is nested beyond 32 levels.

    Data that is not MessagePack is not examined to its end: the decoder refuses it there.
    """
    others = data.translate(None, _MSGPACK_CONTAINERS)
    if len(data) - len(others) > NESTING_MAX and _is_too_deep(data):
        raise _too_deep()
    return data


def _too_deep() -> msgspec.DecodeError:
    return msgspec.DecodeError(f"nested beyond {NESTING_MAX} levels")


def _is_too_deep(data: bytes) -> bool:
    open_values = [1]
    """Values that are still missing in each open container, the outermost first."""
    at, end = 0, len(data)
    while at < end:
        while not open_values[-1]:
            open_values.pop()
            if not open_values:
                return False  # further bytes are no part of the value
        open_values[-1] -= 1
        first = data[at]
        at += 1
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0xA0:
            count = (first & 0x0F) * (2 if first < 0x90 else 1)
        elif first < 0xC0:
            at += first & 0x1F
            continue
        elif first in _COUNTS:
            size, values = _COUNTS[first]
            count = int.from_bytes(data[at : at + size]) * values
            at += size
        elif first in _SIZES:
            size, more = _SIZES[first]
            at += size + more + int.from_bytes(data[at : at + size])
            continue
        elif first in _FIXED:
            at += _FIXED[first]
            continue
        else:
            return False  # 0xC1 is never used
        open_values.append(count)
        if len(open_values) - 1 > NESTING_MAX:
            return True
    return False
