"""What commands print on stdout: tables and lines for people, JSON for programs.

Owns: consoles, progress bars, one JSON object or JSON Lines; that other people's text cannot steer
a terminal: all of it passes `Text`, a console of this module or `print_line`, where control
characters become visible and brackets are no markup.
Never does: stderr (logs.py, and errors in app.py), reading. Read next: formatting.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text as RichText

from eventsched.escaping import escape_controls
from eventsched.formatting import Text

WIDTH_ELSEWHERE = 120
"""Columns where stdout is no terminal and COLUMNS does not say."""


class _Console(Console):
    """Shows strings as `Text` does: given to `print`, and in cells and titles of tables."""

    def render_str(self, text: str, **look: Any) -> RichText:
        return super().render_str(escape_controls(text), **look)


@cache
def console() -> Console:
    """For data that people read."""
    is_terminal = sys.stdout.isatty()
    width = None if is_terminal or os.environ.get("COLUMNS") else WIDTH_ELSEWHERE
    return _Console(width=width, highlight=False, soft_wrap=False, emoji=False, markup=False)


@cache
def notes() -> Console:
    """For progress and hints, on stderr."""
    return _Console(stderr=True, highlight=False, emoji=False, markup=False)


def print_line(text: str) -> None:
    """One line on stdout, however long; control characters in it are visible."""
    typer.echo(escape_controls(text))


def print_json(value: Any) -> None:
    """One JSON object on one line, at once."""
    try:
        line = msgspec.json.encode(value)
    except UnicodeEncodeError:  # the name of a file may be no text
        line = json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


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


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a long command works; call it with how much is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    shown = Progress(*columns, console=notes(), transient=True, disable=not notes().is_terminal)
    with shown:
        task = shown.add_task(escape_controls(what), total=total)
        yield lambda done: shown.update(task, completed=min(done, total))
