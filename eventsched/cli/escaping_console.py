"""A console of rich that escapes control characters.

Owns: the class. Never does: make consoles (output.py).
"""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text as RichText

from eventsched.escaping import escape_line


class EscapingConsole(Console):
    """A console that escapes control characters and line ends in every string, also in tables."""

    def render_str(self, text: str, **options: Any) -> RichText:
        return super().render_str(escape_line(text), **options)
