"""Events as lines: when, how long after what, and what it means.

Owns: the look of `history`, line by line, so that a log of any length can be shown and followed.
Read next: event_text.py (the words), output.py.
"""

from __future__ import annotations

import textwrap

from eventsched.cli.event_text import tell
from eventsched.cli.output import console
from eventsched.escaping import escape_controls
from eventsched.formatting import Text, clock, day_and_clock, duration
from eventsched.projection.fold import FailedEvent
from eventsched.schema.events import Event

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
"""Columns of text; what is told gets the rest of the line."""
JOBS_MAX = 50_000
"""Jobs whose last event is remembered; the oldest are forgotten."""


class Timeline:
    """Prints events as they are given, oldest first."""

    def __init__(self, title: str, *, names_whose: bool = False) -> None:
        """`names_whose`: each line says which session or node it is of."""
        self._title = title
        self._names_whose = names_whose
        self._day = ""
        self._before: dict[str, int] = {}
        lead = TIME + AFTER + EVENT + 2
        self._indent = " " * lead
        self._width = max(console().width - lead, TEXT_MIN)

    def show(self, one: Event | FailedEvent) -> None:
        ms = int(one.id.partition("-")[0])
        self._begin_day(ms)
        if isinstance(one, FailedEvent):
            name, after, told = Text("unreadable", "red"), "", one.reason
        else:
            name, after = Text(one.type, STYLES.get(one.type, "")), self._after(one)
            told = self._whose(one) + tell(one)
            self._remember(one)
        name.pad_right(max(0, EVENT - len(name)))
        told = escape_controls(told)  # before it is wrapped: it becomes longer
        first, *more = textwrap.wrap(told, self._width, break_on_hyphens=False) or [""]
        line = Text.assemble((clock(ms), "dim"), after.rjust(AFTER), "  ", name, first)
        line.append("".join(f"\n{self._indent}{one}" for one in more))
        line.rstrip()
        console().print(line, no_wrap=True, overflow="ignore", crop=False)

    def _begin_day(self, ms: int) -> None:
        day = day_and_clock(ms).partition(" ")[0]
        if day != self._day:
            if not self._day:
                head = f"{'TIME':>{TIME}}{'AFTER':>{AFTER}}  EVENT"
                console().print(Text(head, "dim"))
            console().print(Text(f"{day}  {self._title}".rstrip(), "bold"))
            self._day = day

    def _whose(self, event: Event) -> str:
        if not self._names_whose:
            return ""
        whose = event.session or event.node
        return f"{whose}  " if whose else ""

    def _after(self, event: Event) -> str:
        """Since the entry that led to it, else since its job's last event; empty with neither."""
        stream, _, cause = event.cause.rpartition("/")
        if stream and cause:
            return duration(event.ms - int(cause.partition("-")[0]))
        before = self._before.get(event.job)
        return duration(event.ms - before) if event.job and before is not None else ""

    def _remember(self, event: Event) -> None:
        if event.job:
            self._before.pop(event.job, None)
            self._before[event.job] = event.ms
            if len(self._before) > JOBS_MAX:
                del self._before[next(iter(self._before))]
