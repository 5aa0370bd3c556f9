"""ResultKind comes of speech: the result a node gives, and the outcome a session hears.

Owns: `Result` (made by handlers), `Delivered` (heard by sessions), the former's limits, and how
both travel: encrypted, if the session is.
Never does: I/O but for keys. Read next: node/job.py (making them), session.py (hearing them).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import msgspec
import structlog

from eventsched.client.subscription import OutboxEntry
from eventsched.encryption.decrypt import load_cipher
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import DecryptionError, InvalidMessage, KeyMissing, KeyStoreError
from eventsched.schema import codec
from eventsched.schema.events import Text

if TYPE_CHECKING:
    from eventsched.encryption.cipher import ResultKind, SessionCipher

log = structlog.get_logger("eventsched.client.session")
AUDIO_BYTES_MAX = 512_000
BODY_BYTES_MAX = 65_536

_KINDS = {
    "text": (str, type(None)), "source_text": (str,), "language": (str,),
    "audio": (bytes, type(None)),
}  # fmt: skip

Heard: TypeAlias = Literal["result", "no_speech", "failed", "missing", "partial", "truncated"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """ResultKind a handler returns: the recognised text and its translation.

    A result whose texts are blank and that has no audio ends the job as one without speech.

    Raises:
        InvalidMessage: A field has another type.
    """

    text: str | None = None
    """The translation; none if there is none."""
    source_text: str = ""
    """ResultKind was said, as recognised. All texts together have at most 65,536 bytes."""
    language: str = ""
    """The recognised language, if the source is `auto`."""
    audio: bytes | None = None
    """Synthesised speech in any encoding that the listeners know, at most 512,000 bytes."""

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
        """Whether there is nothing to read or hear."""
        return not (self.text or "").strip() and not self.source_text.strip() and not self.audio


class Delivered(Result, frozen=True, kw_only=True):
    """One outcome as a session receives it, in order for each session and target.

    The outcome `partial` precedes a result and may be repeated or missing. `truncated` means that
    the listener was away for so long that entries before this one are gone.
    """

    id: str
    """Position in what the session receives: `results(after=id)` continues after it."""
    outcome: Heard
    """`result`, `no_speech`, `failed` or `missing`; also `partial` and `truncated`."""
    session: str = ""
    """Full id of the session that spoke; in a room another one than the session that receives."""
    utterance: int = -1
    """Index of the utterance in the session that spoke."""
    target: str = ""
    """Target language."""
    delivery_no: int = -1
    """Number in the order of session and target, from 0 without holes."""
    code: str = ""
    """Why there is no text, with `no_speech` and `failed`."""
    log: str = ""
    """Id of the event in the log."""
    is_sealed: bool = False
    """Text and audio are encrypted, and their key is not in the key store."""
    is_unreadable: bool = False
    """The node sent a text in an unknown form; a log line says what to do."""


async def heard(told: OutboxEntry, keys: KeyStore | None) -> Delivered:
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


async def _opened(told: OutboxEntry, keys: KeyStore | None) -> tuple[Text, bytes]:
    """Text and sound, to read and to hear."""
    d, text = told.data, codec.decode_text(told.body)
    if not text.sealed:
        return text, told.audio
    seal = await load_cipher(keys, d["session"])
    what: ResultKind = "partial" if told.kind == "partial" else "result"
    plain = seal.decrypt_text(what, d["utterance"], d["target"], text)
    audio = told.audio and seal.decrypt_speech(d["utterance"], d["target"], told.audio)
    return plain, audio


def packed(
    result: Result, seal: SessionCipher | None, utterance: int, target: str
) -> tuple[bytes, bytes]:
    """Text and sound as they travel; InvalidMessage when either is too large."""
    text = Text(source_text=result.source_text, text=result.text, language=result.language)
    audio = result.audio or b""
    audio_max = AUDIO_BYTES_MAX - (seal.overhead_bytes if seal else 0)
    if len(audio) > audio_max:
        raise InvalidMessage.of(
            "audio", f"at most {audio_max} bytes, got {len(audio)}", "compress it"
        )
    if seal is not None:
        text = seal.encrypt_text("result", utterance, target, text)
        audio = audio and seal.encrypt_speech(utterance, target, audio)
    body = codec.encode_text(text)
    if len(body) > BODY_BYTES_MAX:
        raise InvalidMessage.of(
            "text", f"at most {BODY_BYTES_MAX} bytes, got {len(body)}", "shorten it"
        )
    return body, audio
