"""The words of an archive's verification, for readers who are not programmers.

Owns: what a problem means, which events it affects, and what the check cannot know, as sentences.
Must not: verify, or print. Read next: verifier.py, affected.py, cli/audit_report.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsched.formatting import day_and_clock, plural
from eventsched.schema.ids import ms_of

if TYPE_CHECKING:
    from eventsched.archive.affected import Affected
    from eventsched.archive.layout import SetAsideNote
    from eventsched.archive.verifier import AuditReport, Effect, Reach

KEY_NOT_CHECKED = "consistent, key not checked"
"""The verdict without a trusted key: the files agree with each other, by a key that anybody can
have made."""
SESSIONS_SHOWN_MAX = 5
MEANINGS: dict[Effect, str] = {
    "archive": "another key has signed this archive: do not rely on anything in it",
    "extra": "the file is not part of the archive; no archived event is affected",
    "signature": "it is not proven that these events happened, or in this order",
    "missing": "events are missing, or their record cannot be read",
    "events": "these events cannot be read, or are not those that were recorded",
    "sessions": "the events are as recorded; the list by session is not, so the history of a "
    "session may lack some of them",
    "snapshot": "the events are as recorded; a summary that was computed from them is not",
    "audio": "the events are as recorded; the stored sound of this time is not",
    "columns": "the events are as recorded; the columns that queries read differ from them",
    "pack": "the events are as recorded; the file that joins them for fast searches is not",
    "set_aside": "segments that were put aside, or the note about them, are not as recorded",
    "checkpoint": "events were replaced or put aside after the checkpoint was written",
}
"""What a problem means, by its effect."""


def verdict_text(report: AuditReport) -> str:
    """Return the verdict, and what was checked."""
    parts = [
        plural(report.events, "event"),
        plural(report.segments, "segment"),
        plural(report.cells, "cell"),
    ]
    if report.checkpoints:
        parts.append(plural(report.checkpoints, "checkpoint head"))
    verdict = "unchanged" if report.is_key_checked else KEY_NOT_CHECKED
    if report.problems:
        verdict = plural(len(report.problems), "problem")
    return f"{verdict}: {', '.join(parts)}, key {report.key}"


KEYS = {
    "file": "checked with the trusted key of --key",
    "checkpoint": "checked with the key that signed the checkpoint",
    "archive": "checked with the key found in the archive; a user who can write to the archive can "
    "replace events and key together: name a trusted copy of the key by --key",
}
"""By the source of the key, what its check is worth."""


def reach_text(reach: Reach) -> str:
    """Return up to which time the events of a cell are untouched, by what, and what is unknown."""
    last, cut = _time(reach.last), "a cut end cannot be seen"
    if not reach.checkpoint:
        return (
            f"untouched up to {last} by the signatures in the archive; without a checkpoint from "
            f"elsewhere {cut}: name one by --checkpoint"
        )
    text = f"untouched up to {_time(reach.checkpoint_last)} by checkpoint {reach.checkpoint}"
    later = reach.events - reach.checkpoint_events
    if later:
        text += f"; {plural(later, 'later event')} up to {last} by the signatures in the archive"
    return f"{text}; after {last} {cut}"


def affected_text(affected: Affected) -> str:
    """Return how many events of which time and sessions a problem concerns."""
    count = "events" if affected.events is None else plural(affected.events, "event")
    first, last = affected.first, affected.last
    if not affected.is_gap:
        range_ = f"from {_time(first)} to {_time(last)}"
    elif first:
        range_ = f"between {_time(first)} and {_time(last)}"
    else:
        range_ = f"before {_time(last)}"
    return f"{count} of cell {affected.cell}, {range_}, of {_sessions(affected)}"


def _sessions(affected: Affected) -> str:
    total, named = affected.sessions_total, affected.sessions[:SESSIONS_SHOWN_MAX]
    if total is None:
        return "sessions that are no longer known"
    if not total:
        return "no session"
    more = f" and {total - len(named):,} more" if total > len(named) else ""
    return f"{plural(total, 'session')}: {', '.join(named)}{more}"


def _time(entry_id: str) -> str:
    return day_and_clock(ms_of(entry_id))


def set_aside_text(note: SetAsideNote) -> str:
    """Return which segments were set aside, by whom and why."""
    reason = f"which the log had lost; by {note.by}: {note.why}"
    if not note.why:
        reason = "for an unknown reason: their folder has no note.json"
    return f"{note.cell}: {plural(note.segments, 'segment')}, {note.first} to {note.last}, {reason}"
