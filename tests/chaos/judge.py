"""The verdict of a run: what is a violation, and what is only counted.

Owns: comparing three independent sources: the record of the producers, the log, and the outcomes
that listeners received.
Must not: fold with the product's projections (`eventsched verify` does, see verification.py).
Read next: tests/simulation/check.py (what must hold in the log alone), producer.py (the record).

Violations: an acknowledged chunk is in no utterance, or in two, or with other bytes; a text is not
made of exactly the utterance's audio; an attempt is dispatched twice, a job ends twice, a call with
an old token has an effect, a node has more jobs than slots; a delivery number has no outcome, or
two, or one out of order; a listener misses an outcome, or receives one twice or out of order; an
outcome is not in the log; a dead letter; a session that does not end; a process that ends by
itself; anything that `verify` finds; an entry that archive and log have lost or changed.

Legitimate, and counted: `failed` (three nodes of a job died), expired jobs (no node was free in
time), `missing` (the gap timed out), utterances cut by a pause that was an outage, BACKPRESSURE.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import msgspec

from eventsched.schema import codec
from eventsched.schema.deliveries import delivery_of
from eventsched.schema.events import (
    Event,
    JobFailed,
    SessionClosing,
    UtteranceFinalized,
)
from eventsched.schema.ids import START, parse_id
from eventsched.schema.keys import session_of_job
from tests.chaos import speech
from tests.chaos.record import ReceivedOutcome, Record, Spoken
from tests.simulation.actors import Observations
from tests.simulation.check import violations as broken_in_log

Key = tuple[str, str, int]
"""Speaker, target, delivery number."""
NAMED_MAX = 5
_OF_ENTRY = re.compile(r"log/(\d+-\d+) ")


class Judged(msgspec.Struct, kw_only=True):
    """The verdict and its figures."""

    violations: list[str] = []
    sessions: int = 0
    utterances: int = 0
    cut_by_outage: int = 0
    chunks: int = 0
    results: int = 0
    no_speech: int = 0
    failed: int = 0
    failed_codes: dict[str, int] = {}
    missing: int = 0
    received: int = 0
    truncated: int = 0
    events: dict[str, int] = {}


def judge(
    log: Sequence[Event], record: Record, *, since: str = START, partial_until: str = START
) -> Judged:
    """Compare the log and the record.

    Args:
        log: all events.
        record: the record of the producers.
        since: id of an event; the record lacks sessions that were opened up to it.
        partial_until: id of an event; calls up to it may have been partial, so that decisions up to
            it, and those about sessions that were opened up to it, may differ from the fold.
    """
    judged = Judged(
        sessions=len(record.sessions),
        chunks=sum(len(spoken.sizes) for spoken in record.sessions.values()),
        received=sum(len(spoken.received) for spoken in record.sessions.values()),
        truncated=sum(spoken.truncated for spoken in record.sessions.values()),
        events=dict(Counter(event.type for event in log)),
    )
    partial = _sessions_opened_until(log, partial_until)
    judged.violations += [
        violation
        for violation in broken_in_log(log, _observations(record))
        if not _is_of_entry_until(violation, partial_until)
        and _session_of(violation) not in partial
    ]
    judged.violations += _ends(log)
    older = _sessions_opened_until(log, since)
    log = [event for event in log if event.session not in older]
    finalized = {
        (event.session, event.data.utterance): event.data
        for event in log
        if isinstance(event.data, UtteranceFinalized)
    }
    judged.violations += _audio(log, finalized, record)
    judged.violations += _texts(log, finalized, record)
    judged.violations += _listeners(log, record)
    _count(log, finalized, judged)
    return judged


def _sessions_opened_until(log: Sequence[Event], entry_id: str) -> set[str]:
    return {
        event.session
        for event in log
        if event.type == "SessionOpened" and parse_id(event.id) <= parse_id(entry_id)
    }


def _is_of_entry_until(violation: str, entry_id: str) -> bool:
    """Whether the violation is of an entry of the log up to this one."""
    match = _OF_ENTRY.match(violation)
    return match is not None and parse_id(match[1]) <= parse_id(entry_id)


def _session_of(violation: str) -> str:
    """The session that the violation is about; it begins with the session or with a job key.

    A target may follow the session.
    """
    subject = violation.partition(": ")[0].partition(" ")[0]
    return session_of_job(subject) if ":" in subject else subject


def _ends(log: Sequence[Event]) -> list[str]:
    """Every session that was opened is closed."""
    closed = {event.session for event in log if event.type == "SessionClosed"}
    opened = {event.session for event in log if event.type == "SessionOpened"}
    return [f"{session}: never closed" for session in sorted(opened - closed)]


def _observations(record: Record) -> Observations:
    """The record in the form that the producers of the simulation write."""
    observations = Observations(broken=list(record.broken))
    for session, spoken in record.sessions.items():
        observations.acked[session] = dict(enumerate(spoken.sizes[: spoken.acked]))
        observations.entries[session] = [
            msgspec.to_builtins(outcome) for outcome in spoken.received
        ]
    return observations


def _audio(
    log: Sequence[Event],
    finalized: Mapping[tuple[str, int], UtteranceFinalized],
    record: Record,
) -> list[str]:
    """The utterances of a session contain all of its audio, without a hole, and nothing else."""
    broken = []
    by_session: dict[str, list[UtteranceFinalized]] = defaultdict(list)
    for (session, _), data in finalized.items():
        by_session[session].append(data)
    for session, utterances in by_session.items():
        spoken = record.sessions.get(session)
        if spoken is None:
            broken.append(f"{session}: in the log, but in no producer's record")
            continue
        broken += _utterances(session, utterances, spoken)
    opened = {event.session for event in log if event.type == "SessionOpened"}
    lost = [session for session in record.sessions if session not in opened]
    return broken + [f"{session}: opened, but not in the log" for session in lost]


def _utterances(
    session: str, utterances: Sequence[UtteranceFinalized], spoken: Spoken
) -> list[str]:
    broken, expected = [], 0
    for number, data in enumerate(utterances):
        sizes = spoken.sizes[data.first_seq : data.first_seq + data.count]
        if data.utterance != number or data.first_seq != expected:
            broken.append(f"{session}: utterance {data.utterance} begins at {data.first_seq}")
        if len(sizes) != data.count or sum(sizes) != data.bytes:
            broken.append(f"{session}: utterance {data.utterance} has {data.bytes} B, not {sizes}")
        expected = data.first_seq + data.count
    return broken


def _texts(
    log: Sequence[Event],
    finalized: Mapping[tuple[str, int], UtteranceFinalized],
    record: Record,
) -> list[str]:
    """A result's text is its utterance's audio digest; `no_speech` comes where it belongs."""
    broken = []
    for event in log:
        delivery = delivery_of(event.data)
        if delivery is None or delivery.outcome in ("failed", "missing"):
            continue
        if (delivery.outcome == "no_speech") != speech.is_silent(event.job):
            broken.append(f"{event.job}: {delivery.outcome} is the wrong outcome")
        if delivery.outcome == "result":
            text = codec.decode_text(event.body).text
            utterance = finalized[event.session, delivery.utterance]
            if text != _expected(event.session, utterance, record):
                broken.append(f"{event.job}: its text is not made of its audio")
    return broken


def _expected(session: str, data: UtteranceFinalized, record: Record) -> str:
    """The digest of the recorded audio. `_utterances` reports an utterance with more audio."""
    sizes = record.sessions.get(session, Spoken()).sizes
    audio = b"".join(
        speech.chunk(session, data.first_seq + at, size // speech.BYTES_PER_MS)
        for at, size in enumerate(sizes[data.first_seq : data.first_seq + data.count])
    )
    return speech.digest(audio, data.padding_ms)


def _listeners(log: Sequence[Event], record: Record) -> list[str]:
    """A listener whose results ended received exactly the outcomes that the log says were sent."""
    sent: dict[str, dict[Key, tuple[str, int, str]]] = defaultdict(dict)
    for event in log:
        delivery = delivery_of(event.data)
        if delivery is not None:
            outcome = delivery.outcome
            text = codec.decode_text(event.body).text or "" if outcome == "result" else ""
            for listener in delivery.to or [event.session]:
                if listener not in delivery.skipped:
                    key = (event.session, delivery.target, delivery.delivery_no)
                    sent[listener][key] = (outcome, delivery.utterance, text)
    broken = []
    for listener, spoken in record.sessions.items():
        broken += _listener(listener, spoken, sent[listener])
    return broken


def _listener(listener: str, spoken: Spoken, sent: Mapping[Key, tuple[str, int, str]]) -> list[str]:
    received = {
        (outcome.session, outcome.target, outcome.delivery_no): outcome
        for outcome in spoken.received
    }
    broken = []
    strange = [key for key, outcome in received.items() if sent.get(key) != _content(outcome)]
    if strange:
        broken.append(f"{listener}: received outcomes that were not sent: {strange[:NAMED_MAX]}")
    missed = [key for key in sent if key not in received]
    if missed and spoken.results_ended and not spoken.truncated:
        broken.append(f"{listener}: did not receive {len(missed)}: {missed[:NAMED_MAX]}")
    if missed and not spoken.results_ended:
        first = min(place for place, key in enumerate(sent) if key in missed)
        later = [key for place, key in enumerate(sent) if place > first and key in received]
        if later:
            broken.append(f"{listener}: skipped {missed[:NAMED_MAX]}, but received later outcomes")
    return broken


def _content(outcome: ReceivedOutcome) -> tuple[str, int, str]:
    return outcome.outcome, outcome.utterance, outcome.text


def _count(
    log: Sequence[Event],
    finalized: Mapping[tuple[str, int], UtteranceFinalized],
    judged: Judged,
) -> None:
    judged.utterances = len(finalized)
    judged.cut_by_outage = sum(data.reason == "pause" for data in finalized.values())
    for event in log:
        delivery = delivery_of(event.data)
        if delivery is not None:
            judged.results += delivery.outcome == "result"
            judged.no_speech += delivery.outcome == "no_speech"
            judged.failed += delivery.outcome == "failed"
            judged.missing += delivery.outcome == "missing"
        match event.data:
            case JobFailed(code=code):
                judged.failed_codes[code] = judged.failed_codes.get(code, 0) + 1
            case SessionClosing(reason="idle"):
                judged.events["closed idle"] = judged.events.get("closed idle", 0) + 1
