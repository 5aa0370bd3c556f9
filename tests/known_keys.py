"""Which keys may exist: the table in eventsched/schema/keys.py, read as patterns.

Owns: telling a key of the layout from one that nobody documented, by name and type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from eventsched.schema import keys

_ROW = re.compile(r"^    (\S+)\s+(stream|hash|set|zset|string|list)\s+[DS]\b", re.MULTILINE)
_PART = re.compile(r"<[^>]+>")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One row of the table."""

    pattern: re.Pattern[str]
    redis_type: str


def _pattern(row: str) -> re.Pattern[str]:
    """`audio:<session>`: parts end at a colon; only the last part (a job key) may hold colons."""
    *inner, last = _PART.split(row)
    parts = "".join(re.escape(text) + "[^:]+" for text in inner[:-1])
    if inner:
        parts += re.escape(inner[-1]) + ".+"
    return re.compile(rf"{keys.LAYOUT}:\{{[a-z0-9]{{1,16}}\}}:{parts}{re.escape(last)}")


KNOWN = [KnownKey(_pattern(row), kind) for row, kind in _ROW.findall(keys.__doc__ or "")]


def types_of(key: str) -> set[str]:
    """The types that a key of this name may have; none when the table has no such name."""
    return {row.redis_type for row in KNOWN if row.pattern.fullmatch(key)}


def is_known(key: str, redis_type: str) -> bool:
    """Whether the table has a row for this key with this type."""
    return key == keys.CELLS or redis_type in types_of(key)
