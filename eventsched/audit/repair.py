"""Repair: bring a cell that `verify` finds broken to a state that it finds clean.

Owns: the plan (which changes the violations call for) and its application, one change a call.
Must not: change the log other than by appends; write a change that the log does not imply.
Read next: verify.py (the comparison), repair_session.py, repair_job.py, repair_node.py (the
changes), lua/repair_state.lua (the fence).

What the log says wins. A change is computed from the fold up to an entry and is refused if a later
entry concerns the same session, job or node; then the next round computes it again. So the system
may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from eventsched.audit.class_checks import class_writes, pair_writes
from eventsched.audit.group_checks import DISPATCH, GroupChecks
from eventsched.audit.invariants import Violation
from eventsched.audit.repair_change import Change, Write, set_fields
from eventsched.audit.repair_job import JobRepair, dispatch_entry, next_attempt, uncancelled
from eventsched.audit.repair_node import NodeRepair
from eventsched.audit.repair_outbox import undelivered_changes
from eventsched.audit.repair_session import (
    SessionFacts,
    SessionRepair,
    StoredChunk,
    facts_of,
    unknown_session,
)
from eventsched.audit.state_diff import outbox_fields
from eventsched.audit.stream_checks import Chunks, Outbox
from eventsched.audit.verify import Report, Verifier
from eventsched.history.log import EntryFilter, History
from eventsched.projection.fold import decode_event
from eventsched.projection.protocol import ProjectionSet
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import AudioChunkAppended, Event
from eventsched.schema.ids import START, id_before
from eventsched.schema.keys import job_key, name_of, session_of_job
from eventsched.schema.settings import Settings
from eventsched.store.operator_commands import Act
from eventsched.store.replies import fields_of
from projections.job import Job
from projections.node import Node
from projections.session import Session, outcome_key

ROUNDS_MAX = 8
"""A change may show another violation: the cell is checked again after each round."""
CALLS_MAX = 100
READ_MAX = 500
Progress = Callable[[Change], None]
"""Called with each change that has been applied."""
Rebuilder = Callable[[str, Act], Awaitable[bool]]
"""Rebuilds a read model, for an operator; false if a rebuild is running already."""


class Plan(Verifier):
    """One verification that also computes the changes for what it finds."""

    def __init__(
        self, store: ProjectionStore, projection_set: ProjectionSet, history: History
    ) -> None:
        super().__init__(store, projection_set, history=history)
        self.changes: list[Change] = []
        self._settings: Settings | None = None
        self._facts: dict[str, SessionFacts] = {}

    async def run(self) -> Report:
        """Check the cell; then `changes` has the changes."""
        report = await super().run()
        for entry_id, found in self._log_violations.items():
            self._add(
                where=f"log/{entry_id}",
                what="accept the violations of the entry",
                reason="; ".join(f"{each.invariant} {each.what}" for each in found),
                gives_up="nothing: the log does not change",
                accepts=entry_id,
            )
        views = {
            violation.where.split(":")[1]
            for violation in report.violations
            if violation.invariant == "I6"
        }
        for name in sorted(views):
            self._add(
                where=f"view:{name}", what="rebuild the read model",
                reason="live records differ from the fold", step="rebuild", projection=name,
            )  # fmt: skip
        for violation in report.violations:
            if violation.where.startswith("checkpoint:"):
                self._plan_passed(violation)
            if violation.where.startswith("consumer_group:"):
                await self._plan_group(violation)
        if any(each.where == "log" and "are trimmed" in each.what for each in report.violations):
            self._add(
                where="log", what="record a trim", step="trim",
                reason="entries are gone from the log without an event",
                gives_up="these entries; state is not compared with a log that lacks its beginning",
            )  # fmt: skip
        return report

    async def _note_other_type(self, kind: str, name: str, keys: Sequence[str]) -> None:
        known = set(self._other_type)
        await super()._note_other_type(kind, name, keys)
        for key in keys:
            if key not in known:
                self._add(
                    where=key, what="delete the key", reason="it is of another type",
                    gives_up="its value, which nothing reads", writes=(("DEL", key),),
                )  # fmt: skip

    async def _note_members(
        self, name: str, members: Mapping[str, str], found: Sequence[Violation]
    ) -> None:
        key = f"room:{name}"
        self._add(
            where=key, what="set its members", reason="; ".join(each.what for each in found[:3]),
            subjects=tuple(members), writes=(("DEL", key), *set_fields(key, dict(members))),
        )  # fmt: skip

    async def _note_tenant(
        self, name: str, queued: int, stored: Mapping[str, Any], found: Violation
    ) -> None:
        key = "tenant_queued"
        write: Write = ("HSET", key, name, queued) if queued else ("HDEL", key, name)
        self._add(
            where=key, what=f"set the number of waiting jobs of tenant {name}",
            reason=found.what, guards=((key, name, stored["queued"]),), writes=(write,),
        )  # fmt: skip

    async def _note_class(
        self,
        class_id: str,
        members: Sequence[Node],
        stored: Mapping[str, Any],
        found: Sequence[Violation],
    ) -> None:
        self._add(
            where=f"class:{class_id}", what="set its definition and its nodes",
            reason="; ".join(each.what for each in found[:3]),
            subjects=tuple(node.node for node in members),
            writes=tuple(class_writes(class_id, members, stored)),
        )  # fmt: skip

    async def _note_pair(
        self,
        pair: str,
        classes: set[str],
        stored: Mapping[str, Any],
        found: Sequence[Violation],
    ) -> None:
        nodes = self._records.nodes.values()
        self._add(
            where=f"pair:{pair}", what="set its classes",
            reason="; ".join(each.what for each in found[:3]),
            subjects=tuple(node.node for node in nodes if node.cls in classes),
            writes=tuple(pair_writes(pair, classes, stored)),
        )  # fmt: skip

    def _plan_passed(self, violation: Violation) -> None:
        """The consumer passes the entries that were trimmed before it had read them."""
        name = violation.where.partition(":")[2]
        self._add(
            where=violation.where, what="pass the trimmed entries", reason=violation.what,
            gives_up="what the consumer would have made of these entries",
            writes=(("HSET", f"lease:{name}", "passed", self.report.trimmed_entries),),
        )  # fmt: skip

    async def _plan_group(self, violation: Violation) -> None:
        """The group returns to what its owner has saved, with the right number of entries."""
        name = violation.where.partition(":")[2]
        guards: tuple[tuple[str, str, str], ...] = ()
        writes: tuple[Write, ...] = (("XGROUP", DISPATCH, DISPATCH, START),)
        if name != DISPATCH:
            lease = await self._store.read_hash(self._store.keys.lease(name))
            saved = await self._store.saved_position(name)
            count = await GroupChecks(self._store).entries_up_to(saved)
            guards = ((f"lease:{name}", "passed", lease.get("passed", "")),)
            move = ("XGROUP", "log", name, saved, "ENTRIESREAD", count)
            writes = (("HSET", f"lease:{name}", "passed", count), move)
        self._add(
            where=violation.where, what="move the consumer group", reason=violation.what,
            guards=guards, writes=writes,
        )  # fmt: skip

    def _add(self, **fields: Any) -> None:
        self.changes.append(Change(at=self.report.last_id, **fields))

    async def _note_differences(
        self, kind: str, name: str, stored: Mapping[str, Any], found: list[Violation]
    ) -> None:
        reason = "; ".join(f"{each.invariant} {each.what}" for each in found[:3])
        at, keys, records = self.report.last_id, self._store.keys, self._records
        settings = await self._read_settings()
        if kind == "session" and found:
            view = records.sessions.get(name)
            if view is None:
                self.changes.append(unknown_session(name, keys.full(name), stored, at))
                return
            facts = await self._read_facts(name)
            repair = SessionRepair(name, view, stored, facts, settings, records.jobs, at)
            self.changes += repair.changes(reason)
        elif kind == "job":
            job = records.jobs.get(name)
            session_name = name_of(session_of_job(name))
            session = records.sessions.get(session_name)
            if found:
                job_facts = await self._read_facts(session_name) if session else None
                repair_job = JobRepair(name, job, stored, session, job_facts, settings, at)
                self.changes += repair_job.changes(reason)
            if job is not None and session is not None and _has_no_outcome(job, session):
                self._add(
                    where=f"job:{name}", what="fail the job", job=name, step="fail",
                    reason="it has no open outcome", gives_up="the work of its attempt",
                    attempt_end=("failed", "NO_OUTCOME"),
                )  # fmt: skip
            elif job is not None:
                self.changes += uncancelled(job, name, at)
        elif kind == "node" and found:
            node = records.nodes.get(name)
            repair_node = NodeRepair(
                name, keys.full(name), node, stored, records.nodes,
                self._log_facts.drained_by.get(name), at,
            )  # fmt: skip
            self.changes += repair_node.changes(reason)
            if node is not None:
                self._plan_slots(name, node)

    async def _note_released(self, key: str) -> None:
        self.changes.append(next_attempt(self._records.jobs[key], key, self.report.last_id))

    def _plan_slots(self, name: str, node: Node) -> None:
        """Dispatch the newest attempts again that are more than the node's slots."""
        live = {job: each for job, each in node.live.items() if each.epoch == node.epoch}
        newest_last = sorted(live, key=lambda job: (live[job].since_ms, job))
        for job in newest_last[node.slots :]:
            self._add(
                where=f"leases:{name}", what="dispatch the job again", job=job, step="requeue",
                reason=f"{len(live)} attempts on {node.slots} slots", attempt_end=("lease", ""),
                gives_up="the work of the attempt",
            )  # fmt: skip

    async def _note_streams(
        self, name: str, chunks: Chunks, outbox: Outbox, lost: list[Violation]
    ) -> None:
        full = self._store.keys.full(name)
        if outbox.holes:
            self._add(
                where=f"outbox:{name}", what="trim the entries before the hole",
                reason=outbox.violations[-1].what, session=full,
                gives_up="entries that a listener has not read; it receives Truncated",
                writes=(("XTRIM", f"outbox:{name}", "MINID", outbox.holes[-1]),),
            )  # fmt: skip
        if any(violation.invariant == "I1" for violation in lost):
            await self._plan_buffer(name, full, lost[0].what)
        if chunks.holes or any(violation.invariant == "I10" for violation in lost):
            self._plan_audio(name, full, chunks, [*chunks.violations, *lost][0].what)

    async def _note_undelivered(
        self, name: str, outbox: Outbox, undelivered: Sequence[str], stored: Mapping[str, Any]
    ) -> None:
        events: dict[str, Event] = {}
        for log_id in {*undelivered, *outbox.delivered.values()}:
            async for entry in self._history.entries(id_before(log_id), log_id):
                event = decode_event(entry)
                if isinstance(event, Event):
                    events[log_id] = event
        view = self._records.sessions[name]
        at = self.report.last_id
        self.changes += undelivered_changes(name, view, outbox, events, undelivered, stored, at)

    async def _note_outbox_counters(
        self, name: str, stored: Mapping[str, Any], found: Sequence[Violation]
    ) -> None:
        """Count from the newest entry on; all unread bytes count as unread again."""
        session: Mapping[str, str] = stored["hash"]
        counters = outbox_fields(stored, is_new=self._has_no_delivery(name))
        if not counters:  # no entry says how many there were
            number, total = session.get("out_no", ""), session.get("out_bytes", "")
            counters = {"out_no": number if number.isdecimal() else "0"}
            counters["out_bytes"] = total if total.isdecimal() else "0"
        changed = counters | {"out_low": "0"}
        self._add(
            where=f"outbox:{name}", what="set its counters",
            reason="; ".join(each.what for each in found[:3]),
            session=self._store.keys.full(name),
            guards=((f"session:{name}", "out_no", session.get("out_no", "")),),
            writes=tuple(set_fields(f"session:{name}", changed)),
        )  # fmt: skip

    async def _plan_buffer(self, name: str, full: str, reason: str) -> None:
        """Count the stored chunks."""
        view, stored = await self._read_session(name)
        if view is None:
            return
        facts = await self._read_facts(name)
        settings = await self._read_settings()
        at = self.report.last_id
        repair = SessionRepair(name, view, stored, facts, settings, self._records.jobs, at)
        self.changes += repair.changes(reason)

    def _plan_audio(self, name: str, full: str, chunks: Chunks, reason: str) -> None:
        """Fail the jobs whose audio is lost, and trim what is stored before the last hole."""
        view = self._records.sessions[name]
        usable = set(chunks.ids[chunks.ids.index(chunks.holes[-1]) if chunks.holes else 0 :])
        for key, outcome in view.open_outcomes.items():
            target = key.rpartition("/")[0]
            job = self._records.jobs.get(
                job_key(view.tenant, full, outcome.utterance, target, view.features_hash)
            )
            if job is not None and job.status != "ended" and outcome.first not in usable:
                self._add(
                    where=f"job:{job.job}", what="fail the job", reason=reason, step="fail",
                    gives_up=f"utterance {outcome.utterance} in {target}", job=job.job,
                    attempt_end=("failed", "AUDIO_INCOMPLETE"),
                )  # fmt: skip
        if chunks.holes:
            self._add(
                where=f"audio:{name}", what="trim the chunks before the hole", reason=reason,
                gives_up="the chunks before the hole", session=full,
                writes=(("XTRIM", f"audio:{name}", "MINID", chunks.holes[-1]),),
            )  # fmt: skip

    async def _note_undispatched(self, name: str, utterances: set[int]) -> None:
        facts, view = await self._read_facts(name), self._records.sessions[name]
        for utterance in sorted(utterances):
            write = dispatch_entry(view, facts, utterance)
            if write is not None:
                self._add(
                    where=f"outcomes:{name}", what=f"queue utterance {utterance} for dispatch",
                    reason="it has no job, entry or dead letter", session=view.session,
                    writes=(write,),
                )  # fmt: skip

    # --- facts beyond the fold ----------------------------------------------------------------

    async def _read_settings(self) -> Settings:
        if self._settings is None:
            self._settings = await self._store.read_settings()
        return self._settings

    async def _read_facts(self, name: str) -> SessionFacts:
        """The session's events up to the fold, and its streams."""
        if name not in self._facts:
            events = []
            where = EntryFilter(session=name)
            async for entry in self._history.entries(START, self.report.last_id, where):
                event = decode_event(entry)
                if isinstance(event, Event):
                    events.append(event)
            self._facts[name] = facts_of(
                events, await self._read_chunks(name), await self._read_outbox(name)
            )
        return self._facts[name]

    async def _read_chunks(self, name: str) -> list[StoredChunk]:
        key, chunks, after = self._store.keys.audio(name), [], START
        while entries := await self._store.read_range(key, f"({after}", "+", READ_MAX):
            for entry in entries:
                event = decode_event(entry)
                if isinstance(event, Event) and isinstance(event.data, AudioChunkAppended):
                    seq, ms = event.data.seq, event.data.ms
                    chunks.append(StoredChunk(event.id, seq, ms, len(event.body)))
            after = entries[-1][0]
        return chunks

    async def _read_outbox(self, name: str) -> tuple[int, int, int]:
        """The counters of the outbox, from its oldest and its newest entry."""
        key = self._store.keys.outbox(name)
        newest = await self._store.read_range(key, "-", "+", 1, newest_first=True)
        oldest = await self._store.read_range(key, "-", "+", 1)
        if not newest:
            return 0, 0, 0
        number, total = map(int, fields_of(newest[0][1])[b"i"].split(b":"))
        first = fields_of(oldest[0][1])
        low = int(first[b"i"].split(b":")[1]) - len(first[b"b"]) - len(first[b"a"])
        return number, total, low


def _has_no_outcome(job: Job, session: Session) -> bool:
    """Whether the job has not ended although its outcome has."""
    key = outcome_key(job.target, job.delivery_no)
    return job.status != "ended" and key not in session.open_outcomes


class Repair(msgspec.Struct, kw_only=True):
    """What a repair has done."""

    rounds: int = 0
    applied: list[Change] = []
    left: list[Violation] = []
    """Violations that remain; empty if the cell is clean."""
    not_compared: list[str] = []
    """As in the report of the last check: nothing is written for these entities."""


class Repairer:
    """Plans and applies the repair of one cell."""

    def __init__(
        self,
        store: ProjectionStore,
        projection_set: ProjectionSet,
        history: History,
        rebuild: Rebuilder,
    ) -> None:
        self._store, self._set, self._history = store, projection_set, history
        self._rebuild = rebuild

    async def plan(self) -> Plan:
        """What `verify` finds, and the changes for it. Writes nothing."""
        plan = Plan(self._store, self._set, self._history)
        await plan.run()
        return plan

    async def apply(self, why: str, by: str, progress: Progress | None = None) -> Repair:
        """Apply changes until the cell is clean, or until no change helps.

        Args:
            why: The operator's reason, for the events.
            by: The operator, for the events.
            progress: Called after each change.
        """
        done = Repair()
        for done.rounds in range(1, ROUNDS_MAX + 1):
            plan = await self.plan()
            done.left, done.not_compared = plan.report.violations, plan.report.not_compared
            if plan.report.is_clean and not plan.changes:
                return done
            applied = 0
            for change in plan.changes:
                if await self._apply(change, why, by):
                    applied += 1
                    done.applied.append(change)
                    if progress is not None:
                        progress(change)
            await self._complete(dispatches=any(change.dispatches for change in plan.changes))
            if not applied:
                return done
        plan = await self.plan()
        done.left, done.not_compared = plan.report.violations, plan.report.not_compared
        return done

    async def _apply(self, change: Change, why: str, by: str) -> bool:
        """Whether the change was applied; not if the cell has moved on."""
        if change.step == "rebuild":
            return await self._rebuild(change.projection, Act.of(by, why))
        if change.step == "trim":
            return bool(await self._store.run("repair_trim", why, by))
        if change.step == "write":
            reply = await self._store.run("repair_state", *change.arguments(why, by))
        else:
            reply = await self._store.run(
                "repair_job", change.at, change.job, change.step, *change.attempt_end,
                change.what, change.gives_up, why, by,
            )  # fmt: skip
        return bool(reply == b"repaired")

    async def _complete(self, *, dispatches: bool) -> None:
        """Complete what the changes have begun, as the roles would: dispatch, fire timers."""
        for _ in range(CALLS_MAX * dispatches):
            _, left, *_ = await self._store.run("dispatch_jobs", 0, "repair")
            if not left:
                break
        for _ in range(CALLS_MAX):
            _, next_ms, now_ms = await self._store.run("fire_timers")
            if not 0 <= next_ms <= now_ms:
                return
