"""The text form of times, durations, sizes and counts.

Owns: these forms for the command line, the demo and the timeline.
Never does: printing; tables, since rich takes long to import. Read next: tables.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

LAST_MS = 253_402_214_400_000
"""The last day of the year 9999, which no calendar of Python exceeds in any time zone."""
NONE = "–"  # noqa: RUF001  the content of a table cell without a value


def clock(ms: int, *, seconds: bool = False) -> str:
    """Return the local time of day; the number itself if no calendar has the time.

    Args:
        ms: The time, in milliseconds since 1970.
        seconds: Leave the milliseconds out.
    """
    if not _has_calendar(ms):
        return str(ms)
    time = _day_and_time(ms // 1_000)[1]
    return time if seconds else f"{time}.{ms % 1000:03d}"


def day_and_clock(ms: int) -> str:
    """Return the local date and time, with milliseconds; the number itself as in `clock`."""
    if not _has_calendar(ms):
        return str(ms)
    day, time = _day_and_time(ms // 1_000)
    return f"{day} {time}.{ms % 1000:03d}"


def utc_time(ms: int) -> str:
    """Return the date and time in the form of ISO 8601; the number itself as in `clock`."""
    if not _has_calendar(ms):
        return str(ms)
    return datetime.fromtimestamp(ms / 1000, tz=UTC).isoformat(timespec="milliseconds")


def _has_calendar(ms: int) -> bool:
    """Whether the time is between 1970 and the year 9999; an archive may have any number."""
    return 0 <= ms < LAST_MS


@lru_cache(maxsize=128)
def _day_and_time(second: int) -> tuple[str, str]:
    """Return the local date and the local time of day. Many events have the same second."""
    local = datetime.fromtimestamp(second, tz=UTC).astimezone()
    return local.strftime("%Y-%m-%d"), local.strftime("%H:%M:%S")


def duration(ms: int | None) -> str:
    """Return a duration such as 0 ms, 420 ms, 1.24 s, 3 min 05 s, 2 h 10 min."""
    if ms is None:
        return NONE
    if ms < 1_000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f} s"
    minutes, seconds = divmod(ms // 1000, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Return a number of bytes in a suitable unit, such as 1.5 MiB."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def plural(count: int, singular: str, many: str = "") -> str:
    """Return the count with the noun in singular or plural: 1 session, 2 sessions."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"
