"""The frames of the node socket, `WS /v1/nodes`.

Owns: one struct for each frame, the form of binary frames.
Never does: I/O. Read next: node_socket.py, docs/protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, TypeAlias

import msgspec

from eventsched.client.results import AUDIO_BYTES_MAX
from eventsched.gateway.frames import Error, Frame, Reply
from eventsched.node.job import Job

TEXT_BYTES_MAX = 512_000
BINARY_BYTES_MAX = AUDIO_BYTES_MAX
AUDIO_HEADER = struct.Struct(">II")
AUDIO_SLICE_BYTES = 65_536
LAST = 1 << 31

_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
_Speech: TypeAlias = Annotated[str, msgspec.Meta(max_length=65_536)]
_Attempt: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class Held(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attempt that the node runs, or whose result it has sent without an answer."""

    job: _Text
    attempt: _Attempt


_Attempts: TypeAlias = Annotated[list[Held], msgspec.Meta(max_length=256)]


class Register(Frame, frozen=True, kw_only=True, tag="register", tag_field="type"):
    """Register the node, or go on with its registration. The first frame."""

    name: _Text
    """Name of the node. Another registration of the same name ends the first."""
    sources: list[_Text]
    """Source languages that it recognises, 1 to 64; `auto` if it detects the language."""
    targets: list[_Text]
    """Target languages that it produces, 1 to 64."""
    features: list[_Text] = msgspec.field(default_factory=list)
    """Features beside languages, at most 16."""
    slots: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Attempts that it runs at the same time."""
    version: _Text = ""
    """Free text for people, at most 64 bytes."""
    registration_token: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{16,64}\Z")]
    """Random text that the node makes at its start: the same one again, at any gateway, goes on
    with the registration while the node is not lost."""
    held: _Attempts = msgspec.field(default_factory=list)
    """Attempts that go on. Their `job` frame is not sent again; lost ones are cancelled."""
    lazy_audio: bool = False
    """Send audio when the node asks for it by `audio`, not after each `job`."""


class Heartbeat(Frame, frozen=True, kw_only=True, tag="heartbeat", tag_field="type"):
    """The node is alive. Needed every `heartbeat_ms`."""

    held: _Attempts = msgspec.field(default_factory=list)
    """Attempts that have not ended, also those whose audio is not complete or whose result is not
    recorded."""


class _OfAttempt(Frame, frozen=True, kw_only=True):
    """A frame about one attempt."""

    job: _Text
    """Job key, from `job`."""
    attempt: _Attempt


class AudioRequest(_OfAttempt, frozen=True, kw_only=True, tag="audio", tag_field="type"):
    """Send the audio of the attempt."""


class PartialResult(_OfAttempt, frozen=True, kw_only=True, tag="partial", tag_field="type"):
    """A preliminary transcript for the listeners; it is not stored."""

    text: _Speech | None = None
    source_text: _Speech = ""


class Extend(_OfAttempt, frozen=True, kw_only=True, tag="extend", tag_field="type"):
    """Extend the lease to so many seconds from now, at most 300 s after dispatch."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=300)]


class ResultReport(_OfAttempt, frozen=True, kw_only=True, tag="result", tag_field="type"):
    """The attempt has ended with a result. Blank texts without audio mean no speech."""

    text: _Speech | None = None
    """The translation."""
    source_text: _Speech = ""
    """The transcript."""
    language: _Text = ""
    """The recognised language, if the source is `auto`."""
    audio: bool = False
    """The next frame is binary, and is synthesised speech of at most 512,000 bytes."""


class NoSpeechReport(_OfAttempt, frozen=True, kw_only=True, tag="no_speech", tag_field="type"):
    """The attempt has ended: there is no speech."""

    code: _Text = "ASR_EMPTY"


class FailReport(_OfAttempt, frozen=True, kw_only=True, tag="fail", tag_field="type"):
    """The attempt has failed."""

    code: _Text
    """Why; 1 to 64 characters of A-Z, 0-9 and _."""
    retryable: bool = False
    """The job is tried again, at most three times."""
    feature: _Text = ""
    """With MODEL_NOT_AVAILABLE: the feature whose model is missing; empty for the language pair."""
    retry_in_ms: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    """The backoff before the next attempt; such a failure is retryable."""


class Drain(Frame, frozen=True, kw_only=True, tag="drain", tag_field="type"):
    """Take no new attempts; `drained` comes when the running ones have ended."""

    within_ms: Annotated[int, msgspec.Meta(ge=0, le=300_000)] = 60_000
    """After this time, attempts that still run go to other nodes."""


NodeFrame: TypeAlias = (
    Register
    | Heartbeat
    | AudioRequest
    | PartialResult
    | Extend
    | ResultReport
    | NoSpeechReport
    | FailReport
    | Drain
)


class Registered(Reply, frozen=True, kw_only=True, tag="registered", tag_field="type"):
    """The node is registered, and gets jobs from now on."""

    node: str
    """Full id of the node."""
    epoch: int
    """Number of the registration. Another one than before: all attempts before are lost."""
    heartbeat_ms: int
    """How often to send `heartbeat`."""


class ContextPart(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier text of the same speaker and target."""

    source_text: str
    text: str | None


class JobFrame(Reply, frozen=True, kw_only=True, tag="job", tag_field="type"):
    """An attempt begins. Its audio follows, unless the node asks for it."""

    job: str
    """Job key: with `attempt` it names the attempt in every frame about it."""
    attempt: int
    """Number of the attempt, from 1."""
    ref: int
    """Number of the attempt on this connection; binary frames with its audio carry it."""
    session: str
    utterance: int
    turn: int
    source: str
    target: str
    features: list[str]
    encoding: str
    sample_rate: int
    ms: int
    """Length of the audio, without padding."""
    padding_ms: int
    """Silence at the end of the audio, for PCM16."""
    priority: int
    traceparent: str
    deadline_ms: int
    """End of the lease, in milliseconds of the cell's clock."""
    context: list[ContextPart]
    """Earlier texts of the group, oldest first."""


class Cancel(Reply, frozen=True, kw_only=True, tag="cancel", tag_field="type"):
    """The attempt no longer belongs to the node: stop it and report nothing."""

    job: str
    attempt: int
    reason: str


class Recorded(Reply, frozen=True, kw_only=True, tag="recorded", tag_field="type"):
    """The result of the attempt is stored. Until this arrives, hold the result."""

    job: str
    attempt: int


class Extended(Reply, frozen=True, kw_only=True, tag="extended", tag_field="type"):
    """The lease is extended."""

    job: str
    attempt: int
    deadline_ms: int


class HeartbeatReply(Reply, frozen=True, kw_only=True, tag="heartbeat", tag_field="type"):
    """The node counts as alive."""

    lost: list[str]
    """Job keys of the held attempts that the node has lost."""


class Drained(Reply, frozen=True, kw_only=True, tag="drained", tag_field="type"):
    """The node is drained, and no longer registered."""


NodeReply: TypeAlias = (
    Registered | JobFrame | Cancel | Recorded | Extended | HeartbeatReply | Drained | Error
)


def job_frame(job: Job, ref: int) -> JobFrame:
    """Return the frame that begins an attempt."""
    return JobFrame(
        job=job.key,
        attempt=job.attempt,
        ref=ref,
        session=job.session,
        utterance=job.utterance,
        turn=job.turn,
        source=job.source,
        target=job.target,
        features=list(job.features),
        encoding=job.encoding,
        sample_rate=job.sample_rate,
        ms=job.ms,
        padding_ms=job.padding_ms,
        priority=job.priority,
        traceparent=job.traceparent,
        deadline_ms=job.deadline_ms,
        context=[ContextPart(source_text=source, text=text) for source, text in job.context],
    )


def audio_frames(ref: int, audio: bytes) -> Iterator[bytes]:
    """Yield the binary frames of an attempt's audio: reference, number with the flag of the last
    one, bytes."""
    starts = range(0, max(len(audio), 1), AUDIO_SLICE_BYTES)
    for number, start in enumerate(starts):
        flag = LAST if start == starts[-1] else 0
        yield AUDIO_HEADER.pack(ref, number | flag) + audio[start : start + AUDIO_SLICE_BYTES]
