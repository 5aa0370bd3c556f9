"""Changes that bring the stored record of a job to the fold of the log.

Owns: the record, its place in the queue, and the step that the log has begun and not completed.
Must not: do I/O. Facts beyond the fold are passed in.
Read next: lua/include/jobs.lua (the form of the record), repair.py (the caller).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from eventsched.audit.log_facts import UtteranceFacts, job_core, job_details
from eventsched.audit.repair_change import Change, Write
from eventsched.audit.repair_session import SessionFacts, job_timer
from eventsched.audit.state_diff import job_fields
from eventsched.schema.keys import name_of
from eventsched.schema.settings import Settings
from projections.job import Job
from projections.session import Session


class JobRepair:
    """The changes of one job. `session` and `facts` are None if its session is unknown."""

    def __init__(
        self,
        key: str,
        view: Job | None,
        stored: Mapping[str, Any],
        session: Session | None,
        facts: SessionFacts | None,
        settings: Settings,
        at: str,
    ) -> None:
        self._key, self._view, self._stored = key, view, stored
        self._session, self._facts = session, facts
        self._settings, self._at = settings, at

    def changes(self, reason: str) -> Iterator[Change]:
        """The changes that remove the differences."""
        view = self._view
        writes = self._leave_queue()
        if view is None:
            yield self._change("delete the record", reason, [*writes, ("DEL", f"job:{self._key}")])
            return
        if view.status != "ended" and (self._session is None or self._facts is None):
            return  # the session is repaired first
        writes.append(("SET", f"job:{self._key}", self._record(view)))
        if view.status == "queued":
            writes += self._enter_queue(view)
        if view.status == "backoff":
            writes.append(
                ("ZADD", "backoffs", view.not_before_ms, f"{_requirement(view)} {view.job}")
            )
            writes += job_timer("backoff", view, self._settings)
        if view.status == "running":
            writes += job_timer("leases", view, self._settings)
        yield self._change(f"set the record: {view.status}", reason, writes)

    def _change(self, what: str, reason: str, writes: list[Write]) -> Change:
        return Change(
            at=self._at,
            where=f"job:{self._key}",
            what=what,
            reason=reason,
            job=self._key,
            session=self._session.session if self._session else "",
            writes=tuple(writes),
        )

    def _leave_queue(self) -> list[Write]:
        """Remove the job from the place at which its record says that it waits."""
        job = self._stored.get("hash", {})
        if not self._stored.get("requirement"):
            return []
        if job.get("status") == "backoff":
            return [("ZREM", "backoffs", f"{self._stored['requirement']} {self._key}")]
        if job.get("status") != "queued":
            return []
        key = f"waiting:{job['priority']}:{self._stored['requirement']}"
        return [("ZREM", key, job["member"]), ("ZREM", "waiting_tags", job["member"])]

    def _enter_queue(self, view: Job) -> list[Write]:
        requirement = _requirement(view)
        if view.avoided:
            requirement += f"|{name_of(view.avoided)}"
        writes: list[Write] = [
            ("ZADD", f"waiting:{view.priority}:{requirement}", view.tag, view.member),
            ("ZADD", "waiting_tags", view.tag, view.member),
            *job_timer("wait", view, self._settings),
        ]
        if view.priority:
            writes += job_timer("age", view, self._settings)
        if view.avoid_until_ms:
            writes += job_timer("avoid", view, self._settings)
        return writes

    def _record(self, view: Job) -> str:
        """The record as lua/include/jobs.lua stores it."""
        refused = self._stored.get("hash", {}).get("refused", "")
        if self._facts is not None:
            refused = self._facts.log.refused.get(self._key, "")
        return "|".join([*job_fields(view).values(), refused, self._core(view)])

    def _core(self, view: Job) -> str:
        utterance = self._facts.log.utterances.get(view.utterance) if self._facts else None
        core = job_core(view, self._session, utterance)
        if core is None:  # the log does not have the utterance
            stored = self._stored.get("core", "")
            if stored and '"tenant":' in stored and view.status != "ended":
                return str(stored)
            facts = UtteranceFacts("", view.created_ms, 0, 0, "", "", 0, 0, 0)
            core = job_core(view, self._session, facts)
            assert core is not None
        return msgspec.json.encode(core).decode()


def _requirement(view: Job) -> str:
    return f"{view.source}:{view.target}:{','.join(view.features)}"


def next_attempt(view: Job, key: str, at: str) -> Change:
    """The log has the end of an attempt, and nothing continues the job."""
    end = view.attempts[-1]
    return Change(
        at=at,
        where=f"job:{key}",
        what="start the next attempt, or fail the job",
        reason=f"attempt {end.attempt} ended ({end.end}), and nothing followed",
        step="retry",
        job=key,
        attempt_end=(end.end, end.code),
    )


def uncancelled(view: Job, key: str, at: str) -> Iterator[Change]:
    """An attempt is live although its job has ended."""
    live = [attempt for attempt in view.attempts if not attempt.ended_ms]
    if view.status == "ended" and live:
        yield Change(
            at=at,
            where=f"job:{key}",
            what="end its attempt as cancelled",
            reason=f"the job has ended, attempt {live[-1].attempt} has not",
            step="cancel",
            job=key,
        )


def dispatch_entry(session: Session, facts: SessionFacts, utterance: int) -> Write | None:
    """The entry of the dispatch queue for the open outcomes of an utterance without jobs."""
    uttered = facts.log.utterances.get(utterance)
    if uttered is None:
        return None
    targets = [
        key for key, each in session.open_outcomes.items()
        if each.utterance == utterance and not each.outcome
    ]  # fmt: skip
    traced = {"tp": uttered.traceparent}
    rest = msgspec.json.encode(traced | job_details(session, uttered)).decode()
    words = (
        session.session, utterance, facts.finalized_ids[utterance], session.tenant,
        session.features_hash, session.source, uttered.turn, uttered.ms, session.priority,
        ",".join(session.features), ",".join(targets),
    )  # fmt: skip
    return ("XADD", "dispatch", "k", "utterance", "d", " ".join(map(str, words)) + " " + rest[1:])
