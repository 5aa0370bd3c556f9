"""The style of tables and of coloured text, by rich.

Owns: `Text` and `table` for the command line and the demo; control characters in them are escaped.
Never does: printing. Read next: formatting.py (the texts in the cells), cli/output.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from rich import box
from rich.style import Style
from rich.table import Table
from rich.text import Text as RichText

from eventsched.escaping import escape_line


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
