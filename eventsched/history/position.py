"""Parses positions in the log as users give them: an entry's id, or a time.

Owns: the syntax of `--at`, `--since` and `--until`.
Must not: read a clock, do I/O.
Read next: reader.py (uses positions), schema/ids.py.

    1764085603123-4                 that entry; also as shown in causes: `log/1764085603123-4`
    1764085603123                   13 digits: that millisecond of the cell's clock
    1764085603                      10 or 11 digits: that second, as `date +%s` prints it
    2026-11-25T15:46:43.123Z        an ISO 8601 time; without a zone it is local time
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from eventsched.errors import InvalidMessage
from eventsched.schema.ids import START, format_id, parse_id

_ID = re.compile(r"(?:log/)?([0-9]{1,15}-[0-9]{1,19})")
_DIGITS = re.compile(r"[0-9]+")
_SECONDS_DIGITS, _MS_DIGITS = (10, 11), 13
"""12 digits are ambiguous; more digits are another unit."""
_DATE_DIGITS = 8
"""20261125: a date without hyphens, which ISO 8601 allows."""
_SEQ_MAX = 10**18
"""A sequence above all that a log has in one millisecond, in 19 digits."""
_REMEDY = (
    "give an entry's id (1764085603123-4), a time (2026-11-25T15:46:43.123Z) or seconds since "
    "1970 (1764085603)"
)


class LogPosition(msgspec.Struct, frozen=True):
    """A position in the log: an entry, or all entries of a millisecond."""

    ms: int
    seq: int | None
    """None: all entries of that millisecond."""
    text: str
    """The text that was parsed."""

    @property
    def first(self) -> str:
        """Id of the first entry at the position."""
        return format_id(self.ms, self.seq or 0)

    @property
    def last(self) -> str:
        """The greatest id at the position."""
        return format_id(self.ms, _SEQ_MAX if self.seq is None else self.seq)

    @property
    def before(self) -> str:
        """The greatest id before the position; a read after it starts at the position."""
        if self.seq:
            return format_id(self.ms, self.seq - 1)
        return format_id(self.ms - 1, _SEQ_MAX) if self.ms else START


def parse_position(text: str, field: str) -> LogPosition:
    """Parse a position. Raises InvalidMessage naming `field`."""
    stripped = text.strip()
    match = _ID.fullmatch(stripped)
    if match is not None:
        return LogPosition(*parse_id(match[1]), text)
    if _DIGITS.fullmatch(stripped) and len(stripped) != _DATE_DIGITS:
        return LogPosition(_ms_of_digits(stripped, field), None, text)
    try:
        time = datetime.fromisoformat(stripped).astimezone()
    except (ValueError, OverflowError):
        raise InvalidMessage.of(field, f"{text!r} is no position", _REMEDY) from None
    ms = round(time.timestamp() * 1000)
    if ms < 0:
        raise InvalidMessage.of(field, f"{text!r} is before 1970", _REMEDY)
    return LogPosition(ms, None, text)


def _ms_of_digits(digits: str, field: str) -> int:
    """Milliseconds since 1970; the number of digits determines the unit."""
    if len(digits) == _MS_DIGITS:
        return int(digits)
    if len(digits) in _SECONDS_DIGITS:
        return int(digits) * 1_000
    raise InvalidMessage.of(
        field,
        f"10 or 11 digits (seconds) or 13 (milliseconds) expected, got {len(digits)} in "
        f"{digits!r:.40}",
        _REMEDY,
    )
