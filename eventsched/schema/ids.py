"""Ids of stream entries, `<milliseconds>-<sequence>`: parse, compare, build.

Owns: the only code that takes an entry id apart. Ids compare as numbers; as text, 9-5 would come
after 10-1.
Must not: do I/O.
Read next: lua/include/entry_ids.lua (the same for scripts), history/position.py (ids in commands).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypeAlias

from eventsched.errors import ArchiveError

EntryId: TypeAlias = tuple[int, int]
"""An entry id as (milliseconds, sequence): tuples compare in the order of the stream."""
START = "0-0"
"""The id before all entries: a read after it returns the stream from its first entry."""
BEFORE_ALL: EntryId = (0, 0)
BEFORE_FIRST: EntryId = (-1, 0)
"""Below every id, 0-0 included."""
SEQUENCE_MAX = (1 << 64) - 1
"""Also the greatest milliseconds: both numbers of an id have 64 bits, without a sign."""
AFTER_ALL: EntryId = (SEQUENCE_MAX, SEQUENCE_MAX)
_ID = re.compile(r"(0|[1-9][0-9]{0,19})-(0|[1-9][0-9]{0,19})")

_SHORT = 22
"""An id of fewer characters has no number of 20 digits."""


def is_id(text: str) -> bool:
    """Whether the text is an entry id in the form that Redis writes."""
    found = _ID.fullmatch(text)
    if found is None:
        return False
    return len(text) < _SHORT or all(int(each) <= SEQUENCE_MAX for each in found.groups())


def parse_id(entry_id: str) -> EntryId:
    """The numbers of an id that Redis wrote; an id without a sequence has sequence 0."""
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq or 0)


def check_id(text: str) -> EntryId:
    """The numbers of an id from a file or a user. Raises ArchiveError if it is not an id."""
    if not is_id(text):
        raise ArchiveError(f"{text!r} is no entry id, such as 1700000000000-0")
    return parse_id(text)


@lru_cache(512)  # each read model that folds an event asks for the time of its id
def ms_of(entry_id: str) -> int:
    """When the entry was appended: milliseconds of the clock that its stream uses."""
    return int(entry_id.partition("-")[0])


def ms_between(entry_id: str, earliest_ms: int, latest_ms: int) -> int:
    """When the entry was appended; `latest_ms` if the text is no id of a time between the two."""
    ms = ms_of(entry_id) if is_id(entry_id) else -1
    return ms if earliest_ms <= ms <= latest_ms else latest_ms


def format_id(ms: int, seq: int) -> str:
    return f"{ms}-{seq}"


def id_before(entry_id: str) -> str:
    """The greatest id below this one: a read after it returns this entry first."""
    ms, seq = parse_id(entry_id)
    return format_id(ms, seq - 1) if seq else format_id(ms - 1, SEQUENCE_MAX)


def padded_id(entry_id: str) -> str:
    """The id for file names: names sort in the order of the stream. Raises ArchiveError."""
    ms, seq = check_id(entry_id)
    return f"{ms:015d}-{seq:06d}"
