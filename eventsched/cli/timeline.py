"""The lines of `eventsched history`: time, delay, type and description of each event.

Owns: the layout of one line at a time, so that a log of any length can be printed and followed.
Never does: reads. Read next: event_text.py (the descriptions), output.py.
"""

from __future__ import annotations

import re

from eventsched.cli.output import color_codes, columns, line_of, write_text
from eventsched.escaping import escape_line
from eventsched.formatting import day_and_clock, duration
from eventsched.history.event_text import describe
from eventsched.projection.fold import FailedEvent
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import Event
from eventsched.schema.ids import is_id, ms_of

STYLES = {
    "ResultRefused": "red",
    "JobFailed": "red",
    "JobQueued": "yellow",
    "JobPromoted": "yellow",
    "AttemptEnded": "yellow",
    "UtteranceFinalized": "cyan",
    "NodeLost": "red",
    "BackpressureStarted": "red",
}
DELIVERING = frozenset({"ResultRecorded", "ResultDelivered", "ResultMissing"})
"""The types of events that may deliver an outcome."""
TIME, AFTER, EVENT, TEXT_MIN = 12, 11, 19, 24
"""Widths of the columns; the description gets the rest of the line."""
JOBS_MAX = 50_000
"""Number of jobs whose last event is remembered; the oldest are dropped."""


class Timeline:
    """Writes events on stdout one by one, oldest first, without flushing it."""

    def __init__(self, title: str, *, shows_subject: bool = False) -> None:
        """Create a timeline.

        Args:
            title: text in the line of each day.
            shows_subject: whether each line names the session or node of its event.
        """
        self._title = title
        self._shows_subject = shows_subject
        self._day = ""
        self._last_ms: dict[str, int] = {}
        self._codes = color_codes()
        self._dim = self._codes("dim")
        lead = TIME + AFTER + EVENT + 2
        self._indent = " " * lead
        self._width = width = max(columns() - lead, TEXT_MIN)
        self._parts = re.compile(rf"\S.{{0,{width - 1}}}(?= |$)|\S{{{width}}}")
        """Splits a description into lines: between words, or within a word that fills a line."""

    def show(self, event: Event | FailedEvent) -> None:
        """Write one event, after a line with its day if the day is a new one."""
        write_text(self.text_of(event))

    def text_of(self, event: Event | FailedEvent) -> str:
        """Return the lines of one event, after a line with its day if the day is a new one."""
        ms = ms_of(event.id)
        day, _, time = day_and_clock(ms).partition(" ")
        head = self._head(day) if day != self._day else ""
        if isinstance(event, FailedEvent):
            name, style, after, description = "unreadable", "red", "", event.reason
        else:
            name, style, after = event.type, _style(event), self._after(event, ms)
            description = describe(event)
            if self._shows_subject:
                description = _subject(event) + description
        description = escape_line(description)  # before wrapping, since it makes it longer
        more = ""
        if len(description) > self._width:
            description, *rest = self._wrapped(description)
            more = "".join([f"{self._indent}{each}\n" for each in rest])
        (dim, plain), (styled, end) = self._dim, self._codes(style)
        text = f"{' ' * (EVENT - len(name)) or ' '}{description}".rstrip(" ")
        return f"{head}{dim}{time or day}{plain}{after:>{AFTER}}  {styled}{name}{end}{text}\n{more}"

    def _wrapped(self, line: str) -> list[str]:
        """Return the lines of an escaped description; one at least."""
        return [part.rstrip(" ") for part in self._parts.findall(line)] or [""]

    def _head(self, day: str) -> str:
        """Return the line of a new day, after the names of the columns if it is the first."""
        names = "" if self._day else f"{'TIME':>{TIME}}{'AFTER':>{AFTER}}  EVENT"
        self._day = day
        title = line_of((f"{day}  {self._title}".rstrip(), "bold"))
        return line_of((names, "dim")) + title if names else title

    def _after(self, event: Event, ms: int) -> str:
        """Return the time since the event's cause, else since its job's last event, else ''.

        The event becomes the last one of its job, and its job the newest of those remembered.
        """
        job, last_ms = event.job, None
        if job:
            last_ms = self._last_ms.pop(job, None)
            self._last_ms[job] = ms
            if len(self._last_ms) > JOBS_MAX:
                del self._last_ms[next(iter(self._last_ms))]
        stream, _, cause = event.cause.rpartition("/")
        if stream and is_id(cause):
            return duration(ms - ms_of(cause))
        return "" if last_ms is None else duration(ms - last_ms)


def _subject(event: Event) -> str:
    """Return the session or the node of the event, before its description."""
    subject = event.session or event.node
    return f"{subject}  " if subject else ""


def _style(event: Event) -> str:
    """Return the style: of a delivery by its outcome, of any other event by its type."""
    if event.type not in DELIVERING or delivery_of(event.data) is None:
        return STYLES.get(event.type, "")
    return "red" if event.type == "ResultMissing" else "green"
