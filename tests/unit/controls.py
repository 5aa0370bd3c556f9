"""Text that would steer a terminal, and what is left of it to see.

Owns: the characters, a sample in both forms, and what counts as hidden by Unicode's own classes.
"""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

CONTROLS = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]
NASTY = "\x1b]0;title\x07\x1b[2Jb\x9b31m\u202ec\x7f\r\x08"
VISIBLE = r"\x1b]0;title\x07\x1b[2Jb\x9b31m\u202ec\x7f\x0d\x08"
ANY_TEXT = st.text(st.characters() | st.sampled_from(CONTROLS))


def hidden_in(text: str) -> set[str]:
    """Control characters, by Unicode's own classes, that a terminal would obey or hide."""
    directing = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    return {
        one
        for one in text
        if one not in "\t\n"
        and (
            unicodedata.category(one) in ("Cc", "Cs") or unicodedata.bidirectional(one) in directing
        )
    }
