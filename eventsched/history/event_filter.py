"""The filter of events that the words of a command or of a request select.

Owns: which entity a word names, the check of types and positions. Must not: read events.
Read next: reader.py (applies the filter).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import get_args

from eventsched.errors import InvalidMessage
from eventsched.history.position import parse_position
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.schema.events import AnyData


async def make_filter(
    source: HistorySource,
    reader: Reader,
    what: str,
    *,
    node: str = "",
    tenant: str = "",
    types: Sequence[str] = (),
    since: str = "",
    until: str = "",
    prefix: str = "",
) -> EventFilter:
    """Return the filter. Raises InvalidMessage or NotFound.

    Args:
        source: The events.
        reader: Reads them, to find a job.
        what: A session `<cell>.<name>`, a job by its key or as `<session>:<utterance>:<target>`, or
            empty.
        node: A node, or empty.
        tenant: A tenant, or empty.
        types: Types of events; empty for all.
        since: The first entry id or time, or empty.
        until: The last entry id or time, or empty.
        prefix: What precedes the names of these arguments in messages.
    """
    is_job = ":" in what
    return EventFilter(
        session=source.complete(what) if what and not is_job else "",
        job=await reader.job_key(what) if is_job else "",
        node=source.complete(node) if node else "",
        tenant=tenant,
        types=frozenset(_event_type(name, f"{prefix}type") for name in types),
        since=parse_position(since, f"{prefix}since") if since else None,
        until=parse_position(until, f"{prefix}until") if until else None,
    )


def _event_type(name: str, field: str) -> str:
    """Return `name`, an event type. Raises InvalidMessage with the most similar type."""
    names = [kind.__name__ for kind in get_args(AnyData)]
    if name in names:
        return name
    similar = get_close_matches(name, names, 1) or ["UtteranceFinalized"]
    raise InvalidMessage.of(field, f"no event type {name!r:.80}", f"did you mean {similar[0]}?")
