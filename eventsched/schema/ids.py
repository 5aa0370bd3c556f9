"""Log entry ids: as numbers, as times, as parts of file names.

Owns: parsing and order. Never does: I/O. Comparing ids as text is wrong.
"""

from __future__ import annotations

import re

from eventsched.errors import ArchiveError

Place = tuple[int, int]
"""An entry id as the two numbers that it is."""
BEFORE_ALL: Place = (0, 0)
AFTER_ALL: Place = ((1 << 63) - 1, 0)
_ID = re.compile(r"(0|[1-9]\d{0,18})-(0|[1-9]\d{0,18})")


def place_of(entry_id: str) -> Place:
    """Raises ArchiveError when it is no id."""
    match = _ID.fullmatch(entry_id)
    if match is None:
        raise ArchiveError(f"{entry_id!r} is no entry id, such as 1700000000000-0")
    return int(match[1]), int(match[2])


def id_of(place: Place) -> str:
    return f"{place[0]}-{place[1]}"


def padded(entry_id: str) -> str:
    """For names of files, so that a folder lists them in order."""
    ms, seq = place_of(entry_id)
    return f"{ms:015d}-{seq:06d}"
