"""Escaping of control characters in text that is printed for people.

Owns: the set of characters, and their escaped form. Terminal output, error messages, log lines on a
terminal and pictures use it. JSON is not escaped, since programs need the original text.
Never does: output. Read next: formatting.py, cli/output.py.
"""

from __future__ import annotations

import re

_CONTROLS = re.compile(
    "["
    r"\x00-\x08\x0b-\x1f"  # C0 without tab and newline; ESC starts a terminal's commands
    r"\x7f-\x9f"  # DEL and C1; 9B starts the same commands
    r"\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    r"\ud800-\udfff"  # lone surrogates: no encoding can write them
    "]"
)
_IN_LINES = {"\t": "\\t", "\n": "\\n", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def escape_controls(text: str) -> str:
    """Return the text with control characters as `\\x1b` or `\\u202e`; tab and newline stay."""
    return _CONTROLS.sub(_escape, text)


def escape_line(text: str) -> str:
    """Return the text as one line: control characters, tabs and line ends are written out."""
    if text.isprintable():  # most lines: no character to escape is printable
        return text
    line = escape_controls(text)
    for character, escaped in _IN_LINES.items():
        line = line.replace(character, escaped)
    return line


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
