"""The vocabulary: what can become true, one Struct per event type.

Owns: the names, fields and meaning of every event, and the envelope that carries it.
Never does: I/O, clocks, decisions.
Read next: codec.py (bytes on the stream), projections/ (what readers make of events).

An event is one stream entry with the nine fields of `FIELDS`. The Struct of its type is the
JSON in `d`; `b` is opaque to scripts. Times are integer milliseconds of the cell's clock; an
entry's id is its time. Sessions, rooms and nodes are named in full, `<cell>.<name>`.
A new field takes a default, a new meaning is a new type: what was written stays readable.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

FIELDS = ("t", "v", "s", "j", "n", "c", "tp", "d", "b")
SCHEMA_VERSION = 1
POLICY_VERSION = 1

Outcome: TypeAlias = Literal["result", "no_speech", "failed", "missing"]
Rule: TypeAlias = Literal["turn", "session", "load", "last", "fill"]
SuspensionScope: TypeAlias = Literal["node", "feature", "language_pair"]


class Data(msgspec.Struct, frozen=True, tag=True, tag_field="type", omit_defaults=True):
    """What one event says: the base of every event type."""


# --- sessions -------------------------------------------------------------------------------


class SessionOpened(Data, frozen=True, kw_only=True):
    """A producer opened the session; it accepts chunks from seq 0. By a producer."""

    tenant: str
    source: str
    targets: list[str] = []
    features: list[str] = []
    features_hash: str = "none"
    encoding: str = "pcm16"
    sample_rate: int = 16_000
    priority: int = 1
    room: str = ""
    listen_language: str = ""
    epoch: int = 1
    key: str = ""
    """Id of the key that its audio and texts are encrypted with; empty: they are not."""


class SessionResumed(Data, frozen=True, kw_only=True):
    """A producer took the session over; older epochs can no longer append. By a producer."""

    epoch: int


class AudioChunkAppended(Data, frozen=True, kw_only=True):
    """One chunk of audio is stored; its payload is the body. On `audio:<session>` only."""

    seq: int
    ms: int
    utterance: int
    end_of_utterance: bool = False


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One (utterance, target) that now owes its listeners exactly one outcome."""

    target: str
    delivery_no: int
    to: list[str] = []
    """Sessions that hear it; empty means the speaker alone."""


class UtteranceFinalized(Data, frozen=True, kw_only=True):
    """An utterance is complete and each named target owes one outcome. By ingest or a timer."""

    utterance: int
    turn: int
    reason: Literal["pause", "max_duration", "final", "max_bytes", "close"]
    padding_ms: int = 0
    first: str
    """Id of its first chunk on the session's audio stream."""
    last: str
    first_seq: int
    count: int
    bytes: int
    ms: int
    targets: list[Target] = []


class SessionClosing(Data, frozen=True, kw_only=True):
    """No more chunks are accepted; what is outstanding may still end. By a producer or a timer."""

    reason: Literal["asked", "idle"]


class SessionClosed(Data, frozen=True, kw_only=True):
    """Everything the session owed has ended. By whoever ended the last outcome, or a timer."""

    missing: int = 0
    """Outcomes that ended as missing because the close wait was over."""


class SessionRetired(Data, frozen=True, kw_only=True):
    """The session's records go now; its history stays in the log. By a timer."""

    tenant: str = ""
    features_hash: str = "none"
    utterances: int = 0
    targets: list[str] = []
    """With the session, what names its jobs: each utterance into each of these languages."""


class SessionErased(Data, frozen=True, kw_only=True):
    """The session's key is destroyed: nobody can read what was said. By who holds the keys."""

    key: str


class PlaybackStarted(Data, frozen=True, kw_only=True):
    """Sound of (origin, target, utterance) plays where session `s` hears it. By a producer."""

    origin: str
    target: str
    utterance: int
    until_ms: int
    """When it is taken as ended if nobody says so."""


class PlaybackEnded(Data, frozen=True, kw_only=True):
    """That playback is over. By a producer, its deadline or the session's end."""

    origin: str
    target: str
    utterance: int
    reason: Literal["ended", "deadline", "closed"] = "ended"


class RoomJoined(Data, frozen=True, kw_only=True):
    """The session is a member of the room and hears one language, or none. With SessionOpened."""

    room: str
    listen_language: str = ""


class RoomLeft(Data, frozen=True, kw_only=True):
    """The session is no longer a member of the room. With SessionClosing."""

    room: str


# --- jobs -----------------------------------------------------------------------------------


class JobQueued(Data, frozen=True, kw_only=True):
    """The job waits for a slot. By dispatch, a timer, a node or a session."""

    utterance: int
    target: str
    delivery_no: int
    source: str
    features: list[str] = []
    attempt: int
    """The attempt that the next slot will start."""
    reason: Literal["NO_POOL_FOR_LANG_PAIR", "NO_AVAILABLE_NODE"]
    priority: int
    tag: int
    member: str
    """Its place among equals in the queue: `<16-digit entry count>:<job_key>`."""
    deadline_ms: int


class JobPromoted(Data, frozen=True, kw_only=True):
    """The job has waited for half of its time and waits at a higher priority now. By a timer.

    Its tag, its member and its deadline stay as JobQueued named them.
    """

    utterance: int
    target: str
    delivery_no: int
    attempt: int
    """The attempt that the next slot will start."""
    priority: int
    """The priority at which the job waits from now on."""


class ClassSeen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One capability class as the decision saw it."""

    id: str
    head: str = ""
    """Least loaded node with a free slot; empty when there is none."""
    load: int = 0
    """Load of the head: floor(1000 x live leases / slots)."""
    free: int = 0
    full: int = 0
    draining: int = 0


class Affinity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The node that the turn or session used last, and why it was passed over."""

    node: str
    why: str = ""
    """Empty when taken; else gone, draining, unable, suspended, full or last."""


class Rank(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A waiting job's place in the order: smaller is earlier."""

    priority: int
    tag: int
    member: str = ""


class JobDispatched(Data, frozen=True, kw_only=True):
    """Node `n` holds one slot for this attempt until the deadline. By `assign`, nobody else."""

    utterance: int
    target: str
    delivery_no: int
    turn: int
    source: str
    features: list[str] = []
    attempt: int
    epoch: int
    """Epoch of the node's registration: with node and attempt, the fencing token."""
    audio_ms: int
    deadline_ms: int
    rule: Rule
    policy: int
    affinity: Affinity | None = None
    classes: list[ClassSeen] = []
    last: str = ""
    """Node of the previous attempt, avoided if another could be had."""
    compared: int = 0
    """Fill only: how many requirements were compared."""
    winner: Rank | None = None
    runner_up: Rank | None = None
    context_at: str = ""
    """Last log id folded into the context that the assignment carries."""


class AttemptEnded(Data, frozen=True, kw_only=True):
    """The attempt no longer holds its slot, without a result. By a timer, a node or a session."""

    utterance: int
    target: str
    attempt: int
    epoch: int
    reason: Literal[
        "lease", "node_lost", "superseded", "drained", "suspended", "failed", "cancelled"
    ]
    code: str = ""


class JobFailed(Data, frozen=True, kw_only=True):
    """The job ended without a result and is not tried again. By dispatch, a timer or a node."""

    utterance: int
    target: str
    delivery_no: int
    attempt: int
    code: str


class ResultRecorded(Data, frozen=True, kw_only=True):
    """The job ended with this result; its slot is free. The body is the text. By a node."""

    utterance: int
    target: str
    delivery_no: int
    attempt: int
    epoch: int
    status: Literal["ok", "no_speech"]
    code: str = ""
    audio_bytes: int = 0
    audio_sha256: str = ""


class ResultReplaced(ResultRecorded, frozen=True, kw_only=True):
    """A complete result took the place of an empty one that still waited. By the same token."""


class ResultRefused(Data, frozen=True, kw_only=True):
    """A node said something that no longer counts; nothing changed. By the result script."""

    attempt: int
    epoch: int
    what: Literal["result", "partial", "extend"]
    code: str


class ResultDelivered(Data, frozen=True, kw_only=True):
    """The outcome with this number is in its listeners' streams. The body is the text."""

    utterance: int
    target: str
    delivery_no: int
    outcome: Literal["result", "no_speech", "failed"]
    code: str = ""
    to: list[str] = []
    skipped: list[str] = []
    """Recipients that had closed."""


class ResultMissing(Data, frozen=True, kw_only=True):
    """The number was given up: its listeners were told. By the gap's or the close wait's end."""

    utterance: int
    target: str
    delivery_no: int
    reason: Literal["gap", "close"]
    to: list[str] = []
    skipped: list[str] = []


# --- nodes ----------------------------------------------------------------------------------


class NodeRegistered(Data, frozen=True, kw_only=True):
    """The node serves with all its slots free, under a new epoch. By the node."""

    epoch: int
    sources: list[str]
    targets: list[str]
    features: list[str] = []
    slots: int
    version: str = ""
    cls: str = msgspec.field(name="class")


class NodeDraining(Data, frozen=True, kw_only=True):
    """The node takes no new work and finishes what it holds. By the node."""

    epoch: int


class NodeDrained(Data, frozen=True, kw_only=True):
    """The node holds nothing and is gone by its own wish. By the node or its last result."""

    epoch: int


class NodeLost(Data, frozen=True, kw_only=True):
    """The registration is over; what it held is dispatched again. By a timer or a newcomer."""

    epoch: int
    reason: Literal["silent", "superseded"]
    leases: int = 0


class NodeSuspended(Data, frozen=True, kw_only=True):
    """The node is not chosen for the subject until then (rule 14, missing model). By a node."""

    epoch: int
    scope: SuspensionScope
    subject: str = ""
    """The feature, or the language pair as `<source>><target>`; empty for the whole node."""
    reason: Literal["MODEL_NOT_AVAILABLE"]
    """Code of the report that led to the suspension."""
    until_ms: int
    cls: str = msgspec.field(name="class")
    """Capability class of the node with this suspension."""


class NodeResumed(Data, frozen=True, kw_only=True):
    """That suspension has ended; the node can be chosen again. By a timer."""

    epoch: int
    scope: SuspensionScope
    subject: str = ""
    reason: Literal["expired"]
    cls: str = msgspec.field(name="class")
    """Capability class of the node without this suspension."""


# --- the cell -------------------------------------------------------------------------------


class BackpressureStarted(Data, frozen=True, kw_only=True):
    """Opening, ingest and registration are refused until lifted. By the timer."""

    reason: Literal["memory", "group", "archive", "dead_letters"]
    seen: int
    limit: int


class BackpressureEnded(Data, frozen=True, kw_only=True):
    """The cause is gone; producers are served again. By the timer."""

    reason: Literal["memory", "group", "archive", "dead_letters"]
    seen: int
    limit: int


class ClockAdjusted(Data, frozen=True, kw_only=True):
    """The server's clock was behind the cell's; the offset keeps time going on. By any script."""

    behind_ms: int
    offset_ms: int


class StreamTrimmed(Data, frozen=True, kw_only=True):
    """Entries before this id are gone from the stream; everyone had passed them."""

    stream: str
    before: str
    count: int
    total: int = 0
    """Entries that are gone from it by now, this time and before."""


class ArchiveAbandoned(Data, frozen=True, kw_only=True):
    """The cell's archive is lost: what was trimmed before is gone for good. By its owner."""

    of: str
    """Fingerprint of its public key."""
    to: str
    """It held the log up to here."""
    gone: int = 0
    """Entries of the log that were in it alone."""


AnyData: TypeAlias = (
    SessionOpened
    | SessionResumed
    | AudioChunkAppended
    | UtteranceFinalized
    | SessionClosing
    | SessionClosed
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
    | NodeSuspended
    | NodeResumed
    | BackpressureStarted
    | BackpressureEnded
    | ClockAdjusted
    | StreamTrimmed
    | ArchiveAbandoned
)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a stream: the envelope, and what it says."""

    id: str
    type: str
    v: int = SCHEMA_VERSION
    session: str = ""
    job: str = ""
    node: str = ""
    cause: str = ""
    """`<stream>/<id>` of what led to it, such as `log/1700000000000-0`."""
    traceparent: str = ""
    data: AnyData
    body: bytes = b""

    @property
    def ms(self) -> int:
        """When it became true: milliseconds of the cell's clock."""
        return int(self.id.partition("-")[0])


class Text(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of a result: what was said and its translation (msgpack)."""

    source_text: str = ""
    text: str | None = None
    """The translation; none when it is missing."""
    language: str = ""
    """Recognised language, where the source was `auto`."""
    sealed: bytes = b""
    """All of the above, encrypted; they are empty then."""
    characters: int = 0
    """How many characters were sealed: what rule 28 counts."""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """One part of a job's context (msgpack of a list of them): what was said before."""

    source_text: str = ""
    text: str | None = None
    utterance: int = -1
    """Whose text it is; the rest is left out where nothing is sealed."""
    sealed: bytes = b""
    characters: int = 0
