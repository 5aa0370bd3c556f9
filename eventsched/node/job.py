"""One job as its handler sees it.

Owns: reading its audio, its context, partials, asking for more time; the ways in which it ends.
Never does: running the handler (executor.py), telling the result (registration.py).
Read next: node.py, executor.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import anyio.from_thread
import msgspec
import structlog

from eventsched.audio.chunks import SAMPLE_BYTES, Format, pcm_bytes, split_opus
from eventsched.client.results import Result, packed
from eventsched.encryption.decrypt import load_cipher
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import DecryptionError, KeyMissing, KeyStoreError, MissingDependencyError
from eventsched.schema import codec
from eventsched.schema.events import AudioChunkAppended, Event, Said, Text
from eventsched.schema.keys import name_of
from eventsched.schema.validation import check_code
from eventsched.store.cell import Store

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

EXTEND_S_MAX = 300
READ_COUNT = 64
"""Chunks a read of audio: up to 4 MiB."""

log = structlog.get_logger("eventsched.node.node")
_CONTEXT = msgspec.msgpack.Decoder(list[Said])


class NoSpeech(Exception):
    """Raised or returned by a handler that found no speech: the job ends without a text.

    Args:
        code: Why, such as ASR_EMPTY; 1 to 64 characters of A-Z, 0-9 and _.
    """

    def __init__(self, code: str = "ASR_EMPTY") -> None:
        self.code = check_code("code", code)
        super().__init__(code)


class JobError(Exception):
    """Raised or returned by a handler that cannot do the job: the attempt ends.

    Args:
        code: Why; 1 to 64 characters of A-Z, 0-9 and _. With MODEL_NOT_AVAILABLE this node gets
            no further jobs that need `feature` for the setting `suspend_ms`.
        retryable: Another node may try, at most three times.
        feature: The feature of the job whose model is missing, with MODEL_NOT_AVAILABLE.
    """

    def __init__(self, code: str, *, retryable: bool = False, feature: str = "") -> None:
        self.code = check_code("code", code)
        self.retryable = retryable
        self.feature = feature
        super().__init__(code)

    def __reduce__(self) -> tuple[Any, ...]:
        return _job_error, (self.code, self.retryable, self.feature)


def _job_error(code: str, retryable: bool, feature: str) -> JobError:
    return JobError(code, retryable=retryable, feature=feature)


def outcome_of(error: BaseException) -> NoSpeech | JobError | None:
    """The outcome that a handler raised; none when the exception is none.

    Task groups raise groups: one that holds nothing but outcomes counts as its first.
    """
    if isinstance(error, (NoSpeech, JobError)):
        return error
    if not isinstance(error, BaseExceptionGroup):
        return None
    outcomes = [outcome_of(inner) for inner in error.exceptions]
    return None if None in outcomes else outcomes[0]


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What the inbox says of a job: written by lua/include/assign.lua."""

    session: str
    utterance: int
    turn: int
    source: str
    target: str
    features: list[str] = []
    attempt: int
    epoch: int
    encoding: Format
    sample_rate: int
    first: str
    last: str
    count: int
    bytes: int
    ms: int
    padding_ms: int = 0
    deadline_ms: int
    priority: int = 1
    context_at: str = ""
    tp: str = ""
    key: str = ""
    """Id of the session's key; empty when it is not encrypted."""


class _Voice(Protocol):
    """What a job needs of the registration that holds it."""

    store: Store

    async def say_partial(self, key: str, attempt: int, body: bytes) -> None: ...

    async def extend(self, key: str, attempt: int, more_ms: int) -> int: ...


class _Facts:
    """What is known of a job without asking anybody."""

    def __init__(self, key: str, assignment: Assignment) -> None:
        a = assignment
        self.key = key
        """The job key."""
        self.attempt = a.attempt
        """Number of the attempt, from 1; the next one follows if this one ends without a result."""
        self.session = a.session
        """Full id of the session."""
        self.utterance = a.utterance
        """Index of the utterance in its session, from 0."""
        self.turn = a.turn
        """Number of the stretch of speech that the utterance is a piece of."""
        self.source = a.source
        """Language that is spoken, or `auto`."""
        self.target = a.target
        """Language to produce."""
        self.features = tuple(a.features)
        """Features that the session asks for."""
        self.encoding = a.encoding
        """`pcm16` or `opus`."""
        self.sample_rate = a.sample_rate
        """Sample rate in Hz."""
        self.ms = a.ms
        """Length of the audio in milliseconds, without padding."""
        self.padding_ms = a.padding_ms
        """Silence to append, in milliseconds, so that a recogniser finds the end of the speech."""
        self.priority = a.priority
        """0 interactive, 1 normal, 2 background."""
        self.traceparent = a.tp
        """W3C trace context of the session, or empty."""
        self.deadline_ms = a.deadline_ms
        """End of the lease in milliseconds of the cell's clock."""
        self.context: list[tuple[str, str | None]] = []
        """Earlier texts of the group, oldest first: (source text, translation or none)."""


class Job(_Facts):
    """One attempt to process an utterance into one target language, for asynchronous handlers."""

    def __init__(self, key: str, assignment: Assignment, context: bytes, voice: _Voice) -> None:
        super().__init__(key, assignment)
        self._assignment = assignment
        self._voice = voice
        self._said = context
        self._seal: SessionCipher | None = None

    async def unlock(self, keys: KeyStore | None) -> None:
        """Its context can be read and, with the session's key, its audio. Before the handler runs.

        Raises JobError (KEY_MISSING, retryable: another node may have the key).
        """
        a = self._assignment
        if a.key:
            try:
                self._seal = await load_cipher(keys, a.session, a.key)
            except (KeyMissing, KeyStoreError, MissingDependencyError) as error:
                log.error("no key", session=a.session, job=self.key, error=str(error))
                raise JobError("KEY_MISSING", retryable=True) from error
        self.context = context_of(self._said, self._seal, a.target)

    def packed(self, result: Result) -> tuple[bytes, bytes]:
        """The result's text and sound as they travel. For executor.py."""
        return packed(result, self._seal, self.utterance, self.target)

    async def audio(self) -> bytes:
        """Read the audio of the utterance.

        Returns:
            PCM16 bytes at `sample_rate`, followed by `padding_ms` of silence; for Opus the packets,
            each preceded by its length as a big-endian 16-bit integer, without padding.

        Raises:
            JobError: AUDIO_INCOMPLETE (retryable) if not all of it is there; AUDIO_UNREADABLE if
                encrypted audio does not decrypt.
            ServerUnavailable: The server is away.
        """
        payload = b"".join(await self._payloads())
        return payload + _silence(self) if self.encoding == "pcm16" else payload

    async def packets(self) -> list[bytes]:
        """Read the Opus packets of the utterance, in order; empty for another encoding.

        Raises:
            JobError: As for `audio`.
            ServerUnavailable: The server is away.
        """
        if self.encoding != "opus":
            return []
        return [packet for chunk in await self._payloads() for packet in split_opus(chunk)]

    async def _payloads(self) -> list[bytes]:
        a, found = self._assignment, await self._chunks()
        if len(found) != a.count or sum(len(chunk.body) for chunk in found) != a.bytes:
            raise JobError("AUDIO_INCOMPLETE", retryable=True)
        return [chunk.body for chunk in found] if self._seal is None else self._opened(found)

    async def _chunks(self) -> list[Event]:
        a, store = self._assignment, self._voice.store
        key, low = store.keys.audio(name_of(a.session)), a.first
        found: list[Event] = []
        while True:
            entries = await store.read_range(key, low, a.last, READ_COUNT)
            found += [codec.decode(entry_id, fields) for entry_id, fields in entries]
            if len(entries) < READ_COUNT or len(found) > a.count:
                return found
            low = f"({entries[-1][0]}"

    def _opened(self, found: list[Event]) -> list[bytes]:
        """What the chunks say: each opens in its own place only, and none may be left out."""
        assert self._seal is not None
        numbers = [chunk.data.seq for chunk in found if isinstance(chunk.data, AudioChunkAppended)]
        if numbers != list(range(numbers[0], numbers[0] + len(found))):
            raise JobError("AUDIO_UNREADABLE")
        try:
            return [
                self._seal.decrypt_chunk(seq, chunk.body)
                for seq, chunk in zip(numbers, found, strict=True)
            ]
        except DecryptionError as error:
            log.error("sealed", session=self.session, job=self.key, error=str(error))
            raise JobError("AUDIO_UNREADABLE") from error

    async def partial(self, text: str | None = None, *, source_text: str = "") -> None:
        """Send a partial result to the listeners at once; it is stored nowhere else.

        Args:
            text: The translation so far, or none.
            source_text: The transcript so far.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        said = Text(source_text=source_text, text=text)
        if self._seal is not None:
            said = self._seal.encrypt_text("partial", self.utterance, self.target, said)
        await self._voice.say_partial(self.key, self.attempt, codec.encode_text(said))

    async def extend(self, seconds: float) -> int:
        """Extend the lease to `seconds` from now, and never beyond 300 s after dispatch.

        Args:
            seconds: At least this long from now; a lease is never shortened.

        Returns:
            The end of the lease, in milliseconds of the cell's clock.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        more_ms = max(1, min(round(seconds * 1_000), EXTEND_S_MAX * 1_000))
        self.deadline_ms = await self._voice.extend(self.key, self.attempt, more_ms)
        return self.deadline_ms

    async def loaded(self) -> BlockingJob:
        """The same attempt for a blocking handler, with its audio read. Raises as `audio`."""
        return BlockingJob(self, self._assignment, await self._payloads())


class BlockingJob(_Facts):
    """One attempt for a plain function in a thread or process; its audio is in memory.

    In a process `partial` and `extend` raise RuntimeError.
    """

    def __init__(self, job: Job, assignment: Assignment, payloads: list[bytes]) -> None:
        self.__dict__.update({name: value for name, value in vars(job).items() if name[0] != "_"})
        self._job: Job | None = job
        self._payloads = payloads
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the attempt is over, so that the handler should stop; always false in a process,
        which is killed instead."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Tell the thread that the attempt is over. For executor.py."""
        self._is_cancelled = True

    def audio(self) -> bytes:
        """The audio of the utterance, in the form of `Job.audio`."""
        payload = b"".join(self._payloads)
        return payload + _silence(self) if self.encoding == "pcm16" else payload

    def packets(self) -> list[bytes]:
        """The Opus packets of the utterance, in order; empty for another encoding."""
        if self.encoding != "opus":
            return []
        return [packet for chunk in self._payloads for packet in split_opus(chunk)]

    def partial(self, text: str | None = None, *, source_text: str = "") -> None:
        """Send a partial result, as `Job.partial`.

        Raises:
            LeaseLost: The attempt is no longer the current one.
            RuntimeError: The handler runs in a process.
        """
        job = self._spoken_for()
        anyio.from_thread.run(lambda: job.partial(text, source_text=source_text))

    def extend(self, seconds: float) -> int:
        """Extend the lease, as `Job.extend`; returns its end in milliseconds.

        Raises:
            LeaseLost: The attempt is no longer the current one.
            RuntimeError: The handler runs in a process.
        """
        self.deadline_ms = anyio.from_thread.run(self._spoken_for().extend, seconds)
        return self.deadline_ms

    def _spoken_for(self) -> Job:
        if self._job is None:
            raise RuntimeError("a job in a process cannot send: use a thread (processes=False)")
        return self._job

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_job": None}


def _silence(job: _Facts) -> bytes:
    return bytes(pcm_bytes(job.padding_ms, job.sample_rate) // SAMPLE_BYTES * SAMPLE_BYTES)


def context_of(
    said: bytes, seal: SessionCipher | None, target: str
) -> list[tuple[str, str | None]]:
    """The context that a group view keeps; what does not open or cannot be read is left out."""
    found: list[tuple[str, str | None]] = []
    for part in _CONTEXT.decode(said) if said else ():
        if not part.sealed:
            found.append((part.source_text, part.text))
        elif seal is not None:
            sealed = Text(sealed=part.sealed, characters=part.characters)
            try:
                text = seal.decrypt_text("result", part.utterance, target, sealed)
            except (DecryptionError, codec.UnreadableText) as error:
                log.error("context not readable", session=seal.session, error=str(error))
            else:
                found.append((text.source_text, text.text))
    return found
