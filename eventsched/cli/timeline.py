"""A session's events as a table: when, how long after what, and what it means.

Owns: the look of `history`. Read next: telling.py (the words), show.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from eventsched.cli.show import clock, console, day_and_clock, duration, table
from eventsched.cli.telling import tell
from eventsched.events import Event
from eventsched.folding import Unfolded

STYLES = {
    "ResultDelivered": "green",
    "ResultMissing": "red",
    "ResultRefused": "red",
    "JobFailed": "red",
    "JobQueued": "yellow",
    "AttemptEnded": "yellow",
    "UtteranceFinalized": "cyan",
}


def show_timeline(title: str, found: Sequence[Event | Unfolded]) -> None:
    """Print the events, oldest first."""
    console().print(Text(f"{title}  {day_and_clock(_ms(found[0]))}", "bold"))
    told = table("TIME", "AFTER", "EVENT", "", right=("TIME", "AFTER"))
    told.columns[2].no_wrap = True
    before: dict[str, int] = {}
    for event in found:
        if isinstance(event, Unfolded):
            told.add_row(clock(_ms(event)), "", Text("unreadable", "red"), Text(event.reason))
        else:
            name = Text(event.type, STYLES.get(event.type, ""))
            told.add_row(clock(event.ms), _after(event, before), name, Text(tell(event)))
            before[event.job] = event.ms
    console().print(told)


def _ms(event: Event | Unfolded) -> int:
    return int(event.id.partition("-")[0])


def _after(event: Event, before: Mapping[str, int]) -> str:
    """Since the entry that led to it, else since its job's last event; empty with neither."""
    stream, _, cause = event.cause.rpartition("/")
    if stream and cause:
        return duration(event.ms - int(cause.partition("-")[0]))
    return duration(event.ms - before[event.job]) if event.job and event.job in before else ""
