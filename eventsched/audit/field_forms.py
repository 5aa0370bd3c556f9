"""The forms of stored fields that no event has, and which fields a record always has.

Owns: the form of each such field of a session and a node. A value of another form is damage, also
where nothing says which value is the right one.
Must not: do I/O.
Read next: state_diff.py (the fields that events have), lua/include/sessions.lua, nodes.lua.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from eventsched.audit.invariants import Violation

_NUMBER = r"\d{1,15}"
_ID = r"\d{1,19}-\d{1,19}"
_NAME = r"[^|]*"
SESSION_FORMS = {
    "buffer": re.compile(rf"(?:{_NUMBER}\|){{7}}(?:{_ID})?\|(?:{_ID})?", re.ASCII),
    "confirmed": re.compile(_ID, re.ASCII),
    "archived": re.compile(_ID, re.ASCII),
    "out_counted": re.compile(_NUMBER, re.ASCII),
    "retire_at": re.compile(_NUMBER, re.ASCII),
    "resumes_until": re.compile(_NUMBER, re.ASCII),
    "missing": re.compile(_NUMBER, re.ASCII),
}
NODE_FORMS = {
    "inbox_from": re.compile(_ID, re.ASCII),
    "seen": re.compile(_NUMBER, re.ASCII),
    "load": re.compile(_NUMBER, re.ASCII),
    "unreadable": re.compile(rf"{_NUMBER}\|{_NUMBER}", re.ASCII),
    "failures": re.compile(rf"(?:{_NUMBER}\|{_NAME}\|{_NAME}\|[a-z]+\|{_NUMBER})?", re.ASCII),
}
SESSION_FIELDS = frozenset({
    "status", "epoch", "utterance", "turn", "buffer", "tenant", "tp", "source", "targets",
    "features", "features_hash", "encoding", "sample_rate", "priority", "room", "key",
    "listen_language", "used",
})  # fmt: skip
"""The fields that a session always has, though some may be empty."""
NODE_FIELDS = frozenset({
    "status", "epoch", "class", "slots", "version", "sources", "targets", "features", "suspended",
    "drained_by", "inbox_from", "seen", "load",
})  # fmt: skip
"""The same of a node."""


def malformed_fields(
    stored: Mapping[str, str], forms: Mapping[str, re.Pattern[str]]
) -> dict[str, str]:
    """The stored fields with a value of another form than eventsched writes."""
    found = ((field, stored[field]) for field in forms if field in stored)
    return {field: value for field, value in found if not forms[field].fullmatch(value)}


def form_violations(
    where: str,
    stored: Mapping[str, str],
    forms: Mapping[str, re.Pattern[str]],
    required: frozenset[str],
) -> Iterator[Violation]:
    """One for each field that is absent or has another form."""
    for field in sorted(required - stored.keys()):
        yield Violation("I7", where, f"{field}: the record does not have it")
    for field, value in malformed_fields(stored, forms).items():
        yield Violation("I7", where, f"{field}: {value!r:.80} has another form")
