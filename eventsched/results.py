"""What comes of speech: the result a node gives, and the outcome a session hears.

Owns: `Result` (made by handlers), `Delivered` (heard by sessions), and the former's limits.
Never does: I/O. Read next: job.py (making them), session.py (hearing them).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import msgspec

from eventsched import codec
from eventsched.errors import InvalidMessage
from eventsched.events import Text
from eventsched.listening import Told

AUDIO_BYTES_MAX = 512_000
BODY_BYTES_MAX = 65_536

Heard: TypeAlias = Literal["result", "no_text", "failed", "missing", "partial", "truncated"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, and its translation."""

    text: str | None = None
    """The translation; none when there is none."""
    source_text: str = ""
    language: str = ""
    """The recognised language, where the source was `auto`."""
    audio: bytes | None = None
    """Synthesised speech, up to 512,000 bytes."""

    @property
    def is_blank(self) -> bool:
        """Nothing was said that anybody could read or hear."""
        return not (self.text or "").strip() and not self.source_text.strip() and not self.audio


class Delivered(Result, frozen=True, kw_only=True):
    """One outcome as a session hears it, in order per (session, target).

    `partial` is a foretaste of a result and may be repeated or left out. `truncated` says that
    the listener was away for so long that entries before this one are gone.
    """

    id: str
    """Its place in what the session hears: `results(after=id)` goes on behind it."""
    outcome: Heard
    session: str = ""
    """Whose speech it is; in a room, another session than the one that hears it."""
    utterance: int = -1
    target: str = ""
    delivery_no: int = -1
    code: str = ""
    """Why there is no text: with `no_text` and `failed`."""
    log: str = ""
    """Id of the event in the log."""


def delivered(told: Told) -> Delivered:
    """An entry of an `out` stream, as the session's user sees it."""
    text = codec.decode_text(told.body)
    d = told.data
    return Delivered(
        id=told.id,
        outcome=d["outcome"] if told.kind == "result" else cast("Heard", told.kind),
        session=d.get("session", ""),
        utterance=d.get("utterance", -1),
        target=d.get("target", ""),
        delivery_no=d.get("delivery_no", -1),
        code=d.get("code", ""),
        log=d.get("log", ""),
        text=text.text,
        source_text=text.source_text,
        language=text.language,
        audio=told.audio or None,
    )


def body_of(result: Result) -> bytes:
    """The text of a result as it travels; InvalidMessage when it or its audio is too large."""
    body = codec.encode_text(
        Text(source_text=result.source_text, text=result.text, language=result.language)
    )
    if len(body) > BODY_BYTES_MAX:
        raise InvalidMessage.of(
            "text", f"at most {BODY_BYTES_MAX} bytes, got {len(body)}", "shorten it"
        )
    if result.audio and len(result.audio) > AUDIO_BYTES_MAX:
        raise InvalidMessage.of(
            "audio", f"at most {AUDIO_BYTES_MAX} bytes, got {len(result.audio)}", "compress it"
        )
    return body
