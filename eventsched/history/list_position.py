"""A position in a list that follows a sorted set, as the opaque text `next`.

Owns: its form, and the check of a text that a client returns. The text is not secret and not
signed: another position only begins the list elsewhere, and the list shows the same items.
Must not: do I/O.
Read next: index_lists.py (the lists), gateway/cursor.py (positions in the log).
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from eventsched.errors import InvalidMessage

TEXT_MAX = 1_024
_SCORE = r"-?[0-9]{1,17}(?:\.[0-9]{1,17})?(?:e\+[0-9]{1,2})?"
_FORM = re.compile(rf"([a-z]+) ({_SCORE}) ([0-9]{{1,9}}) ([\x21-\x7e]{{0,512}})", re.ASCII)


class ListPosition(NamedTuple):
    """Where a page has ended in a sorted set."""

    of: str
    """The list."""
    score: float
    further: int
    """Number of members with this score that were passed after `member`."""
    member: str
    """Empty: the members are counted from the first with this score."""

    def text(self) -> str:
        """Return its form in `next`."""
        form = f"{self.of} {self.score!r} {self.further} {self.member}"
        return urlsafe_b64encode(form.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, of: str) -> ListPosition:
        """Return the position in the list `of`. Raises InvalidMessage for every other text."""
        match = _FORM.fullmatch(_decoded(text))
        if match is None or match[1] != of:
            raise bad_position(text)
        position = cls(of, float(match[2]), int(match[3]), match[4])
        if position.text() != text:  # one position has one text
            raise bad_position(text)
        return position


def _decoded(text: str) -> str:
    """Return the text in a position; empty if it is none."""
    if len(text) > TEXT_MAX or not text.isascii():
        return ""
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except ValueError:
        return ""


def bad_position(text: str) -> InvalidMessage:
    return InvalidMessage.of("after", f"no position in this list: {text!r:.80}", "use `next`")
