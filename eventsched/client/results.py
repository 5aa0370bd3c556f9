"""What comes of speech: the result a node gives, and the outcome a session hears.

Owns: `Result` (made by handlers), `Delivered` (heard by sessions), the former's limits, and how
both travel: encrypted, if the session is.
Never does: I/O but for keys. Read next: node/job.py (making them), session.py (hearing them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import msgspec
import structlog

from eventsched.client.subscription import Told
from eventsched.encryption.decrypt import seal_of
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import DecryptionError, InvalidMessage, KeyMissing, KeyStoreError
from eventsched.schema import codec
from eventsched.schema.events import Text

if TYPE_CHECKING:
    from eventsched.encryption.cipher import Seal, What

log = structlog.get_logger("eventsched.client.session")
AUDIO_BYTES_MAX = 512_000
BODY_BYTES_MAX = 65_536

_KINDS = {
    "text": (str, type(None)), "source_text": (str,), "language": (str,),
    "audio": (bytes, type(None)),
}  # fmt: skip

Heard: TypeAlias = Literal["result", "no_speech", "failed", "missing", "partial", "truncated"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was said, and its translation."""

    text: str | None = None
    """The translation; none when there is none."""
    source_text: str = ""
    language: str = ""
    """The recognised language, where the source was `auto`."""
    audio: bytes | None = None
    """Synthesised speech, up to 512,000 bytes."""

    def __post_init__(self) -> None:
        """Refused where the handler makes it: later nobody knows which line did."""
        for field, kinds in _KINDS.items():
            value = getattr(self, field)
            if not isinstance(value, kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise InvalidMessage.of(
                    field, f"{expected} expected, got {value!r:.80}", "convert it"
                )

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
    """Why there is no text: with `no_speech` and `failed`."""
    log: str = ""
    """Id of the event in the log."""
    is_sealed: bool = False
    """Its text and sound are encrypted, and their key is not here."""
    is_unreadable: bool = False
    """Its node sent a text in no form that this program knows; the log line says what to do."""


async def heard(told: Told, keys: KeyStore | None) -> Delivered:
    """An entry of an `out` stream, as the session's user sees it.

    Nobody can hear a text whose key is not here, or that is none: the outcome says so, and those
    behind it are heard.
    """
    d = told.data
    text, audio, is_sealed, is_unreadable = Text(), b"", False, False
    try:
        text, audio = await _opened(told, keys)
    except (KeyMissing, KeyStoreError, DecryptionError) as error:
        is_sealed = True
        log.warning("sealed", session=d["session"], error=str(error))
    except codec.UnreadableText as error:
        is_unreadable = True
        log.error(
            "unreadable",
            session=d["session"],
            entry=told.id,
            error=str(error),
            remedy=f"`eventsched history {d['session']}` names its node: see what that sends",
        )
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
        audio=audio or None,
        is_sealed=is_sealed,
        is_unreadable=is_unreadable,
    )


async def _opened(told: Told, keys: KeyStore | None) -> tuple[Text, bytes]:
    """Text and sound, to read and to hear."""
    d, text = told.data, codec.decode_text(told.body)
    if not text.sealed:
        return text, told.audio
    seal = await seal_of(keys, d["session"])
    what: What = "partial" if told.kind == "partial" else "result"
    plain = seal.open_text(what, d["utterance"], d["target"], text)
    audio = told.audio and seal.open_sound(d["utterance"], d["target"], told.audio)
    return plain, audio


def packed(result: Result, seal: Seal | None, utterance: int, target: str) -> tuple[bytes, bytes]:
    """Text and sound as they travel; InvalidMessage when either is too large."""
    text = Text(source_text=result.source_text, text=result.text, language=result.language)
    audio = result.audio or b""
    audio_max = AUDIO_BYTES_MAX - (seal.overhead_bytes if seal else 0)
    if len(audio) > audio_max:
        raise InvalidMessage.of(
            "audio", f"at most {audio_max} bytes, got {len(audio)}", "compress it"
        )
    if seal is not None:
        text = seal.text("result", utterance, target, text)
        audio = audio and seal.sound(utterance, target, audio)
    body = codec.encode_text(text)
    if len(body) > BODY_BYTES_MAX:
        raise InvalidMessage.of(
            "text", f"at most {BODY_BYTES_MAX} bytes, got {len(body)}", "shorten it"
        )
    return body, audio
