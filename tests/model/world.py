"""The state of the model: authoritative state, folded from its events, and ephemeral state.

Owns: time, entry ids, appending an event and folding it at once with the shared projections.
Never does: decisions (session.py and its neighbours), I/O.
Read next: session.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from eventsched.errors import Refused
from eventsched.schema.events import AnyData, ClockAdjusted, Event, Target
from eventsched.schema.ids import parse_id
from eventsched.schema.keys import Keys, name_of
from eventsched.schema.settings import Settings
from projections.group import Groups, SessionGroups
from projections.job import Job, Jobs
from projections.node import Node, Nodes
from projections.session import Session, Sessions

TOKENS_MAX = 8
FINALIZED_MAX = 8
OPENED_MAX = 64
ENDED_MAX = 8
"""How much one call may finalize, open and end."""


@dataclass(frozen=True, slots=True)
class Buffered:
    """One chunk of the open utterance."""

    id: str
    seq: int
    ms: int
    size: int


@dataclass(slots=True)
class SessionState:
    """State of a session that is in no event, or in none yet."""

    tp: str
    seen_ms: int
    tokens: list[tuple[str, int]]
    """(token, epoch), the newest last."""
    secret_sha1: str
    next_seq: int = 0
    buffer: list[Buffered] = field(default_factory=list)
    chunk_ms: int = 0
    """When the buffer's last chunk came."""
    out_no: int = 0
    out_bytes: int = 0
    confirmed: str = ""
    retire_ms: int = 0
    """When the closed session is retired; its outbox is freed before."""
    given_up: int = 0
    """Outcomes that the end of the close wait has ended."""
    playbacks_started: int = 0
    resumes_until: int = 0
    """When no earlier resume counts any more."""

    def epoch_of(self, token: str) -> int | None:
        return dict(self.tokens).get(token)

    def remember(self, token: str, epoch: int) -> None:
        self.tokens = [*self.tokens, (token, epoch)][-TOKENS_MAX:]


@dataclass(frozen=True, slots=True)
class Failures:
    """Fast failures in a row on one node."""

    count: int
    session: str
    tenant: str
    spread: str = "session"
    suspensions: int = 0

    def __str__(self) -> str:
        return f"{self.count}|{self.session}|{self.tenant}|{self.spread}|{self.suspensions}"


@dataclass(slots=True)
class Process:
    """The process that holds the registration of a node."""

    token: str
    version: str
    inbox_from: str
    seen_ms: int
    load: int = 0
    drained_by: str = ""
    """The operator who drains the node."""
    failures: Failures | None = None
    lost: str = ""
    """The epoch of the newest registration that was lost with leases, and the id of its event."""


class DispatchEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of the dispatch queue: an utterance whose targets need jobs."""

    session: str
    utterance: int
    turn: int
    tenant: str
    source: str
    features: list[str] = []
    features_hash: str
    encoding: str
    sample_rate: int
    first: str
    last: str
    count: int
    bytes: int
    ms: int
    padding_ms: int
    priority: int
    tp: str
    key: str = ""
    log: str
    targets: list[Target]


class Broken(msgspec.Struct, frozen=True):
    """An entry of the dispatch queue that cannot be read: its last brace is missing."""

    entry: DispatchEntry


class Core(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of a job that never change."""

    tenant: str
    session: str
    utterance: int
    turn: int
    source: str
    target: str
    features: list[str] = []
    encoding: str
    sample_rate: int
    first: str
    last: str
    count: int
    bytes: int
    ms: int
    padding_ms: int
    priority: int
    tp: str
    key: str = ""
    delivery_no: int
    finalized: int

    @property
    def requirement(self) -> str:
        return f"{self.source}:{self.target}:{','.join(self.features)}"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an outcome ended, with the payload for its recipients."""

    kind: str
    job: str
    cause: str = ""
    code: str = ""
    body: bytes = b""
    audio: bytes = b""
    error: str = ""
    """Why the last attempt failed, as JSON."""
    finalized: int = 0
    """When its utterance was finalized, in ms; of an outcome that a job ended."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a stream that holds no events; `fields["d"]` is the decoded JSON."""

    id: str
    fields: dict[str, Any]


class World:
    """The state of one cell in the model."""

    has_new_tags = False
    """Whether the present call has given a tag or moved virtual time."""

    def __init__(self, cell: str) -> None:
        self.keys = Keys(cell)
        self.settings = Settings()
        self.stored_settings: dict[str, int] | None = None
        """Those of a newer version too; none while there is no such cell."""
        self.sessions: dict[str, Session] = {}
        self.groups: dict[str, SessionGroups] = {}
        self.jobs: dict[str, Job] = {}
        self.refused: dict[str, list[str]] = {}
        """The refused reports of each job that the log has, as its record names them."""
        self.nodes: dict[str, Node] = {}
        self._folds: list[tuple[Any, dict[str, Any]]] = [
            (Sessions(), self.sessions),
            (Groups(), self.groups),
            (Jobs(), self.jobs),
            (Nodes(), self.nodes),
        ]
        self.session_states: dict[str, SessionState] = {}
        self.processes: dict[str, Process] = {}
        self.unreadable: dict[str, tuple[int, int]] = {}
        """Node -> its unreadable results in a row of time, and when the first came."""
        self.cores: dict[str, Core] = {}
        self.held: dict[str, dict[tuple[str, int], Ending]] = {}
        self.timers: dict[str, int] = {}
        self.stalled_timers: dict[str, int] = {}
        """Failures in a row, by timer."""
        self.deadlines: dict[str, int] = {}
        """When the leases of running jobs end: as dispatched, or later after an extension."""
        self.streams: dict[str, list[Entry]] = {}
        self.audio: dict[str, list[Event]] = {}
        self.contexts: dict[str, tuple[str, dict[str, bytes]]] = {}
        """What the projector has saved for dispatch: session -> (last log id, fields)."""
        self.virtual = self.entries = 0
        self.finish: dict[str, int] = {}
        """Rule 18: V, and F by tenant. The entry count is of the queue."""
        self.backpressure: set[str] = set()
        self.erased: dict[str, int] = {}
        """Session -> when its SessionErased was appended."""
        self.requests: dict[str, tuple[int, str, Any]] = {}
        """What operators did: request -> (time, what was asked for, reply)."""
        self.dispatcher_until = 0
        self.eager_jobs = 0
        """Jobs that the current call has dispatched eagerly."""
        self.finalized = self.opened = self.ended = self.drained = 0
        """Utterances that the current call has finalized, outcomes that it has opened and ended,
        and how many of these had been held.
        """
        self.undispatched: dict[str, int] = {}
        """Outcomes of utterances in the dispatch queue, by tenant."""
        self.retired_epoch = self.obsolete = self.duplicate_finalizes = 0
        """The highest epoch of a node whose record was deleted; counters."""
        self.events: list[Event] = []
        """What the current call has appended to the log."""
        self.log_id = "0-0"
        self.touched: set[str] = set()
        """Sessions whose outcomes the current call has ended."""
        self._ids: dict[str, tuple[int, int]] = {}
        self._asked_ms = self._last_ms = self._offset_ms = 0

    # --- one call ---------------------------------------------------------------------------

    def start_tag(self) -> int:
        """The tag of a tenant that owes nothing: virtual time, or the lowest tag that waits."""
        return min([self.virtual, *(job.tag for _, job in self.queued())])

    def end(self) -> None:
        """The call ends: a finish tag that is not above the start charges nothing."""
        if self.has_new_tags:
            start = self.start_tag()
            self.finish = {tenant: due for tenant, due in self.finish.items() if due > start}
            self.has_new_tags = False

    def begin(self, asked_ms: int) -> None:
        """A call begins at this time of the server clock."""
        self.end()
        self.events, self.touched, self._asked_ms = [], set(), asked_ms
        self.eager_jobs = 0
        self.finalized = self.opened = self.ended = self.drained = 0

    @property
    def is_exhausted(self) -> bool:
        """Whether the remaining timers wait for the next call."""
        return (
            self.ended >= ENDED_MAX or self.opened >= OPENED_MAX or self.finalized >= FINALIZED_MAX
        )

    @property
    def now(self) -> int:
        """The time of this call; time never goes back."""
        behind = self._last_ms - (self._asked_ms + self._offset_ms)
        if behind > 0:
            self._offset_ms += behind
            self.emit(ClockAdjusted(behind_ms=behind, offset_ms=self._offset_ms))
        self._last_ms = self._asked_ms + self._offset_ms
        return self._last_ms

    def next_id(self, stream: str) -> str:
        """`<now>-*` as the server completes it."""
        now = self.now
        last = self._ids.get(stream, (0, -1))
        self._ids[stream] = (now, last[1] + 1 if last[0] == now else 0)
        return "{}-{}".format(*self._ids[stream])

    def emit(
        self,
        data: AnyData,
        *,
        session: str = "",
        job: str = "",
        node: str = "",
        cause: str = "",
        body: bytes = b"",
        traceparent: str | None = None,
    ) -> str:
        """The event is appended, and every view has folded it."""
        state = self.session_states.get(name_of(session)) if session else None
        if traceparent is None and job in self.cores:
            traceparent = self.cores[job].tp
        elif traceparent is None:
            traceparent = state.tp if state else ""
        event = Event(
            id=self.next_id(self.keys.log),
            type=type(data).__name__,
            session=session,
            job=job,
            node=node,
            cause=cause,
            traceparent=traceparent,
            data=data,
            body=body,
        )
        self.events.append(event)
        self.log_id = event.id
        for projection, views in self._folds:
            if event.type in projection.handles:
                for entity in projection.route(event):
                    view = projection.apply(views.get(entity), event)
                    if view is None:
                        views.pop(entity, None)
                    else:
                        views[entity] = view
        return event.id

    def count_undispatched(self, tenant: str, change: int) -> None:
        count = self.undispatched.pop(tenant, 0) + change
        if count > 0:
            self.undispatched[tenant] = count

    # --- streams and timers -----------------------------------------------------------------

    def append(self, stream: str, **fields: Any) -> str:
        entry = Entry(self.next_id(stream), fields)
        self.streams.setdefault(stream, []).append(entry)
        return entry.id

    def trim(self, stream: str, before: str) -> None:
        """The entries before the id are removed."""
        entries = self.streams.get(stream, [])
        self.streams[stream] = [
            entry for entry in entries if parse_id(entry.id) >= parse_id(before)
        ]

    def forget_stream(self, stream: str) -> None:
        """The key is deleted, and with it the numbers of its entries."""
        self.streams.pop(stream, None)
        self._ids.pop(stream, None)

    def set_timer(self, due_ms: int, kind: str, of: str) -> None:
        self.timers[f"{kind}|{of}"] = due_ms

    def set_timer_sooner(self, due_ms: int, kind: str, of: str) -> None:
        """A timer that exists already is only moved to an earlier time."""
        self.set_timer(min(due_ms, self.timers.get(f"{kind}|{of}", due_ms)), kind, of)

    def drop_timer(self, kind: str, of: str) -> None:
        self.timers.pop(f"{kind}|{of}", None)

    # --- lookups -------------------------------------------------------------------------

    def queued(self) -> Iterator[tuple[str, Job]]:
        """Jobs that wait for a slot."""
        return ((key, job) for key, job in self.jobs.items() if job.status == "queued")

    def tenant_queued(self) -> Counter[str]:
        """How many jobs of each tenant wait for a slot or back off."""
        waiting = ("queued", "backoff")
        return Counter(
            self.cores[key].tenant for key, job in self.jobs.items() if job.status in waiting
        )


def invalid(field_name: str) -> Refused:
    """A message that breaks a limit of rule 33 or 34."""
    return Refused("INVALID_MESSAGE", {"field": field_name})
