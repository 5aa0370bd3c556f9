"""Control characters in visible form, for text of others that people are shown.

Owns: which characters, and how each is written. Used wherever text leaves for a terminal, an error
line, a log line on a terminal, or a picture. Never used for JSON: programs get text as it is.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    r"\x00-\x08\x0b-\x1f"  # C0 but tab and newline: ESC begins the commands of a terminal
    r"\x7f-\x9f"  # DEL, C1: 9B begins the same commands
    r"\u202a-\u202e\u2066-\u2069"  # bidirectional embeddings, overrides and isolates
    r"\ud800-\udfff"  # lone surrogates: no encoding can write them
    "]"
)


def escape_controls(text: str) -> str:
    """`text` with each control character written as `\\x1b` or `\\u202e`; tab and newline stay."""
    return _HIDDEN.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
