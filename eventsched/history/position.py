"""Moments as people name them: an entry's id, or a time.

Owns: reading `--at`, `--since` and `--until`.
Never does: clocks, I/O. Read next: reader.py.

    1764085603123-4                 that entry (also as `log/1764085603123-4`, as causes are shown)
    1764085603123                   13 digits: that millisecond of the cell's clock
    1764085603                      10 or 11 digits: that second, as `date +%s` prints it
    2026-11-25T15:46:43.123Z        an ISO 8601 time; without a zone it is the reader's own clock
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
"""Between them a number may be either; with more digits it is of another unit."""
_DATE_DIGITS = 8
"""20261125: the date without hyphens, which ISO 8601 permits."""
_SEQ_MAX = 10**18
_REMEDY = (
    "give an entry's id (1764085603123-4), a time (2026-11-25T15:46:43.123Z) or seconds since "
    "1970 (1764085603)"
)


class LogPosition(msgspec.Struct, frozen=True):
    """An entry of the log, or a whole millisecond."""

    ms: int
    seq: int | None
    """None: all entries of that millisecond."""
    text: str
    """As it was given."""

    @property
    def first(self) -> str:
        """Id of the first entry that it means."""
        return format_id(self.ms, self.seq or 0)

    @property
    def last(self) -> str:
        """Id of the last entry that it can mean."""
        return format_id(self.ms, _SEQ_MAX if self.seq is None else self.seq)

    @property
    def before(self) -> str:
        """Id behind which it begins: entries behind this one are not before it."""
        if self.seq:
            return format_id(self.ms, self.seq - 1)
        return format_id(self.ms - 1, _SEQ_MAX) if self.ms else START


def parse_position(text: str, field: str) -> LogPosition:
    """What `text` means. Raises InvalidMessage naming `field`."""
    given = text.strip()
    match = _ID.fullmatch(given)
    if match is not None:
        return LogPosition(*parse_id(match[1]), text)
    if _DIGITS.fullmatch(given) and len(given) != _DATE_DIGITS:
        return LogPosition(_ms_of_digits(given, field), None, text)
    try:
        told = datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise InvalidMessage.of(field, f"{text!r} is no moment", _REMEDY) from None
    ms = round(told.timestamp() * 1000)
    if ms < 0:
        raise InvalidMessage.of(field, f"{text!r} is before 1970", _REMEDY)
    return LogPosition(ms, None, text)


def _ms_of_digits(digits: str, field: str) -> int:
    """Milliseconds since 1970 of a plain number: its length says its unit."""
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
