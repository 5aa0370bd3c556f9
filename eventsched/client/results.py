"""The outcomes of speech: what a handler returns and what a session receives.

Owns: the six classes of the union `Outcome`, the limits of a result, and how texts and audio are
encoded: encrypted, if the session is.
Must not: do I/O, except to read a key from the key store.
Read next: node/job.py (the handler's side), session.py (the listener's side).

One class for each outcome. A listener that switches on the class, or on the word in `outcome`,
sees only fields that this outcome has, and a type checker reports the outcomes that the listener
forgot. One class with a field `outcome` cannot offer either: every field would exist for every
outcome, mostly empty.

`Result` and `NoSpeech` serve handlers as well. A handler returns the same facts that a listener
receives, so a second pair of classes would differ in the delivery fields alone. These fields have
defaults: they are empty in a handler's value, and filled in a listener's.

NoSpeechError is not NoSpeech. A handler may find far below its top level that there is no speech,
so it needs an exception. An exception is mutable, compares by identity and carries a traceback,
whereas an outcome is an immutable value. Hence each exception of a handler ends in `Error` and
has an outcome as its counterpart: NoSpeechError leads to NoSpeech, JobError to Failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeAlias

import msgspec

from eventsched.client.outbox_entry import OutboxEntry, OutcomeData, PartialData, parse_error
from eventsched.encryption.decrypt import check_plain, load_cipher, not_encrypted
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import DecryptionError, InvalidMessage, KeyMissing, KeyStoreError
from eventsched.escaping import escape_line
from eventsched.logs import get_logger
from eventsched.schema import codec
from eventsched.schema.events import Text, error_text
from eventsched.schema.validation import check_code

if TYPE_CHECKING:
    from eventsched.encryption.cipher import ResultKind, SessionCipher

log = get_logger("eventsched.client.session")
AUDIO_BYTES_MAX = 512_000
BODY_BYTES_MAX = 65_536
LANGUAGE_MAX = 64

_RESULT_TYPES = {
    "text": (str, type(None)), "source_text": (str,), "language": (str,),
    "audio": (bytes, type(None)),
}  # fmt: skip


class _Delivery(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True
):
    """The fields that every outcome of an utterance has; empty in what a handler returns."""

    id: str = ""
    """Position in what the session receives: `results(after=id)` continues after it."""
    session: str = ""
    """Full id of the session that spoke; in a room another one than the session that receives."""
    utterance: int = -1
    """Index of the utterance in the session that spoke."""
    target: str = ""
    """Target language."""


class _Numbered(_Delivery, frozen=True, kw_only=True):
    """The fields of the outcomes that end an utterance in a target language."""

    delivery_no: int = -1
    """Number in the order of session and target, from 0 without holes."""
    log: str = ""
    """Id of the event in the log."""


class Result(_Numbered, frozen=True, kw_only=True):
    """What a handler returns, and what a session receives: the transcript and its translation.

    A result whose texts are blank and that has no audio ends the job as one without speech. The
    delivery fields (`id`, `session`, `utterance`, `target`, `delivery_no`, `log`) are set in what
    a session receives.

    Raises:
        InvalidMessage: A field has another type.
    """

    outcome: ClassVar[Literal["result"]] = "result"

    text: str | None = None
    """The translation; none if there is none."""
    source_text: str = ""
    """The transcript. All texts together have at most 65,536 bytes."""
    language: str = ""
    """The recognised language, if the source is `auto`."""
    audio: bytes | None = None
    """Synthesised speech in any encoding that the listeners know, at most 512,000 bytes."""
    is_encrypted: bool = False
    """Text and audio could not be decrypted, for instance because their key is not in the key
    store, or were not encrypted in a session that has a key; they are left out."""
    is_unreadable: bool = False
    """The node sent a text in an unknown form; a log line names the remedy."""
    is_audio_omitted: bool = False
    """The server left the audio out, because more than twice `tenant_outbox_bytes_max` of outcomes
    wait to be read by the sessions of the tenant."""
    is_text_omitted: bool = False
    """For the same reason the server left out the texts, which have more than 3,840 bytes
    together."""

    def __post_init__(self) -> None:
        """Check the types here, where a traceback shows the line of the handler."""
        for field, types in _RESULT_TYPES.items():
            value = getattr(self, field)
            if not isinstance(value, types):
                expected = " or ".join(kind.__name__ for kind in types)
                given = type(value).__name__  # not the value: a log would show what was spoken
                raise InvalidMessage.of(field, f"{expected} expected, got {given}", "convert it")

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to read or hear."""
        return not (self.text or "").strip() and not self.source_text.strip() and not self.audio


class NoSpeech(_Numbered, frozen=True, kw_only=True):
    """The node found no speech in the utterance. A handler may return it as well.

    Raises:
        InvalidMessage: A handler's code is not 1 to 64 characters of A-Z, 0-9 and _.
    """

    outcome: ClassVar[Literal["no_speech"]] = "no_speech"

    code: str = "ASR_EMPTY"
    """Why. Empty in a delivery if a node or the server named a text that is no code."""

    def __post_init__(self) -> None:
        """Check a handler's code; that of a delivery is the server's."""
        if not self.id:
            check_code("code", self.code)


class Failed(_Numbered, frozen=True, kw_only=True):
    """The job failed: its last attempt did, or no node took it in time."""

    outcome: ClassVar[Literal["failed"]] = "failed"

    code: str = ""
    """Why: the code of a JobError, or one of the scheduler such as JOB_TIMEOUT. Empty if a node or
    the server named a text that is no code."""
    error_type: str = ""
    """Class of the exception with which the handler failed in the last attempt. Empty without one
    (the lease ended, no node took the job), and in encrypted sessions. So are the next two."""
    error_message: str = ""
    """First line of its text, which may quote what was spoken; see the setting
    `error_messages`."""
    error_place: str = ""
    """File and line where it was raised."""

    @property
    def error(self) -> str:
        """Why the handler failed, as one line: `ValueError: out of memory at workers.py:12`; empty
        if that is not known."""
        return error_text(self.error_type, self.error_message, self.error_place)


class Missing(_Numbered, frozen=True, kw_only=True):
    """The outcome did not come in time, so that later ones were delivered without it."""

    outcome: ClassVar[Literal["missing"]] = "missing"

    code: str = ""
    """NO_OUTCOME: no utterance has this delivery number, and `utterance` is -1. Empty otherwise."""


class Partial(_Delivery, frozen=True, kw_only=True):
    """A preliminary transcript, before the outcome of its utterance. May be repeated or lost.

    Its `id` is the position of the outcome before it: `results(after=id)` continues there.
    """

    outcome: ClassVar[Literal["partial"]] = "partial"

    text: str | None = None
    """The translation so far; none if there is none."""
    source_text: str = ""
    """The transcript so far."""
    language: str = ""
    """The recognised language, if the source is `auto`."""
    is_encrypted: bool = False
    """As in a Result."""
    is_unreadable: bool = False
    """As in a Result."""


class Truncated(msgspec.Struct, frozen=True, kw_only=True):
    """The listener was away for so long that outcomes before this position are deleted."""

    outcome: ClassVar[Literal["truncated"]] = "truncated"

    id: str
    """Position before the first outcome that still exists."""


FinalOutcome: TypeAlias = Result | NoSpeech | Failed | Missing
"""The outcomes that end an utterance in a target language: exactly one for each delivery number."""
Outcome: TypeAlias = FinalOutcome | Partial | Truncated
"""What `Session.results` yields. Each class names its outcome by a word in `outcome`."""


class Listener(NamedTuple):
    """The session that receives, as its own client knows it."""

    session: str
    """Full id."""
    keys: KeyStore | None
    is_encrypted: bool
    room: str
    """Full id of the room that the session was opened in; empty without a room, or if a session
    that is not encrypted was resumed: then only the server names its room."""

    def check_audience(self, speaker: SessionCipher) -> None:
        """Check that the speaker's key is for this session; the server cannot decide that.

        Raises:
            DecryptionError: The speaker is another session, and its key is not for the room of this
                session.
        """
        if speaker.session == self.session:
            return
        if not speaker.audience or speaker.audience != self.room:
            raise DecryptionError(f"{speaker.session}: its key is not for {self.session}")


async def read_outcome(entry: OutboxEntry, listener: Listener) -> Outcome:
    """The outcome in an entry of an outbox, decrypted if the key store has the speaker's key.

    A text that cannot be decrypted or read is left out, and the outcome says so: an exception here
    would keep the listener from all later outcomes. So is a text that is not encrypted although its
    session has a key, or although the listener's session is encrypted, and the text of a session
    that is not in the room of the listener: a user who can write to the server can name any
    speaker.
    """
    data = entry.data
    if isinstance(data, PartialData):
        body = await _read_body(entry, data, listener)
        return Partial(
            id=entry.id,
            session=data.session,
            utterance=data.utterance,
            target=data.target,
            text=body.text.text,
            source_text=body.text.source_text,
            language=body.text.language,
            is_encrypted=body.is_encrypted,
            is_unreadable=body.is_unreadable,
        )
    if not isinstance(data, OutcomeData):
        return Truncated(id=entry.id)
    fields: dict[str, Any] = {
        "id": entry.id, "session": data.session, "utterance": data.utterance,
        "target": data.target, "delivery_no": data.delivery_no, "log": data.log,
    }  # fmt: skip
    match data.outcome:
        case "no_speech":
            return NoSpeech(**fields, code=data.checked_code)
        case "failed":
            error = await _read_error(entry, data, listener)
            return Failed(**fields, **error, code=data.checked_code)
        case "missing":
            return Missing(**fields, code=data.checked_code)
    body = await _read_body(entry, data, listener)
    return Result(
        **fields,
        text=body.text.text,
        source_text=body.text.source_text,
        language=body.text.language,
        audio=body.audio or None,
        is_encrypted=body.is_encrypted,
        is_unreadable=body.is_unreadable,
        is_audio_omitted=data.omitted != "",
        is_text_omitted=data.omitted == "text",
    )


async def _read_error(entry: OutboxEntry, data: OutcomeData, listener: Listener) -> dict[str, Any]:
    """Return why the handler failed, by field. It is text in the clear, so an outcome that concerns
    an encrypted session has none: a user who can write to the server has forged it.
    """
    error = parse_error(entry.body)
    if error is None or listener.is_encrypted:
        return {}
    try:
        await check_plain(listener.keys, data.session)
    except (KeyStoreError, DecryptionError):
        return {}
    return {name: escape_line(value) for name, value in msgspec.structs.asdict(error).items()}


class _Body(NamedTuple):
    """The text and audio of an entry, or why they are left out."""

    text: Text = Text()
    audio: bytes = b""
    is_encrypted: bool = False
    is_unreadable: bool = False


async def _read_body(
    entry: OutboxEntry, data: OutcomeData | PartialData, listener: Listener
) -> _Body:
    session = data.session
    if isinstance(data, OutcomeData) and data.omitted == "text":
        return _Body()
    try:
        return await _decrypt(entry, data, listener)
    except (KeyMissing, KeyStoreError, DecryptionError) as error:
        log.warning("text not decrypted", session=session, entry=entry.id, error=str(error))
        return _Body(is_encrypted=True)
    except codec.UnreadableText as error:
        log.error(
            "text not readable",
            session=session,
            entry=entry.id,
            error=str(error),
            remedy=f"`eventsched history {session}` names the node that sent it",
        )
        return _Body(is_unreadable=True)


async def _decrypt(
    entry: OutboxEntry, data: OutcomeData | PartialData, listener: Listener
) -> _Body:
    text = codec.decode_text(entry.body)
    if not text.encrypted:
        if listener.is_encrypted:
            raise not_encrypted(listener.session)
        await check_plain(listener.keys, data.session)
        return _Body(text, entry.audio)
    cipher = await load_cipher(listener.keys, data.session)
    listener.check_audience(cipher)
    what: ResultKind = "partial" if entry.kind == "partial" else "result"
    return _Body(
        cipher.decrypt_text(what, data.utterance, data.target, text),
        entry.audio and cipher.decrypt_speech(data.utterance, data.target, entry.audio),
    )


def encode_result(
    result: Result, cipher: SessionCipher | None, utterance: int, target: str
) -> tuple[bytes, bytes]:
    """Text and audio as they are stored. Raises InvalidMessage if either is too large."""
    text = Text(source_text=result.source_text, text=result.text, language=result.language)
    if len(result.language) > LANGUAGE_MAX:
        got = f"{len(result.language)} characters"
        raise InvalidMessage.of(
            "language", f"a language such as en or pt-BR, got {got}", "use its code"
        )
    audio = result.audio or b""
    audio_max = AUDIO_BYTES_MAX - (cipher.overhead_bytes if cipher else 0)
    if len(audio) > audio_max:
        raise InvalidMessage.of(
            "audio", f"at most {audio_max} bytes, got {len(audio)}", "compress it"
        )
    if cipher is not None:
        text = cipher.encrypt_text("result", utterance, target, text)
        audio = audio and cipher.encrypt_speech(utterance, target, audio)
    body = codec.encode_text(text)
    if len(body) > BODY_BYTES_MAX:
        raise InvalidMessage.of(
            "text", f"at most {BODY_BYTES_MAX} bytes, got {len(body)}", "shorten it"
        )
    return body, audio
