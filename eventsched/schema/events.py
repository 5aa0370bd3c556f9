"""The event types: one Struct per type, and the envelope that all of them share.

Owns: the names, fields and meaning of every event.
Never does: I/O, read a clock, decide.
Read next: codec.py (bytes of a stream entry <-> Event), projections/ (the read models).

An event is one stream entry with the nine fields of `FIELDS`. Field `d` is the JSON of the type's
Struct; field `b`, the body, is opaque to scripts. All times are integer milliseconds of the cell's
clock, and the id of an entry starts with its time. Sessions and nodes are named in full,
`<cell>.<name>`, and rooms `<cell>.<tenant>/<name>`. Stored events stay readable: a new field takes
a default, and a new meaning gets a new type.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from eventsched.schema.ids import ms_of

FIELDS = ("t", "v", "s", "j", "n", "c", "tp", "d", "b")
SCHEMA_VERSION = 1
POLICY_VERSION = 1

Outcome: TypeAlias = Literal["result", "no_speech", "failed", "missing"]
Rule: TypeAlias = Literal["turn", "session", "load", "last", "fill"]
CellReason: TypeAlias = Literal["memory", "group", "archive", "dead_letters"]
"""Why a cell refuses producers and nodes."""
TenantReason: TypeAlias = Literal["tenant_queue", "tenant_outbox", "tenant_lag"]
"""The backlog for which a tenant is refused: waiting jobs, unread results, entries not folded."""
BackpressureReason: TypeAlias = CellReason | TenantReason
SuspensionScope: TypeAlias = Literal["node", "feature", "language_pair"]
Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**53) + 1, le=2**53 - 1)]
"""A whole number that a function counts exactly. An event with a greater one is not decoded: no
function writes it, and records, columns of the archive and other languages could not hold it."""


class Data(msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True):
    """Base class of the event types: the data of one event."""


# --- sessions -------------------------------------------------------------------------------


class SessionOpened(Data, frozen=True, kw_only=True):
    """A producer opened the session. It accepts audio chunks, numbered from 0."""

    tenant: str
    source: str
    targets: list[str] = []
    features: list[str] = []
    features_hash: str = "none"
    encoding: str = "pcm16"
    sample_rate: Int = 16_000
    priority: Int = 1
    room: str = ""
    listen_language: str = ""
    epoch: Int = 1
    key: str = ""
    """Id of the key that encrypts its audio and texts; empty if they are not encrypted."""


class SessionResumed(Data, frozen=True, kw_only=True):
    """A producer took over the session under a new epoch. Older epochs can no longer append."""

    epoch: Int


class AudioChunkAppended(Data, frozen=True, kw_only=True):
    """A producer appended one chunk of audio, the body. Stored on `audio:<session>` only."""

    seq: Int
    ms: Int
    utterance: Int
    end_of_utterance: bool = False


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A target language of an utterance: its listeners get exactly one outcome."""

    target: str
    delivery_no: Int
    to: list[str] = []
    """Recipient sessions; empty means the speaker alone."""


class UtteranceFinalized(Data, frozen=True, kw_only=True):
    """The utterance is complete, and each of its targets has one open outcome.

    Caused by an append or a finalize of the producer, by a timer, or by the close.
    """

    utterance: Int
    turn: Int
    reason: Literal["pause", "max_duration", "final", "max_bytes", "close"]
    padding_ms: Int = 0
    first: str
    """Id of its first chunk on the session's audio stream."""
    last: str
    first_seq: Int
    count: Int
    bytes: Int
    ms: Int
    targets: list[Target] = []


class SessionClosing(Data, frozen=True, kw_only=True):
    """The session accepts no more chunks; open outcomes may still end. By a producer or a timer."""

    reason: Literal["asked", "idle"]


class SessionClosed(Data, frozen=True, kw_only=True):
    """All outcomes of the session have ended. By the call that ended the last one, or a timer."""

    missing: Int = 0
    """Outcomes that ended as missing because `close_wait_ms` had passed."""


class JobsRetired(Data, frozen=True, kw_only=True):
    """The records of ended jobs are deleted from now on; their events stay in the log.

    Caused by the finalize of a later utterance, while the session is open. A repeated event has no
    effect.
    """

    tenant: str
    features_hash: str
    first: Int
    """The first of these utterances; all their outcomes are delivered."""
    last: Int
    targets: list[str] = []
    """Languages of the session's jobs; none if its utterances had no listener so far."""


class SessionRetired(Data, frozen=True, kw_only=True):
    """The session's records are deleted from now on; its events stay in the log. By a timer."""

    tenant: str = ""
    features_hash: str = "none"
    first: Int = 0
    """The first utterance whose jobs still have records: JobsRetired names those before it."""
    utterances: Int = 0
    targets: list[str] = []
    """Languages of its jobs: there was one job per utterance and language at most."""


class SessionErased(Data, frozen=True, kw_only=True):
    """The session's key is destroyed; its texts and audio are unreadable. By the key's owner."""

    key: str


class PlaybackStarted(Data, frozen=True, kw_only=True):
    """Sound of (origin, target, utterance) plays at the session of the event. By a producer."""

    origin: str
    target: str
    utterance: Int
    until_ms: Int
    """When the playback counts as ended without an end mark."""


class PlaybackEnded(Data, frozen=True, kw_only=True):
    """The playback ended. By a producer, the deadline of the playback, or the session's close."""

    origin: str
    target: str
    utterance: Int
    reason: Literal["ended", "deadline", "closed"] = "ended"


class RoomJoined(Data, frozen=True, kw_only=True):
    """The session is a member of the room. It listens to one language or to none.

    Appended with SessionOpened.
    """

    room: str
    listen_language: str = ""


class RoomLeft(Data, frozen=True, kw_only=True):
    """The session is no longer a member of the room. Appended with SessionClosing."""

    room: str


# --- jobs -----------------------------------------------------------------------------------


class JobQueued(Data, frozen=True, kw_only=True):
    """The job waits for a slot, or backs off. By dispatch, a timer, a node or a session."""

    utterance: Int
    target: str
    delivery_no: Int
    source: str
    features: list[str] = []
    attempt: Int
    """The attempt that the next slot will start."""
    reason: Literal["NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE", "retry_backoff"]
    priority: Int
    tag: Int
    member: str
    """Its place among equals in the queue: `<16-digit entry count>:<job_key>`."""
    deadline_ms: Int
    """When the job fails without a slot; of a backoff, if it waits from `not_before_ms` on."""
    not_before_ms: Int = 0
    """When the backoff ends; 0 for a job that waits for a slot."""
    last: str = ""
    """Node of the previous attempt, if the job avoids it; another able node takes the job."""
    avoid_until_ms: Int = 0
    """Until when the job avoids `last`, while another node is able."""


class JobPromoted(Data, frozen=True, kw_only=True):
    """The job has waited for half of its time and waits at a higher priority now. By a timer.

    Its tag, its member and its deadline stay as JobQueued named them.
    """

    utterance: Int
    target: str
    delivery_no: Int
    attempt: Int
    """The attempt that the next slot will start."""
    priority: Int
    """The priority at which the job waits from now on."""


class ClassSeen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A capability class at the time of the choice."""

    id: str
    head: str = ""
    """Its least loaded node with a free slot; empty without one."""
    load: Int = 0
    """Load of the head in thousandths: floor(1000 x live leases / slots)."""
    free: Int = 0
    full: Int = 0
    draining: Int = 0


class OtherClasses(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The capability classes that could serve the job and are not named, and their nodes."""

    classes: Int
    free: Int = 0
    full: Int = 0
    draining: Int = 0


class Affinity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last node of the turn or session, and the reason if it was not chosen."""

    node: str
    why: str = ""
    """Empty if it was chosen; else gone, draining, unable, suspended, full or last."""


class Rank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The position of a waiting job in the queue's order; smaller is earlier."""

    priority: Int
    tag: Int
    member: str = ""


class JobDispatched(Data, frozen=True, kw_only=True):
    """The attempt has a lease on one slot of the event's node until the deadline.

    Caused by the dispatcher, or by a call that dispatches a job itself. The event carries the
    evidence for the choice of the node (rule 17, evidence).
    """

    utterance: Int
    target: str
    delivery_no: Int
    turn: Int
    source: str
    features: list[str] = []
    attempt: Int
    epoch: Int
    """Epoch of the node's registration: with node and attempt, the fencing token."""
    audio_ms: Int
    deadline_ms: Int
    rule: Rule
    policy: Int
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    """The class of the chosen node, then at most seven further classes by (load, head)."""
    other_classes: OtherClasses | None = None
    """The classes that are not named; none if all are named, and of a fill."""
    last: str = ""
    """Node of the previous attempt; another candidate is preferred."""
    compared: Int = 0
    """Number of waiting requirements that were compared; of a fill only. So are the next four."""
    winner: Rank | None = None
    runner_up: Rank | None = None
    age_ms: Int = 0
    """Time since the utterance was finalized. Of the first attempt without a fill, the cause is
    UtteranceFinalized."""
    waited_ms: Int = 0
    """Time in the queue, by the deadline of the wait."""
    context_at: str = ""
    """Last log id that is part of the context in the assignment."""


def error_text(error_type: str, message: str, place: str) -> str:
    """Return why a handler failed, as one text; empty if that is not known."""
    text = f"{error_type}: {message}" if message else error_type
    return f"{text} at {place}" if place else text


class AttemptEnded(Data, frozen=True, kw_only=True):
    """The attempt ended without a result; its slot is free. By a timer, a node or a session.

    Caused by NodeLost if its node was lost.
    """

    utterance: Int
    target: str
    attempt: Int
    epoch: Int
    reason: Literal[
        "lease", "node_lost", "superseded", "drained", "suspended", "failed", "cancelled"
    ]
    code: str = ""
    error_type: str = ""
    """Class of the exception of the handler, of at most 64 characters; empty without one, and in
    encrypted sessions. So are the next two."""
    error_message: str = ""
    """First line of its text, at most 200 characters; see the setting `error_messages`."""
    error_place: str = ""
    """File and line where it was raised, at most 100 characters."""

    @property
    def error(self) -> str:
        """Why the handler failed, as one text; empty if that is not known."""
        return error_text(self.error_type, self.error_message, self.error_place)


class JobFailed(Data, frozen=True, kw_only=True):
    """The job ended without a result and is not retried. By the dispatcher, a timer or a node."""

    utterance: Int
    target: str
    delivery_no: Int
    attempt: Int
    code: str


class Delivered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """To whom a result is delivered by the event that records it."""

    to: list[str]
    """All recipients."""
    skipped: list[str] = []
    """Recipients that were closed already."""


class _Result(Data, frozen=True, kw_only=True):
    """A result that a node reported for the job's attempt."""

    utterance: Int
    target: str
    delivery_no: Int
    attempt: Int
    epoch: Int
    status: Literal["ok", "no_speech"]
    code: str = ""
    audio_bytes: Int = 0
    audio_sha256: str = ""
    age_ms: Int = 0
    """Time since the utterance was finalized."""


class ResultRecorded(_Result, frozen=True, kw_only=True):
    """The job ended with a result from a node; its slot is free. The body is the text.

    If its delivery number is next, the event also delivers it. Otherwise the result is held until
    the earlier numbers have ended, and ResultDelivered or ResultMissing follows.
    """

    delivered: Delivered | None = None
    """None if the result is held: an earlier number of the target is open."""


class ResultReplaced(_Result, frozen=True, kw_only=True):
    """A complete result replaced an empty one that is held. By the same attempt of the node."""


class ResultRefused(Data, frozen=True, kw_only=True):
    """A message of a node was refused because its fencing token is stale; nothing changed."""

    attempt: Int
    epoch: Int
    what: Literal["result", "partial", "extend"]
    code: str


class ResultDelivered(Data, frozen=True, kw_only=True):
    """An outcome is in the outboxes of its recipients. The body is the text.

    Of a result that was held, and of a job that failed; ResultRecorded delivers any other result.
    Caused by the end of an earlier number of the target, or by the call that ended the job.
    """

    utterance: Int
    target: str
    delivery_no: Int
    outcome: Literal["result", "no_speech", "failed"]
    code: str = ""
    age_ms: Int = 0
    """Time since the utterance was finalized."""
    to: list[str] = []
    skipped: list[str] = []
    """Recipients that were closed already."""


class ResultMissing(Data, frozen=True, kw_only=True):
    """The outcome ended as missing, and its recipients were notified. By a timer.

    The timer is that of the delivery gap or of the session's close.
    """

    utterance: Int
    """-1 with the reason `no_outcome`."""
    target: str
    delivery_no: Int
    reason: Literal["gap", "close", "no_outcome"]
    """`no_outcome`: no utterance has the number, because a call failed after allocating it."""
    to: list[str] = []
    skipped: list[str] = []


# --- nodes ----------------------------------------------------------------------------------


class NodeRegistered(Data, frozen=True, kw_only=True):
    """The node is registered under a new epoch, with all its slots free. By the node."""

    epoch: Int
    sources: list[str]
    targets: list[str]
    features: list[str] = []
    slots: Int
    version: str = ""
    cls: str = msgspec.field(name="class")


class NodeDraining(Data, frozen=True, kw_only=True):
    """The node gets no new attempts and finishes those that it has. By the node or an operator.

    A second event of a registration that drains already names the operator who also asked.
    """

    epoch: Int
    by: str = ""
    """The operator; empty if the node asked for the drain. So is the reason."""
    why: str = ""


class NodeDrained(Data, frozen=True, kw_only=True):
    """The registration ended in order: the node has no leases left. By the node."""

    epoch: Int


class NodeLost(Data, frozen=True, kw_only=True):
    """The registration ended without a drain; its jobs are dispatched again.

    Caused by a timer (no heartbeat), or by a newer registration of the same node.
    """

    epoch: Int
    reason: Literal["silent", "superseded"]
    leases: Int = 0


class NodeRetired(Data, frozen=True, kw_only=True):
    """The record of a node that is gone is deleted; its events stay in the log. By a timer."""

    epoch: Int
    """Epoch of the last registration. Later registrations of the node get higher epochs."""


class NodeSuspended(Data, frozen=True, kw_only=True):
    """The node is not chosen for the subject until then (rule 14, suspended nodes). By a node."""

    epoch: Int
    scope: SuspensionScope
    subject: str = ""
    """The feature, or the language pair as `<source>><target>`; empty for the whole node."""
    reason: Literal["MODEL_NOT_AVAILABLE", "RESULT_UNREADABLE", "ATTEMPTS_FAILED"]
    """Code of the report that led to the suspension; ATTEMPTS_FAILED for five fast failures."""
    until_ms: Int
    cls: str = msgspec.field(name="class")
    """Capability class of the node with this suspension."""


class NodeResumed(Data, frozen=True, kw_only=True):
    """That suspension has ended; the node can be chosen again. By a timer."""

    epoch: Int
    scope: SuspensionScope
    subject: str = ""
    reason: Literal["expired"]
    cls: str = msgspec.field(name="class")
    """Capability class of the node without this suspension."""


# --- the cell -------------------------------------------------------------------------------


class BackpressureStarted(Data, frozen=True, kw_only=True):
    """The cell refuses new sessions, audio and registrations, or those of a tenant.

    By the timer role, which measures once a second.
    """

    reason: BackpressureReason
    tenant: str = ""
    """The tenant that is refused; empty if the cell refuses all of them, and nodes."""
    seen: Int
    limit: Int


class BackpressureEnded(Data, frozen=True, kw_only=True):
    """The cell accepts new sessions, audio and registrations again, or those of a tenant.

    By the timer role, which measures once a second.
    """

    reason: BackpressureReason
    tenant: str = ""
    """The tenant that was refused; empty if the cell refused all of them, and nodes."""
    seen: Int
    limit: Int


class ClockAdjusted(Data, frozen=True, kw_only=True):
    """The server's clock was behind the cell's clock, and a script added an offset to it."""

    behind_ms: Int
    offset_ms: Int


class StreamTrimmed(Data, frozen=True, kw_only=True):
    """Entries before an id were deleted from the stream; all its readers had read them.

    Caused by a role that trims streams.
    """

    stream: str
    before: str
    count: Int
    total: Int = 0
    """Entries that were deleted from the stream so far, by this trim and earlier ones."""


class ArchiveAbandoned(Data, frozen=True, kw_only=True):
    """The cell's archive is lost, with all entries that only the archive had. By an operator."""

    of: str
    """Fingerprint of the archive's public key."""
    to: str
    """Id of the last log entry in the archive."""
    gone: Int = 0
    """Number of log entries that only the archive had."""
    why: str
    """The operator's reason."""
    by: str
    """The operator."""


class ArchiveSetAside(Data, frozen=True, kw_only=True):
    """The last segments of the archive, which the log had lost, were set aside. By an operator.

    The files of these segments are kept in another folder. The archive continues without them.
    """

    of: str
    """Fingerprint of the archive's public key."""
    first_segment: Int = 0
    """Number of the first of these segments."""
    segments: Int
    entries: Int
    first: str
    """Id of their first entry."""
    last: str
    head: str
    """Root of the tree over all segments of the archive up to the last of these."""
    roots: list[str]
    """Merkle roots of these segments, of the first 64 at most."""
    why: str
    by: str
    """Name of the operator, as the command reported it."""


class ConsumerGroupDropped(Data, frozen=True, kw_only=True):
    """A consumer group of another program was deleted from the log. By an operator.

    Trimming no longer waits for the group, and its consumers get no further entries.
    """

    group: str
    position: str
    """Id of the last entry that the group had read."""
    pending: Int = 0
    """Number of entries that it had read and not acknowledged."""
    why: str
    """The operator's reason."""
    by: str
    """Name of the operator, as the command reported it."""


class CellRepaired(Data, frozen=True, kw_only=True):
    """A repair changed stored state so that it follows from the log. By an operator."""

    where: str
    """The part that was changed, as `verify` names it."""
    what: str
    """The change."""
    gives_up: str = ""
    """What the change lost; empty if nothing."""
    accepts: str = ""
    """Id of the log entry whose violations are accepted, because the log does not change."""
    why: str
    """The operator's reason."""
    by: str = ""
    """The operator."""


class DeadLettersRetried(Data, frozen=True, kw_only=True):
    """Dead letters are processed again and no longer in the list. By an operator."""

    first: str
    """Id of the first of these dead letters."""
    last: str
    count: Int
    filter: str = ""
    """How the operator chose them; empty if by their ids."""
    why: str
    """The operator's reason."""
    by: str
    """The operator."""


class DeadLettersDiscarded(Data, frozen=True, kw_only=True):
    """Dead letters are no longer in the list, and are not processed. By an operator."""

    first: str
    """Id of the first of these dead letters."""
    last: str
    count: Int
    filter: str = ""
    """How the operator chose them; empty if by their ids."""
    why: str
    """The operator's reason."""
    by: str
    """The operator."""


class Revision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A revision of a read model, `<version>.<number>`."""

    projection: str
    revision: str


class RebuildStarted(Data, frozen=True, kw_only=True):
    """A process folds the log into new revisions. By an operator, or by a projector.

    A projector rebuilds a read model whose live revision has an older version than its code.
    """

    revisions: list[Revision]
    why: str
    by: str
    """The operator; `projector` if no operator asked for the rebuild."""


class RebuildPromoted(Data, frozen=True, kw_only=True):
    """Readers use the new revisions from now on. By the process that rebuilt them."""

    revisions: list[Revision]
    entries: Int
    """Log entries that were folded."""
    left_out: Int = 0
    """Of these, those that could not be folded."""
    why: str
    by: str


AnyData: TypeAlias = (
    SessionOpened
    | SessionResumed
    | AudioChunkAppended
    | UtteranceFinalized
    | SessionClosing
    | SessionClosed
    | JobsRetired
    | SessionRetired
    | SessionErased
    | PlaybackStarted
    | PlaybackEnded
    | RoomJoined
    | RoomLeft
    | JobQueued
    | JobPromoted
    | JobDispatched
    | AttemptEnded
    | JobFailed
    | ResultRecorded
    | ResultReplaced
    | ResultRefused
    | ResultDelivered
    | ResultMissing
    | NodeRegistered
    | NodeDraining
    | NodeDrained
    | NodeLost
    | NodeRetired
    | NodeSuspended
    | NodeResumed
    | BackpressureStarted
    | BackpressureEnded
    | ClockAdjusted
    | StreamTrimmed
    | ArchiveAbandoned
    | ArchiveSetAside
    | ConsumerGroupDropped
    | CellRepaired
    | DeadLettersRetried
    | DeadLettersDiscarded
    | RebuildStarted
    | RebuildPromoted
)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stream entry: the envelope and the data of its type."""

    id: str
    type: str
    v: Int = SCHEMA_VERSION
    session: str = ""
    job: str = ""
    node: str = ""
    cause: str = ""
    """`<stream>/<id>` of the entry that caused it, such as `log/1700000000000-0`."""
    traceparent: str = ""
    data: AnyData
    body: bytes = b""
    cell: str = ""
    """Name of the cell whose log has the entry, if a client has read it by `events`. It is not
    stored."""

    @property
    def ms(self) -> int:
        """Time of the event: milliseconds of the cell's clock."""
        return ms_of(self.id)


class Text(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a result (msgpack): the transcript and its translation."""

    source_text: str = ""
    text: str | None = None
    """The translation; None if it is missing."""
    language: str = ""
    """Recognised language, if the source language is `auto`."""
    encrypted: bytes = b""
    """The fields above, encrypted; they are empty in that case."""
    characters: Int = 0
    """Number of encrypted characters, for rule 28, group bounds."""


class ContextText(msgspec.Struct, frozen=True, array_like=True):
    """The text of one earlier utterance in a job's context (msgpack of a list of them)."""

    source_text: str = ""
    text: str | None = None
    utterance: Int = -1
    """Number of the utterance; this field and those below are absent without encryption."""
    encrypted: bytes = b""
    characters: Int = 0
