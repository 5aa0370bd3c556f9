"""The frames that both sockets share, and how a text frame is read and written.

Owns: the frame `error`, decoding with the name of a field that is not acceptable, the close codes.
Never does: I/O. Read next: session_frames.py, node_frames.py, docs/protocol.md.

The structs are the one definition of the protocol: the JSON Schema of each frame in
docs/protocol.md is generated from them.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any, Generic, TypeVar

import msgspec

from eventsched.errors import Backpressure, InvalidMessage, Refused, SeqGap
from eventsched.gateway.replies import error_of
from eventsched.schema.nesting import check_json

FrameT = TypeVar("FrameT")
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"(?:required|unknown) field `(?P<name>[^`]{1,64})`")


class Close(IntEnum):
    """Why a gateway closes a socket."""

    DONE = 1000
    """The session is closed, or the node is drained."""
    TOO_MANY_FRAMES = 1008
    """More than 64 pings, pongs and fragments below 128 bytes in a second, or 1,024 fragments."""
    TOO_LARGE = 1009
    """A frame exceeds its limit."""
    RESTART = 1012
    """The gateway ends: connect again, to any gateway, and resume or register."""
    PROTOCOL = 4400
    """A frame of that kind is not allowed there."""
    TOKEN_EXPIRED = 4401
    """The token has expired: connect again with a new one, and resume or register."""
    GONE = 4404
    """The session does not exist, or takes nothing more."""
    TIMEOUT = 4408
    """The first frame did not come in time, or the server did not answer it: connect again."""
    SUPERSEDED = 4409
    """Another connection has resumed the session or registered the node."""
    LOST = 4410
    """The node was silent for too long and is lost: connect again and register."""
    CREDIT_EXCEEDED = 4429
    """More audio is on its way than the credit permits."""
    TOO_MANY_CONNECTIONS = 4503
    """The tenant has as many connections as it may have at this gateway: connect again later."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text frame of a client. Its field `type` names its kind."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A text frame of a gateway. Its field `type` names its kind; clients ignore unknown fields."""


class Error(Reply, frozen=True, kw_only=True, omit_defaults=True, tag="error", tag_field="type"):
    """Something was not accepted. The connection stays open unless the error is fatal.

    Empty fields are left out.
    """

    code: str
    """A stable code, such as INVALID_MESSAGE."""
    message: str = ""
    field: str = ""
    """The field that is not acceptable."""
    limit: str = ""
    """What the field may have."""
    remedy: str = ""
    retry_after_ms: int = 0
    """When to try again."""
    expected: int | None = None
    """With SEQ_GAP: number of the chunk to continue from."""
    job: str = ""
    """Job key, if the error is about a job."""
    attempt: int = 0
    fatal: bool = False
    """The gateway closes the connection."""


class FrameDecoder(Generic[FrameT]):
    """Decodes the text frames of one kind of client.

    Args:
        frames: The union of the frames.
        page: The document that describes them.
    """

    def __init__(self, frames: Any, *, page: str = "docs/protocol.md") -> None:
        self._decoder: msgspec.json.Decoder[FrameT] = msgspec.json.Decoder(frames)
        self._remedy = f"see {page}"

    def decode(self, text: str) -> FrameT:
        """Return the frame. Raises InvalidMessage, which names the field."""
        data = text.encode("utf-8", "surrogatepass")
        try:
            return self._decoder.decode(check_json(data))
        except msgspec.ValidationError as error:
            raise _invalid(error, self._remedy) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise InvalidMessage.of("frame", f"JSON expected: {error}", "send one object") from None


def _invalid(error: msgspec.ValidationError, remedy: str) -> InvalidMessage:
    message = str(error)
    path = _PATH.search(message)
    missing = _MISSING.search(message)
    field = path["path"] if path else ""
    if missing:
        field = f"{field}.{missing['name']}".lstrip(".")
    limit = message[: path.start()] if path else message
    return InvalidMessage.of(field or "type", limit, remedy)


def error_frame(error: Exception, *, fatal: bool = False, job: str = "", attempt: int = 0) -> Error:
    """Return the frame for an exception; an unforeseen one is logged as INTERNAL."""
    _, reply = error_of(error)
    fields = msgspec.structs.asdict(reply)
    if isinstance(error, SeqGap):
        fields["expected"] = error.expected
    if isinstance(error, Refused) and not isinstance(error, InvalidMessage | Backpressure):
        fields["message"] = str(error)
    return Error(**fields, fatal=fatal, job=job, attempt=attempt)
