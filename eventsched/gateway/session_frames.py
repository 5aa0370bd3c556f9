"""The frames of the producer socket, `WS /v1/sessions`.

Owns: one struct for each frame, the form of a binary frame, the credit.
Never does: I/O. Read next: producer_socket.py, docs/protocol.md.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeAlias

import msgspec

from eventsched.audio.chunks import Format
from eventsched.client.results import (
    Failed,
    Missing,
    NoSpeech,
    Outcome,
    Partial,
    Result,
    Truncated,
)
from eventsched.errors import InvalidMessage
from eventsched.gateway.frames import Error, Frame, Reply
from eventsched.schema.validation import TRACEPARENT

CREDIT_CHUNKS = 256
CREDIT_BYTES = 1024 * 1024
ACK_MS = 100
TEXT_BYTES_MAX = 65_536
CHUNK_HEADER = struct.Struct(">I")
BINARY_BYTES_MAX = CHUNK_HEADER.size + 65_536

_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=256)]
_Traceparent: TypeAlias = Annotated[str, msgspec.Meta(pattern=f"^({TRACEPARENT.pattern})?$")]


class Open(Frame, frozen=True, kw_only=True, tag="open", tag_field="type"):
    """Open a session. The first frame, unless it is `resume`."""

    source: _Text
    """Language that is spoken, such as `en`, or `auto`."""
    targets: list[_Text] = msgspec.field(default_factory=list)
    """Languages that the speaker wants, at most 8."""
    features: list[_Text] = msgspec.field(default_factory=list)
    """Features that the nodes of its jobs must declare, at most 16."""
    room: _Text = ""
    """Room of the tenant; its members hear each other."""
    listen_language: _Text = ""
    """Language in which this session hears the other members of the room."""
    encoding: Format = "pcm16"
    """`pcm16` (mono, 16 bits, little-endian) or `opus`."""
    sample_rate: Annotated[int, msgspec.Meta(ge=8_000, le=48_000)] = 16_000
    """Sample rate in Hz."""
    priority: Annotated[int, msgspec.Meta(ge=0, le=2)] = 1
    """0 interactive, 1 normal, 2 background."""
    traceparent: _Traceparent = ""
    """W3C trace context of the session's utterances."""
    partials: bool = True
    """Receive partial results."""
    endpointing: bool = False
    """The gateway finds the ends of utterances and leaves silence out: `pcm16` with 8,000 or
    16,000 Hz, in chunks of at most 100 ms."""
    tenant: _Text = ""
    """Needed if the token is for all tenants; otherwise that of the token."""


class Resume(Frame, frozen=True, kw_only=True, tag="resume", tag_field="type"):
    """Go on with a session. The first frame, unless it is `open`."""

    session: _Text
    """Id from `opened`."""
    resume_token: _Text
    """Token from `opened`."""
    results_after: _Text = ""
    """Id of the last outcome that arrived; empty: after the last one that was confirmed."""
    partials: bool = True
    """Receive partial results."""
    endpointing: bool = False
    """As in `open`. The detector begins anew."""


class Finalize(Frame, frozen=True, kw_only=True, tag="finalize", tag_field="type"):
    """The utterance ends with the audio that was sent before."""

    traceparent: _Traceparent = ""
    """W3C trace context of this utterance; empty: that of the session."""


class PlaybackStarted(Frame, frozen=True, kw_only=True, tag="playback_started", tag_field="type"):
    """The audio of a result starts to play: a pause does not complete the utterance meanwhile."""

    session: _Text
    """Session that spoke, as in the result."""
    target: _Text
    utterance: _Number


class PlaybackEnded(Frame, frozen=True, kw_only=True, tag="playback_ended", tag_field="type"):
    """The playback of a result has ended."""

    session: _Text
    """Session that spoke, as in the result."""
    target: _Text
    utterance: _Number


class Confirm(Frame, frozen=True, kw_only=True, tag="confirm", tag_field="type"):
    """The outcomes up to this one are handled; the server may delete them."""

    id: _Text
    """Id of the outcome."""


class CloseSession(Frame, frozen=True, kw_only=True, tag="close", tag_field="type"):
    """Close the session: what was sent is the last utterance; its outcomes still arrive."""


ClientFrame: TypeAlias = (
    Open | Resume | Finalize | PlaybackStarted | PlaybackEnded | Confirm | CloseSession
)


class Opened(Reply, frozen=True, kw_only=True, tag="opened", tag_field="type"):
    """The session is open, and takes audio from chunk `next_seq` on."""

    session: str
    """Id of the session. It is no secret."""
    resume_token: str
    """With the id, the right to resume the session. Keep it secret."""
    next_seq: int
    """Number of the next chunk."""
    utterance: int
    """Index of the current utterance."""
    credit_chunks: int = CREDIT_CHUNKS
    """How many chunks may be sent beyond `next_seq` of this frame or of the last `ack`."""
    credit_bytes: int = CREDIT_BYTES
    """How many bytes of audio may be sent beyond it, without the numbers of chunks."""


class Ack(Reply, frozen=True, kw_only=True, tag="ack", tag_field="type"):
    """Every chunk below `next_seq` is stored."""

    next_seq: int
    utterance: int
    """Index of the current utterance."""


class BackpressureFrame(Reply, frozen=True, kw_only=True, tag="backpressure", tag_field="type"):
    """No chunk is stored for now. The gateway tries again itself; what was sent stays valid."""

    retry_after_ms: int
    cause: str = ""
    """`session_outcomes` or `tenant_outbox`, if the reason is the session's or the tenant's own."""


class _Outcome(Reply, frozen=True, kw_only=True):
    """The fields of every outcome of an utterance."""

    id: str
    """Position: `resume` with it as `results_after` continues after it."""
    session: str
    """Session that spoke; in a room it may be another one."""
    utterance: int
    """Index of the utterance in the session that spoke."""
    target: str
    """Target language."""


class ResultFrame(_Outcome, frozen=True, kw_only=True, tag="result", tag_field="type"):
    """The transcript and its translation."""

    delivery_no: int
    """Number in the order of session and target, from 0 without holes."""
    text: str | None = None
    """The translation."""
    source_text: str = ""
    """The transcript."""
    language: str = ""
    """The recognised language, if the source is `auto`."""
    audio: bytes | None = None
    """Synthesised speech, in base64."""
    is_encrypted: bool = False
    """The session is encrypted: texts and audio are left out."""
    is_unreadable: bool = False
    """The node sent a text in an unknown form."""


class PartialFrame(_Outcome, frozen=True, kw_only=True, tag="partial", tag_field="type"):
    """A preliminary transcript. May be repeated or lost."""

    text: str | None = None
    source_text: str = ""
    language: str = ""
    is_encrypted: bool = False
    is_unreadable: bool = False


class NoSpeechFrame(_Outcome, frozen=True, kw_only=True, tag="no_speech", tag_field="type"):
    """The node found no speech in the utterance."""

    delivery_no: int
    code: str = ""


class FailedFrame(_Outcome, frozen=True, kw_only=True, tag="failed", tag_field="type"):
    """The job failed."""

    delivery_no: int
    code: str = ""
    """Why, such as JOB_TIMEOUT."""
    error_type: str = ""
    """Class of the exception with which the handler of the last attempt failed. Empty without one,
    and in encrypted sessions."""
    error_message: str = ""
    """First line of its text. Empty for a token that hides texts, because it may quote what was
    spoken, and with the setting `error_messages` = 0."""


class MissingFrame(_Outcome, frozen=True, kw_only=True, tag="missing", tag_field="type"):
    """The outcome did not come in time; later ones are delivered without it."""

    delivery_no: int
    code: str = ""


class TruncatedFrame(Reply, frozen=True, kw_only=True, tag="truncated", tag_field="type"):
    """Outcomes before this position are deleted: the client was away for too long."""

    id: str


class ClosedFrame(Reply, frozen=True, kw_only=True, tag="closed", tag_field="type"):
    """The session is closed, and every outcome was sent."""


ServerFrame: TypeAlias = (
    Opened
    | Ack
    | BackpressureFrame
    | PartialFrame
    | ResultFrame
    | NoSpeechFrame
    | FailedFrame
    | MissingFrame
    | TruncatedFrame
    | Error
    | ClosedFrame
)
_FRAMES: dict[type[Outcome], type[Reply]] = {
    Result: ResultFrame,
    Partial: PartialFrame,
    NoSpeech: NoSpeechFrame,
    Failed: FailedFrame,
    Missing: MissingFrame,
    Truncated: TruncatedFrame,
}
_TEXTS = {"text": None, "source_text": "", "language": "", "audio": None, "error_message": ""}


def outcome_frame(outcome: Outcome, *, texts: bool) -> Reply:
    """Return the frame of an outcome, without what was spoken unless `texts`."""
    kind = _FRAMES[type(outcome)]
    fields = {name: getattr(outcome, name) for name in kind.__struct_fields__}
    if not texts:
        fields |= {name: empty for name, empty in _TEXTS.items() if name in fields}
    frame: Reply = kind(**fields)
    return frame


def split_chunk(frame: bytes) -> tuple[int, bytes]:
    """Return number and payload of a binary frame. Raises InvalidMessage."""
    if len(frame) < CHUNK_HEADER.size:
        raise InvalidMessage.of(
            "chunk", f"a number of {CHUNK_HEADER.size} bytes, then audio", "prepend the number"
        )
    return CHUNK_HEADER.unpack_from(frame)[0], frame[CHUNK_HEADER.size :]
