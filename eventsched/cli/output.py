"""The output of commands: tables and lines for people, JSON for programs.

Owns: the consoles, progress bars, JSON objects and JSON Lines. Stored text cannot control a
terminal: `Text`, the consoles of this module, `print_line` and `write_line` escape control
characters, and no text is read as markup.
Never does: log lines (logs.py), error messages (app.py), reads. Read next: formatting.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from eventsched.escaping import escape_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_DEFAULT = 120
"""Columns of the output if no stream is a terminal and COLUMNS is not set."""
_TERMINAL_VARIABLES = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""With one of them, rich may take any output for a terminal."""


@cache
def console() -> Console:
    """Return the console on stdout, for data that people read."""
    from eventsched.cli.escaping_console import EscapingConsole

    is_set = sys.stdout.isatty() or os.environ.get("COLUMNS")
    return EscapingConsole(
        width=None if is_set else _width_in_a_pipe(),
        highlight=False,
        soft_wrap=False,
        emoji=False,
        markup=False,
    )


def _width_in_a_pipe() -> int:
    """The columns of the terminal in front of which a pipe ends, as in `… | less`."""
    for stream in (sys.stderr, sys.stdin):
        with suppress(AttributeError, OSError, ValueError):  # no stream, no terminal, or closed
            return os.get_terminal_size(stream.fileno()).columns or WIDTH_DEFAULT
    return WIDTH_DEFAULT


@cache
def notes() -> Console:
    """Return the console on stderr, for progress and hints."""
    from eventsched.cli.escaping_console import EscapingConsole

    return EscapingConsole(stderr=True, highlight=False, emoji=False, markup=False)


def print_line(text: str) -> None:
    """Print one line of any length on stdout; control characters and line ends are escaped."""
    typer.echo(escape_line(text))


def write_line(*parts: tuple[str, str]) -> None:
    """Write one line on stdout without flushing it; control characters and line ends are escaped.

    Args:
        parts: texts of the line, each with its style.
    """
    write_text(line_of(*parts))


def line_of(*parts: tuple[str, str]) -> str:
    """Return one line with its end; control characters and line ends in the parts are escaped.

    Args:
        parts: texts of the line, each with its style.
    """
    codes = color_codes()
    line = ""
    for text, style in parts:
        before, after = codes(style)
        line += f"{before}{escape_line(text)}{after}"
    return f"{line}\n"


def color_codes() -> Callable[[str], tuple[str, str]]:
    """Return a function of a style: what the output has before and after a text in this style.

    A line with these costs a hundredth of a print by the console: for output of very many lines.
    """
    return _no_codes if _has_no_colors() else partial(_codes, console())


def write_text(text: str) -> None:
    """Write lines of `line_of` on stdout, in one system call at most on a terminal."""
    sys.stdout.write(text)


def columns() -> int:
    """Return the width of the output in columns, without rich if standard output is no terminal."""
    if _has_no_colors():
        set_columns = os.environ.get("COLUMNS", "")
        if not set_columns:
            return _width_in_a_pipe()
        if set_columns.isdecimal():
            return int(set_columns)
    return console().width


def _has_no_colors() -> bool:
    """Whether rich is certain to write no colors: standard output is no terminal."""
    return not (sys.stdout.isatty() or any(map(os.environ.get, _TERMINAL_VARIABLES)))


def _no_codes(_: str) -> tuple[str, str]:
    return "", ""


@lru_cache
def _codes(out: Console, style: str) -> tuple[str, str]:
    """Return what the console writes before and after a text in this style."""
    from rich.console import COLOR_SYSTEMS

    system = out.color_system
    if not style or system is None:
        return "", ""
    described = out.get_style(style)
    if out.no_color:
        described = described.without_color
    rendered = described.render("x", color_system=COLOR_SYSTEMS[system])
    before, _, after = rendered.partition("x")
    return before, after


def flush() -> None:
    """Flush stdout."""
    sys.stdout.flush()


def print_json(value: Any) -> None:
    """Print one JSON object as one line and flush it."""
    write_json(value)
    flush()


def write_json(value: Any) -> None:
    """Write one JSON object as one line on stdout without flushing it."""
    write_bytes(json_line(value))


def json_line(value: Any) -> bytes:
    """Return one JSON object as one line, in UTF-8 whatever the encoding of stdout is."""
    try:
        line = msgspec.json.encode(value)
    except UnicodeEncodeError:  # the name of a file may not be valid Unicode
        line = json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()
    return line + b"\n"


def write_bytes(lines: bytes) -> None:
    """Write lines of `json_line` on stdout without flushing it."""
    sys.stdout.buffer.write(lines)


def pairs(title: str, rows: list[tuple[str, str]]) -> Table:
    """Return a table of names and values under a title."""
    from rich.table import Table

    from eventsched.tables import Text

    result = Table(
        box=None,
        show_header=False,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    result.add_column(style="dim", no_wrap=True)
    result.add_column(overflow="fold")
    for name, value in rows:
        result.add_row(name, Text(value))
    return result


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr; yield a function that takes the work done so far."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=notes(), transient=True, disable=not notes().is_terminal)
    with bar:
        task = bar.add_task(escape_line(title), total=total)
        yield lambda done: bar.update(task, completed=min(done, total))
