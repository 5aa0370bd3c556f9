"""The lines of `eventsched history`: time, delay, type and description of each event.

Owns: the layout of one line at a time, so that a log of any length can be printed and followed.
Never does: reads. Read next: event_text.py (the descriptions), output.py.
"""

from __future__ import annotations

import textwrap

from eventsched.cli.event_text import describe
from eventsched.cli.output import console
from eventsched.escaping import escape_line
from eventsched.formatting import Text, clock, day_and_clock, duration, join_lines
from eventsched.projection.fold import FailedEvent
from eventsched.schema.events import Event
from eventsched.schema.ids import ms_of

STYLES = {
    "ResultDelivered": "green",
    "ResultMissing": "red",
    "ResultRefused": "red",
    "JobFailed": "red",
    "JobQueued": "yellow",
    "JobPromoted": "yellow",
    "AttemptEnded": "yellow",
    "UtteranceFinalized": "cyan",
    "NodeLost": "red",
    "BackpressureStarted": "red",
}
TIME, AFTER, EVENT, TEXT_MIN = 12, 11, 19, 24
"""Widths of the columns; the description gets the rest of the line."""
JOBS_MAX = 50_000
"""Number of jobs whose last event is remembered; the oldest are dropped."""


class Timeline:
    """Prints events one by one, oldest first."""

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
        lead = TIME + AFTER + EVENT + 2
        self._indent = " " * lead
        self._width = max(console().width - lead, TEXT_MIN)

    def show(self, event: Event | FailedEvent) -> None:
        """Print one event, after a line with its day if the day is a new one."""
        ms = ms_of(event.id)
        self._begin_day(ms)
        if isinstance(event, FailedEvent):
            name, after, description = Text("unreadable", "red"), "", event.reason
        else:
            name, after = Text(event.type, STYLES.get(event.type, "")), self._after(event)
            description = self._subject(event) + describe(event)
            self._remember(event)
        name.pad_right(max(0, EVENT - len(name)))
        description = escape_line(description)  # before wrapping, since it makes it longer
        first, *more = textwrap.wrap(description, self._width, break_on_hyphens=False) or [""]
        line = Text.assemble((clock(ms), "dim"), after.rjust(AFTER), "  ", name, first)
        line.rstrip()
        lines = join_lines([line, *map(Text, more)], self._indent)
        console().print(lines, no_wrap=True, overflow="ignore", crop=False)

    def _begin_day(self, ms: int) -> None:
        day = day_and_clock(ms).partition(" ")[0]
        if day != self._day:
            if not self._day:
                head = f"{'TIME':>{TIME}}{'AFTER':>{AFTER}}  EVENT"
                console().print(Text(head, "dim"))
            console().print(Text(f"{day}  {self._title}".rstrip(), "bold"))
            self._day = day

    def _subject(self, event: Event) -> str:
        if not self._shows_subject:
            return ""
        subject = event.session or event.node
        return f"{subject}  " if subject else ""

    def _after(self, event: Event) -> str:
        """Return the time since the event's cause, else since its job's last event, else ''."""
        stream, _, cause = event.cause.rpartition("/")
        if stream and cause:
            return duration(event.ms - ms_of(cause))
        last_ms = self._last_ms.get(event.job)
        return duration(event.ms - last_ms) if event.job and last_ms is not None else ""

    def _remember(self, event: Event) -> None:
        """Store the time of the job's last event; it becomes the newest of the stored jobs."""
        if event.job:
            self._last_ms.pop(event.job, None)
            self._last_ms[event.job] = event.ms
            if len(self._last_ms) > JOBS_MAX:
                del self._last_ms[next(iter(self._last_ms))]
