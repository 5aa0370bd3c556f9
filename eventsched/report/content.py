"""Collects the content of a report: events, what was said, reasons, proofs.

Owns: the bounds of a report, and which of its events are proven.
Must not: write HTML. Read next: page.py, audit/service.py, archive/proof.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eventsched.archive import threads
from eventsched.archive.layout import ArchiveFolder
from eventsched.audit.explain import JobExplanation
from eventsched.audit.service import why_all
from eventsched.encryption.decrypt import EventDecryptor
from eventsched.history.event_json import text_of
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.projection.fold import FailedEvent
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    Event,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    SessionOpened,
    Text,
    UtteranceFinalized,
)
from eventsched.schema.keys import cell_of

EVENTS_MAX = 5_000
"""Events in the page; later ones are left out, and the page says so."""
JOBS_MAX = 500
"""Jobs that are explained."""


class Spoken(msgspec.Struct, kw_only=True):
    """One utterance in one target language."""

    utterance: int
    target: str
    at_ms: int
    """When the utterance was complete."""
    outcome: str = ""
    """result, no_speech, failed or missing; empty while it is open."""
    code: str = ""
    text: Text | None = None
    """None if there is no text that can be read."""


class Proofs(msgspec.Struct, frozen=True, kw_only=True):
    """Proofs that an archive has events of the session."""

    lines: bytes
    """JSON Lines, as `eventsched audit check-proof` reads them."""
    count: int
    public: bytes
    """The content of archive.pub."""
    key: str
    """Fingerprint of this key."""


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a report of a session has."""

    session: str
    opened: SessionOpened | None
    """None if the beginning of the history is gone."""
    events: Sequence[Event | FailedEvent]
    events_total: int
    spoken: Sequence[Spoken]
    explanations: Sequence[JobExplanation]
    jobs_total: int
    proofs: Proofs | None
    """None without an archive."""


async def read_report(
    source: HistorySource, session: str, opener: EventDecryptor | None = None
) -> SessionReport:
    """Collect the report of a session.

    Args:
        source: The history: a server, an archive, or both. Only an archive gives proofs.
        session: Full id, or a name.
        opener: Decrypts the texts that it has keys for.

    Raises:
        NotFound: There is no such session.
        ArchiveError: The archive is not as it was sealed.
    """
    session = source.complete(session)
    reader = Reader(source, opener)
    entries = [entry async for entry in reader.history(EventFilter(session=session))]
    shown = entries[:EVENTS_MAX]
    events = [entry for entry in entries if isinstance(entry, Event)]
    proofs = None
    if source.archive is not None:
        folder, ids = source.archive, [entry.id for entry in shown]
        proofs = await threads.in_thread(lambda: _prove(folder, cell_of(session), ids))
    return SessionReport(
        session=session,
        opened=next((e.data for e in events if isinstance(e.data, SessionOpened)), None),
        events=shown,
        events_total=len(entries),
        spoken=_spoken(events),
        explanations=await why_all(source, session, events, JOBS_MAX),
        jobs_total=len({event.job for event in events if event.job}),
        proofs=proofs,
    )


def _prove(folder: ArchiveFolder, cell: str, ids: Sequence[str]) -> Proofs:
    from eventsched.archive.manifest import encode
    from eventsched.archive.proof import prove_all
    from eventsched.archive.signing import fingerprint, public_line

    lines = [encode(proof) + b"\n" for proof in prove_all(folder, cell, ids)]
    return Proofs(
        lines=b"".join(lines),
        count=len(lines),
        public=public_line(folder.public),
        key=fingerprint(folder.public),
    )


def _spoken(events: Sequence[Event]) -> list[Spoken]:
    """Each utterance in each of its languages, in order, with its outcome and its last text."""
    spoken: dict[tuple[int, str], Spoken] = {}
    for event in events:
        data = event.data
        if isinstance(data, UtteranceFinalized):
            for target in data.targets:
                place = data.utterance, target.target
                spoken[place] = Spoken(utterance=place[0], target=place[1], at_ms=event.ms)
            continue
        if not isinstance(data, ResultRecorded | ResultDelivered | ResultMissing):
            continue
        each = spoken.get((data.utterance, data.target))
        if each is None:
            continue
        each.text = text_of(event) or each.text
        if (delivery := delivery_of(data)) is not None:
            each.outcome, each.code = delivery.outcome, delivery.code
        if isinstance(data, ResultMissing):
            each.code = data.reason
    return [spoken[place] for place in sorted(spoken)]
