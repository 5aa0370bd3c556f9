"""The text form of times, durations, sizes and counts, and the style of tables.

Owns: these forms for the command line, the demo and the timeline.
Never does: printing. Read next: cli/output.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text as RichText

from eventsched.escaping import escape_line

LAST_MS = 253_402_214_400_000
"""The last day of the year 9999, which no calendar of Python exceeds in any time zone."""
NONE = "–"  # noqa: RUF001  the content of a table cell without a value


class Text(RichText):
    """Text of one line: control characters and line ends are escaped."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(escape_line(text), style, **options)

    def append(self, text: RichText | str, style: str | Style | None = None) -> Self:
        super().append(escape_line(text) if isinstance(text, str) else text, style)
        return self


def join_lines(lines: Iterable[RichText], indent: str = "") -> RichText:
    """Return a text of several lines, of which those after the first are indented."""
    return RichText(f"\n{indent}").join(lines)


def table(*columns: str, title: str = "", right: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `right` are numbers."""
    result = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        is_number = name in right
        result.add_column(
            name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return result


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
