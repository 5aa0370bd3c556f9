"""Changes that bring the stored state of a session to the fold of the log.

Owns: the hash of a session, its outcomes, playbacks, room, endings that wait, timers.
Must not: do I/O. Facts beyond the fold are passed in.
Read next: state_diff.py (the comparison), repair.py (the caller).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.audit.field_forms import SESSION_FIELDS, SESSION_FORMS, malformed_fields
from eventsched.audit.log_facts import SessionLogFacts
from eventsched.audit.missing_timers import missing_job_timers, missing_session_timers
from eventsched.audit.repair_change import Change, Write, delete_fields, set_fields, set_timer
from eventsched.audit.state_diff import (
    carried_fields,
    outcome_fields,
    scores_of,
    session_fields,
    stored_carried_fields,
    stored_session_fields,
)
from eventsched.schema.events import (
    Event,
    JobFailed,
    JobsRetired,
    ResultRecorded,
    ResultReplaced,
    SessionOpened,
    UtteranceFinalized,
)
from eventsched.schema.ids import ms_of
from eventsched.schema.keys import job_key, name_of
from eventsched.schema.settings import Settings
from projections.job import Job
from projections.session import Session

LEASE_MS_MIN = 15_000
"""A lease ends at the earliest this long after its dispatch (rule 19, lease duration)."""
_NEW_FIELDS = {"out_no": "0", "out_bytes": "0", "out_low": "0", "tp": "", "used": "", "reason": ""}
_NEW_FIELDS |= {"epoch": "1", "utterance": "0", "turn": "0", "tenant": "", "features_hash": "none"}
EMPTY_BUFFER = "0|0|0|0|0|0|0||"


class StoredChunk(msgspec.Struct, frozen=True):
    """A chunk of the audio stream, without its payload."""

    id: str
    seq: int
    ms: int
    bytes: int


class SessionFacts(msgspec.Struct, frozen=True):
    """What the log and the streams of a session say beyond its record."""

    log: SessionLogFacts
    finalized_ids: Mapping[int, str]
    """Number of an utterance -> id of its UtteranceFinalized."""
    endings: Mapping[str, Event]
    """Job key -> the event that ended the job."""
    chunks: Sequence[StoredChunk]
    outbox: tuple[int, int, int]
    """Number of entries so far, bytes so far, bytes before the oldest entry."""

    def traceparent_of(self, utterance: int) -> str:
        """That of the utterance; that of the session if the log does not say."""
        facts = self.log.utterances.get(utterance)
        return facts.traceparent if facts else self.log.traceparent

    def finalized_ms(self, utterance: int) -> int:
        """When the utterance was finalized; 0 if the log does not say."""
        return ms_of(self.finalized_ids.get(utterance, "0-0"))


def facts_of(
    events: Sequence[Event], chunks: Sequence[StoredChunk], outbox: tuple[int, int, int]
) -> SessionFacts:
    """The facts of a session, from its events in order."""
    log = SessionLogFacts("")
    for event in events:
        if isinstance(event.data, SessionOpened):
            log = SessionLogFacts(event.traceparent)
        elif not isinstance(event.data, JobsRetired):  # a forged one may name jobs that go on
            log.fold(event)
    return SessionFacts(
        log=log,
        finalized_ids={
            event.data.utterance: event.id
            for event in events
            if isinstance(event.data, UtteranceFinalized)
        },
        endings={
            event.job: event
            for event in events
            if isinstance(event.data, ResultRecorded | ResultReplaced | JobFailed)
        },
        chunks=chunks,
        outbox=outbox,
    )


# --- a session that the log does not have ---------------------------------------------------


def unknown_session(name: str, full: str, stored: Mapping[str, Any], at: str) -> Change:
    """Retire it: the retire timer deletes its keys."""
    fields = stored["hash"]
    missing = {field: value for field, value in _NEW_FIELDS.items() if field not in fields}
    if "buffer" not in fields:
        missing["buffer"] = EMPTY_BUFFER
    return Change(
        at=at,
        where=f"session:{name}",
        what="delete the session",
        reason="the log has no such session, or it is retired",
        gives_up="what is stored of the session, as it is in no event",
        session=full,
        writes=(
            *set_fields(f"session:{name}", missing | {"status": "retired"}),
            set_timer("retire", full, 0),
        ),
    )


# --- a session of the log -------------------------------------------------------------------


class SessionRepair:
    """The changes of one session."""

    def __init__(
        self,
        name: str,
        view: Session,
        stored: Mapping[str, Any],
        facts: SessionFacts,
        settings: Settings,
        jobs: Mapping[str, Job],
        at: str,
    ) -> None:
        self._name, self._view, self._facts = name, view, facts
        self._hash: Mapping[str, str] = stored.get("hash", {})
        self._stored = {
            part: stored.get(part) or {}
            for part in ("outcomes", "playing", "ready", "held", "gaps", "jobs", "playback_timers")
        } | {part: stored[part] for part in ("idle", "pause", "close", "retire") if part in stored}
        self._stored["hash"] = self._hash
        self._is_in_room = "room" in stored
        self._is_counted = bool(stored.get("counted"))
        self._settings, self._jobs, self._at = settings, jobs, at

    def changes(self, reason: str) -> Iterator[Change]:
        """The changes that remove the differences; none if there are none."""
        buffer = (f"session:{self._name}", "buffer", self._hash.get("buffer", ""))
        parts = [
            ("session", "set its fields", self._fields()),
            ("outcomes", "set its open outcomes", self._outcomes()),
            ("playing", "set its open playbacks", self._playbacks()),
            ("out_of_order", "set the endings that wait", self._endings()),
            ("room", "set its membership of the room", self._room()),
            ("tenant_sessions", "count it", self._count()),
            ("session", "set its timers", self._timers()),
        ]
        for kind, what, writes in parts:
            if writes:
                name = self._name
                if kind == "room":
                    name = name_of(self._view.room)
                elif kind == "tenant_sessions":
                    name = self._view.tenant
                yield Change(
                    at=self._at,
                    where=f"{kind}:{name}",
                    what=what,
                    reason=reason,
                    gives_up=self._gives_up(kind, what),
                    session=self._view.session,
                    guards=(buffer,) if what == "set its fields" else (),
                    writes=tuple(writes),
                )

    def _count(self) -> list[Write]:
        if self._is_counted:
            return []
        return [("SADD", f"tenant_sessions:{self._view.tenant}", self._name)]

    def _gives_up(self, kind: str, what: str) -> str:
        if kind == "out_of_order":
            return "synthesised speech of these results"
        if what == "set its fields" and not self._hash:
            return (
                "its resume secret, the tokens of its open and resume calls, and what its listener "
                "has confirmed"
            )
        return ""

    def _fields(self) -> list[Write]:
        key = f"session:{self._name}"
        wanted, stored = session_fields(self._view), stored_session_fields(self._hash)
        changed = {field: value for field, value in wanted.items() if stored.get(field) != value}
        extra = sorted(stored.keys() - wanted.keys())
        carried = carried_fields(self._facts.log)
        changed |= {
            field: value
            for field, value in carried.items()
            if stored_carried_fields(self._hash)[field] != value
        }
        if not self._hash:
            out_no, out_bytes, out_low = map(str, self._facts.outbox)
            changed |= {"out_no": out_no, "out_bytes": out_bytes, "out_low": out_low}
            empty = ("used", "targets", "features", "room", "listen_language", "key", "tokens")
            changed |= {field: "" for field in empty if field not in changed}
            if self._view.status == "closed":
                changed["retire_at"] = str(self._due_ms("retire"))
        changed |= dict.fromkeys(SESSION_FIELDS - self._hash.keys() - changed.keys(), "")
        malformed = malformed_fields(self._hash, SESSION_FORMS)
        if (
            not self._hash.get("buffer")
            or "buffer" in malformed
            or "utterance" in changed
            or self._misses_chunks()
        ):
            changed["buffer"] = self._buffer()
        extra += sorted(malformed.keys() - {"buffer"})
        cleared = {field: "" for field in extra if field == "used"}
        deleted = [field for field in extra if field not in cleared]
        return set_fields(key, changed | cleared) + delete_fields(key, deleted)

    def _misses_chunks(self) -> bool:
        """Whether the counter of chunks is behind the stored chunks or the finalized ones."""
        next_seq = int(self._hash.get("buffer", "0").split("|")[0] or 0)
        last = self._facts.chunks[-1].seq + 1 if self._facts.chunks else 0
        return next_seq < max(last, self._view.next_seq)

    def _buffer(self) -> str:
        """The field `buffer`: the open utterance, from the chunks after the finalized ones."""
        chunks = [chunk for chunk in self._facts.chunks if chunk.seq >= self._view.next_seq]
        next_seq = chunks[-1].seq + 1 if chunks else self._view.next_seq
        while chunks and not chunks[0].bytes:
            chunks = chunks[1:]
        seen_ms = max(self._view.updated_ms, ms_of(chunks[-1].id) if chunks else 0)
        if not chunks or self._view.status != "open":
            return f"{next_seq}|{seen_ms}|0|0|0|0|0||"
        count, size = len(chunks), sum(chunk.bytes for chunk in chunks)
        audio_ms, last = sum(chunk.ms for chunk in chunks), chunks[-1]
        return (
            f"{next_seq}|{seen_ms}|{count}|{size}|{audio_ms}|{chunks[0].seq}|{ms_of(last.id)}"
            f"|{chunks[0].id}|{last.id}"
        )

    def _outcomes(self) -> list[Write]:
        return _hash_writes(
            f"outcomes:{self._name}", outcome_fields(self._view), self._stored["outcomes"]
        )

    def _playbacks(self) -> list[Write]:
        wanted = {key: str(until) for key, until in self._view.playbacks.items()}
        writes = _hash_writes(f"playing:{self._name}", wanted, self._stored["playing"])
        timers = [
            set_timer("playback", f"{self._view.session}|{key}", until)
            for key, until in self._view.playbacks.items()
            if key not in self._stored["playback_timers"]
        ]
        return writes + timers

    def _room(self) -> list[Write]:
        view = self._view
        if not view.room or view.in_room == self._is_in_room:
            return []
        key = f"room:{name_of(view.room)}"
        if view.in_room:
            return [("HSET", key, view.session, view.listen_language)]
        return [("HDEL", key, view.session)]

    def _endings(self) -> list[Write]:
        """Endings that wait for an earlier number are stored, and no others."""
        key, held = f"out_of_order:{self._name}", self._stored["held"]
        ready = {key: each for key, each in self._view.open_outcomes.items() if each.outcome}
        writes: list[Write] = []
        for field, outcome in ready.items():
            if held.get(field) != outcome.outcome:
                writes += self._ending(key, field)
        for field in sorted(held.keys() - ready.keys()):
            writes.append(("HDEL", key, field, f"{field}/body", f"{field}/audio"))
        wanted = {field: str(outcome.ready_ms) for field, outcome in ready.items()}
        stored = scores_of(self._stored["ready"])
        targets = set()
        for field in sorted(wanted.keys() | stored.keys()):
            target, _, number = field.rpartition("/")
            at = f"out_of_order_at:{self._name}:{target}"
            if field not in wanted:
                writes.append(("ZREM", at, number))
            elif stored.get(field) != wanted[field]:
                writes.append(("ZADD", at, wanted[field], number))
            targets.add(target)
        for target in sorted(targets):
            is_held = any(field.rpartition("/")[0] == target for field in wanted)
            if is_held != (f"w:{target}" in self._hash):
                command = ("HSET", f"session:{self._name}", f"w:{target}", "1")
                writes.append(command if is_held else ("HDEL", *command[1:3]))
        return writes + [self._gap_timer(target) for target in sorted(self._ready_targets())]

    def _ready_targets(self) -> set[str]:
        """Targets whose next number has ended and is not delivered."""
        delivered = self._view.delivered
        return {
            target
            for key, outcome in self._view.open_outcomes.items()
            for target, _, number in [key.rpartition("/")]
            if outcome.outcome and int(number) <= delivered.get(target, 0)
        }

    def _ending(self, key: str, field: str) -> list[Write]:
        outcome = self._view.open_outcomes[field]
        target = field.rpartition("/")[0]
        view = self._view
        job = job_key(view.tenant, view.session, outcome.utterance, target, view.features_hash)
        event = self._facts.endings.get(job)
        code = getattr(event.data, "code", "") if event else ""
        ending = {"kind": outcome.outcome, "code": code, "job": job}
        ending["cause"] = f"log/{event.id}" if event else ""
        ending["tp"] = self._facts.traceparent_of(outcome.utterance)
        ending["finalized"] = str(self._facts.finalized_ms(outcome.utterance))
        body = event.body if event and outcome.outcome != "failed" else b""
        if not code:
            del ending["code"]
        text = msgspec.json.encode(ending)
        return [("HSET", key, field, text, f"{field}/body", body)]

    # --- timers -----------------------------------------------------------------------------

    def _timers(self) -> list[Write]:
        missing = [*missing_session_timers(self._view, self._stored)]
        missing = [timer for timer in missing if timer.kind != "playback"]
        writes: list[Write] = []
        for timer in missing:
            if timer.kind == "gap":
                writes.append(self._gap_timer(timer.id.partition("|")[2]))
            else:
                writes.append(set_timer(timer.kind, timer.id, self._due_ms(timer.kind)))
        for timer in missing_job_timers(self._view, self._stored):
            job = self._jobs.get(timer.id)
            if job is not None:
                writes += job_timer(timer.kind, job, self._settings)
        return writes

    def _due_ms(self, kind: str) -> int:
        """When the timer is due. Its handler finds out when a timer of 0 is due."""
        if kind == "close":
            return self._view.updated_ms + self._settings.close_wait_ms
        if kind == "retire":
            return self._view.closed_ms + self._settings.session_retention_ms
        return 0

    def _gap_timer(self, target: str) -> Write:
        ready = [
            outcome.ready_ms
            for key, outcome in self._view.open_outcomes.items()
            if outcome.outcome and key.rpartition("/")[0] == target
        ]
        due_ms = min(ready, default=0) + self._settings.delivery_gap_timeout_ms
        is_next = target in self._ready_targets()
        return set_timer("gap", f"{self._view.session}|{target}", 0 if is_next else due_ms)


def job_timer(kind: str, job: Job, settings: Settings) -> list[Write]:
    """The timer of a job that is missing."""
    if kind == "leases":
        id_ = f"{name_of(job.node)}|{job.epoch}"
        return [set_timer("leases", id_, job.dispatched_ms + LEASE_MS_MIN)]
    if kind == "age":
        return [set_timer("age", job.job, job.deadline_ms - settings.queue_timeout_ms // 2)]
    if kind == "avoid":
        return [set_timer("avoid", job.job, job.avoid_until_ms)]
    if kind == "backoff":
        return [set_timer("backoff", job.job, job.not_before_ms)]
    return [set_timer("wait", job.job, job.deadline_ms)]


def _hash_writes(key: str, wanted: dict[str, str], stored: Mapping[str, str]) -> list[Write]:
    changed = {field: value for field, value in wanted.items() if stored.get(field) != value}
    return set_fields(key, changed) + delete_fields(key, list(stored.keys() - wanted.keys()))
