"""Moments as people name them: an entry's id, or a time.

Owns: reading `--at`, `--since` and `--until`.
Never does: clocks, I/O. Read next: reader.py.

    1764085603123-4                 that entry (also as `log/1764085603123-4`, as causes are shown)
    1764085603123                   that millisecond of the cell's clock
    2026-11-25T15:46:43.123Z        an ISO 8601 time; without a zone it is the reader's own clock
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from eventsched.errors import InvalidMessage

_ID = re.compile(r"(?:log/)?(?:(\d{1,15})-(\d{1,19})|(\d{10,15}))")
_SEQ_MAX = 10**18
_REMEDY = "give an entry's id (1764085603123-4) or a time (2026-11-25T15:46:43.123Z)"


class Moment(msgspec.Struct, frozen=True):
    """An entry of the log, or a whole millisecond."""

    ms: int
    seq: int | None
    """None: all entries of that millisecond."""
    text: str
    """As it was given."""

    @property
    def first(self) -> str:
        """Id of the first entry that it means."""
        return f"{self.ms}-{self.seq or 0}"

    @property
    def last(self) -> str:
        """Id of the last entry that it can mean."""
        return f"{self.ms}-{_SEQ_MAX if self.seq is None else self.seq}"

    @property
    def before(self) -> str:
        """Id behind which it begins: entries behind this one are not before it."""
        if self.seq:
            return f"{self.ms}-{self.seq - 1}"
        return f"{self.ms - 1}-{_SEQ_MAX}" if self.ms else "0-0"


def parse_moment(text: str, field: str) -> Moment:
    """What `text` means. Raises InvalidMessage naming `field`."""
    match = _ID.fullmatch(text.strip())
    if match is not None:
        ms, seq, alone = match.groups()
        return Moment(int(ms or alone), int(seq) if seq else None, text)
    try:
        told = datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise InvalidMessage.of(field, f"{text!r} is no moment", _REMEDY) from None
    ms = round(told.timestamp() * 1000)
    if ms < 0:
        raise InvalidMessage.of(field, f"{text!r} is before 1970", _REMEDY)
    return Moment(ms, None, text)
