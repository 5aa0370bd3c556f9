"""What commands print on stdout: tables and lines for people, JSON for programs.

Owns: the look of tables, how times, durations and numbers read, one JSON object or JSON Lines.
Never does: stderr (logs.py, and errors in app.py), reading. Read next: history.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

WIDTH_ELSEWHERE = 120
"""Columns where stdout is no terminal and COLUMNS does not say."""
NONE = "–"  # noqa: RUF001  what a cell without a value shows


@cache
def console() -> Console:
    """For data that people read."""
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal or os.environ.get("COLUMNS") else WIDTH_ELSEWHERE
    return Console(width=width, highlight=False, soft_wrap=False, emoji=False)


@cache
def notes() -> Console:
    """For progress and hints, on stderr."""
    return Console(stderr=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """One JSON object on one line, at once."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


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


def pairs(title: str, rows: list[tuple[str, str]]) -> Table:
    """Names and values under a heading."""
    made = Table(
        box=None,
        show_header=False,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, Text(value))
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


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a long command works; call it with how much is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = Progress(*columns, console=notes(), transient=True, disable=not notes().is_terminal)
    with shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.update(task, completed=min(done, total))
