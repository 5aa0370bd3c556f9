"""Makes the filter of a history from texts, as users give them.

Owns: the names of event types, and which field of a filter a text sets.
Must not: read events, except to find the key of a job.
Read next: reader.py, position.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import get_args

from eventsched.errors import InvalidMessage
from eventsched.history.position import parse_position
from eventsched.history.reader import EventFilter, Reader
from eventsched.schema.events import AnyData

_TYPES = tuple(kind.__name__ for kind in get_args(AnyData))


async def parse_filter(
    reader: Reader,
    *,
    subject: str = "",
    node: str = "",
    tenant: str = "",
    types: Iterable[str] = (),
    since: str = "",
    until: str = "",
) -> EventFilter:
    """Return the filter that the texts describe.

    Args:
        reader: Reads the events.
        subject: A session, or a job as its key or `<session>:<utterance>:<target>`.
        node: A node.
        tenant: A tenant.
        types: Event types.
        since: The first position; see position.py.
        until: The last position.

    Raises:
        InvalidMessage: A text is no id, event type or position.
        NotFound: There is no such job.
    """
    is_job = ":" in subject
    return EventFilter(
        session=reader.complete(subject) if subject and not is_job else "",
        job=await reader.job_key(subject) if is_job else "",
        node=reader.complete(node) if node else "",
        tenant=tenant,
        types=frozenset(map(_event_type, types)),
        since=parse_position(since, "since") if since else None,
        until=parse_position(until, "until") if until else None,
    )


def _event_type(name: str) -> str:
    """Return `name`, an event type. Raises InvalidMessage with the most similar type."""
    if name in _TYPES:
        return name
    similar = get_close_matches(name, _TYPES, 1) or ["UtteranceFinalized"]
    raise InvalidMessage.of("type", f"no event type {name!r}", f"did you mean {similar[0]}?")
