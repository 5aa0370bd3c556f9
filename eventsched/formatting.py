"""How values read to people: times, durations, sizes, counts, and the look of tables.

Owns: these forms, for the command line, the demo and the timeline alike.
Never does: printing. Read next: cli/output.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Self

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text as RichText

from eventsched.escaping import escape_controls

NONE = "–"  # noqa: RUF001  what a table cell without a value shows


class Text(RichText):
    """Text with its control characters in visible form."""

    def __init__(self, text: str = "", style: str | Style = "", **look: Any) -> None:
        super().__init__(escape_controls(text), style, **look)

    def append(self, text: RichText | str, style: str | Style | None = None) -> Self:
        super().append(escape_controls(text) if isinstance(text, str) else text, style)
        return self


def table(*columns: str, title: str = "", right: tuple[str, ...] = ()) -> Table:
    """An empty table in the house's look; columns named in `right` hold numbers."""
    made = Table(
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
        made.add_column(
            name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold"
        )
    return made


def clock(ms: int) -> str:
    """A moment as the reader's own clock shows it."""
    return _local(ms).strftime("%H:%M:%S.") + f"{ms % 1000:03d}"


def day_and_clock(ms: int) -> str:
    """A moment with its day."""
    return _local(ms).strftime("%Y-%m-%d ") + clock(ms)


def _local(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, tz=UTC).astimezone()


def duration(ms: int | None) -> str:
    """0 ms, 420 ms, 1.24 s, 3 min 05 s, 2 h 10 min."""
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
    """Bytes, in the unit that reads well."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def plural(count: int, one: str, many: str = "") -> str:
    """1 session, 2 sessions."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
