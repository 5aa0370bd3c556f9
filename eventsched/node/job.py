"""One attempt as its handler sees it.

Owns: reading audio and context, partial results, extending the lease, and the exceptions by which
a handler ends an attempt.
Must not: run the handler (executor.py) or report its result (registration.py).
Read next: node.py, executor.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, cast

import anyio.from_thread
import msgspec

from eventsched.audio.chunks import SAMPLE_BYTES, Format, pcm_bytes, split_opus
from eventsched.client.results import Result, encode_result
from eventsched.encryption.decrypt import load_cipher, not_encrypted
from eventsched.encryption.keystore import KeyStore, has_key
from eventsched.errors import (
    DecryptionError,
    InvalidMessage,
    KeyMissing,
    KeyStoreError,
    LeaseLost,
    MissingDependencyError,
)
from eventsched.logs import get_logger
from eventsched.schema import codec
from eventsched.schema.events import AudioChunkAppended, ContextText, Event, Text
from eventsched.schema.keys import name_of
from eventsched.schema.nesting import check_msgpack
from eventsched.schema.trace_context import handler_traceparent
from eventsched.schema.validation import check_code, check_name
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

EXTEND_S_MAX = 300
RETRY_IN_MS_MAX = 10_000
READ_COUNT = 64
"""Chunks in one read of audio: up to 4 MiB."""

log = get_logger("eventsched.node.node")
_CONTEXT = msgspec.msgpack.Decoder(list[ContextText])


class NoSpeechError(Exception):
    """Raised or returned by a handler that found no speech: the outcome is NoSpeech.

    Args:
        code: Why, such as ASR_EMPTY; 1 to 64 characters of A-Z, 0-9 and _.
    """

    def __init__(self, code: str = "ASR_EMPTY") -> None:
        self.code = check_code("code", code)
        super().__init__(code)


class JobError(Exception):
    """Raised or returned by a handler that cannot do the job: the attempt ends.

    The outcome is Failed, unless another attempt follows.

    Args:
        code: Why; 1 to 64 characters of A-Z, 0-9 and _. With MODEL_NOT_AVAILABLE this node gets
            no further jobs that need `feature`, or of the job's language pair without a feature,
            for the setting `suspend_ms`.
        retryable: The job is tried again, at most three times, after a backoff and on another node
            if one is able.
        feature: The feature of the job whose model is missing, with MODEL_NOT_AVAILABLE. Empty if
            the node has no model for the language pair.
        retry_in_ms: The backoff before the next attempt, 0 to 10,000 ms, up to a quarter more; such
            a failure is retryable. None for the setting `retry_backoff_ms`.

    Raises InvalidMessage for a value beyond its limit.
    """

    def __init__(
        self,
        code: str,
        *,
        retryable: bool = False,
        feature: str = "",
        retry_in_ms: int | None = None,
    ) -> None:
        self.code = check_code("code", code)
        self.retryable = bool(retryable) or retry_in_ms is not None
        self.retry_in_ms = None if retry_in_ms is None else _check_backoff(retry_in_ms)
        self.feature = check_name("feature", feature) if feature else ""
        super().__init__(code)

    def __reduce__(self) -> tuple[Any, ...]:
        return _job_error, (self.code, self.retryable, self.feature, self.retry_in_ms)


def _job_error(code: str, retryable: bool, feature: str, retry_in_ms: int | None) -> JobError:
    return JobError(code, retryable=retryable, feature=feature, retry_in_ms=retry_in_ms)


def _check_backoff(retry_in_ms: int) -> int:
    if type(retry_in_ms) is not int or not 0 <= retry_in_ms <= RETRY_IN_MS_MAX:
        raise InvalidMessage.of(
            "retry_in_ms",
            f"a whole number from 0 to {RETRY_IN_MS_MAX:,} ms expected, got {retry_in_ms!r:.80}",
            "change it",
        )
    return retry_in_ms


def is_a(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether the exception is of one of the classes, whatever its attributes say."""
    return issubclass(type(error), kinds)


def outcome_of(error: BaseException) -> NoSpeechError | JobError | None:
    """The outcome that a handler raised; none if the exception is no outcome.

    Task groups raise exception groups: a group of nothing but outcomes counts as its first one.
    """
    if is_a(error, NoSpeechError, JobError):
        return cast("NoSpeechError | JobError", error)
    if not is_a(error, BaseExceptionGroup):
        return None
    error = cast("BaseExceptionGroup[BaseException]", error)
    outcomes = [outcome_of(inner) for inner in error.exceptions]
    return None if None in outcomes else outcomes[0]


def no_outcome(returned: Any) -> TypeError:
    """The error for a handler that returned a value of another type.

    The message has the type and not the value, because a log would show what was spoken.
    """
    kind = type(returned).__name__
    return TypeError(f"a handler returns a Result, NoSpeech or JobError, not {kind}")


_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
"""A whole number that a function counts exactly."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an assignment in a node's inbox, as lua/include/assign.lua writes it."""

    session: str
    utterance: int
    turn: int
    source: str
    target: str
    features: list[str] = []
    attempt: _Number
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
    finalized: _Number = 0
    """When the utterance was finalized, in ms of the cell's clock."""
    tp: str = ""
    key: str = ""
    """Id of the session's key; empty if the session is not encrypted."""


class Cancel(msgspec.Struct, frozen=True):
    """The data of a cancel in a node's inbox, as lua/include/attempts.lua writes it."""

    attempt: int
    reason: str


class _Reporter(Protocol):
    """The registration of a job, as the job sees it."""

    store: Store

    async def send_partial(self, key: str, attempt: int, body: bytes) -> None: ...

    async def extend(self, key: str, attempt: int, more_ms: int) -> int: ...


class _Facts:
    """The facts of an assignment, for both kinds of handlers."""

    def __init__(self, key: str, assignment: Assignment) -> None:
        a = assignment
        self.key = key
        """The job key."""
        self.attempt = a.attempt
        """Number of the attempt, from 1."""
        self.session = a.session
        """Full id of the session."""
        self.utterance = a.utterance
        """Index of the utterance in its session, from 0."""
        self.turn = a.turn
        """Number of the turn that the utterance belongs to."""
        self.source = a.source
        """Source language, or `auto`."""
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
        """Silence after the audio, in milliseconds, so that a recogniser detects the end."""
        self.priority = a.priority
        """0 interactive, 1 normal, 2 background."""
        self.traceparent = handler_traceparent(a.tp, key, a.attempt)
        """W3C trace context for the spans of the handler: the span `process` of this attempt, in
        the trace that the session was opened with; empty without one."""
        self.deadline_ms = a.deadline_ms
        """End of the lease in milliseconds of the cell's clock."""
        self.context: list[tuple[str, str | None]] = []
        """Earlier texts of the group, oldest first: (source text, translation or none)."""


class Job(_Facts):
    """One attempt to process an utterance into one target language, for asynchronous handlers."""

    def __init__(
        self, key: str, assignment: Assignment, context: bytes, reporter: _Reporter
    ) -> None:
        super().__init__(key, assignment)
        self._assignment = assignment
        self._reporter = reporter
        self._context_body = context
        self._cipher: SessionCipher | None = None
        self._lost: LeaseLost | None = None
        """Why the attempt is over. The handler may call on: no call reaches the server any more."""

    async def audio(self) -> bytes:
        """Read the audio of the utterance.

        Returns:
            PCM16 bytes at `sample_rate`, followed by `padding_ms` of silence; for Opus the packets,
            each preceded by its length as a big-endian 16-bit integer, without padding.

        Raises:
            JobError: AUDIO_INCOMPLETE (retryable) if chunks are missing; AUDIO_UNREADABLE if
                encrypted audio does not decrypt.
            ServerUnavailable: The server does not answer, or refuses, for some eight seconds.
        """
        payload = b"".join(await self._payloads())
        return payload + _silence(self) if self.encoding == "pcm16" else payload

    async def packets(self) -> list[bytes]:
        """Read the Opus packets of the utterance, in order; empty for another encoding.

        Raises:
            JobError: As for `audio`.
            ServerUnavailable: As for `audio`.
        """
        if self.encoding != "opus":
            return []
        return [packet for chunk in await self._payloads() for packet in split_opus(chunk)]

    async def _payloads(self) -> list[bytes]:
        a, chunks = self._assignment, await self._chunks()
        if len(chunks) != a.count or sum(len(chunk.body) for chunk in chunks) != a.bytes:
            raise JobError("AUDIO_INCOMPLETE", retryable=True)
        if self._cipher is None:
            return [chunk.body for chunk in chunks]
        return self._decrypt(self._cipher, chunks)

    async def _chunks(self) -> list[Event]:
        a, store = self._assignment, self._reporter.store
        key, low = store.keys.audio(name_of(a.session)), a.first
        chunks: list[Event] = []
        backoff = Backoff(store.transport)
        while True:
            read = partial(store.read_range, key, low, a.last, READ_COUNT)
            entries = await backoff.call(read)
            chunks += [codec.decode(entry_id, fields) for entry_id, fields in entries]
            if len(entries) < READ_COUNT or len(chunks) > a.count:
                return chunks
            low = f"({entries[-1][0]}"

    def _decrypt(self, cipher: SessionCipher, chunks: list[Event]) -> list[bytes]:
        """The payloads. A chunk decrypts with its own number only; none may be missing or emptied.

        An empty chunk is not encrypted, so it is accepted only where it takes nothing from the
        audio: before the first chunk with audio, and at the end, as `end_of_utterance` sends it.
        """
        numbers = [chunk.data.seq for chunk in chunks if isinstance(chunk.data, AudioChunkAppended)]
        sizes = [len(chunk.body) for chunk in chunks]
        first = next((at for at, size in enumerate(sizes) if size), 0)
        if numbers != list(range(numbers[0], numbers[0] + len(chunks))) or 0 in sizes[first:-1]:
            raise JobError("AUDIO_UNREADABLE")
        try:
            return [
                cipher.decrypt_chunk(seq, chunk.body)
                for seq, chunk in zip(numbers, chunks, strict=True)
            ]
        except DecryptionError as error:
            log.error("audio not decrypted", session=self.session, job=self.key, error=str(error))
            raise JobError("AUDIO_UNREADABLE") from error

    async def partial(self, text: str | None = None, *, source_text: str = "") -> None:
        """Send a partial result to the listeners at once; it is not stored.

        While the server is away, it is lost.

        Args:
            text: The translation so far, or none.
            source_text: The transcript so far.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        self._check_lease()
        body = Text(source_text=source_text, text=text)
        if self._cipher is not None:
            body = self._cipher.encrypt_text("partial", self.utterance, self.target, body)
        with self._lease_lost_once():
            await self._reporter.send_partial(self.key, self.attempt, codec.encode_text(body))

    async def extend(self, seconds: float) -> int:
        """Extend the lease to `seconds` from now, and never beyond 300 s after dispatch.

        Args:
            seconds: At least this long from now; a lease is never shortened.

        Returns:
            The end of the lease, in milliseconds of the cell's clock.

        Raises:
            LeaseLost: The attempt is no longer the current one.
        """
        self._check_lease()
        more_ms = max(1, min(round(seconds * 1_000), EXTEND_S_MAX * 1_000))
        with self._lease_lost_once():
            self.deadline_ms = await self._reporter.extend(self.key, self.attempt, more_ms)
        return self.deadline_ms

    def _check_lease(self) -> None:
        if self._lost is not None:
            raise copy(self._lost)

    @contextmanager
    def _lease_lost_once(self) -> Iterator[None]:
        """Remember that the attempt is over, so that no further call asks the server."""
        try:
            yield
        except LeaseLost as error:
            self._lost = error
            raise


class Calls(Protocol):
    """The calls of a blocking job that reach the server through the node."""

    def partial(self, text: str | None, source_text: str) -> None: ...

    def extend(self, seconds: float) -> int: ...


class _CallsOfThread:
    """The calls of a job whose handler runs in a thread of the node."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def partial(self, text: str | None, source_text: str) -> None:
        anyio.from_thread.run(lambda: self._job.partial(text, source_text=source_text))

    def extend(self, seconds: float) -> int:
        return anyio.from_thread.run(self._job.extend, seconds)


class BlockingJob(_Facts):
    """One attempt for a plain function in a thread or process; its audio is in memory."""

    def __init__(self, job: Job, payloads: list[bytes]) -> None:
        self.__dict__.update({name: value for name, value in vars(job).items() if name[0] != "_"})
        self._calls: Calls | None = _CallsOfThread(job)
        self._payloads = payloads
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether the attempt is over, so that the handler should stop. Always false in a process,
        because the process is killed instead."""
        return self._is_cancelled

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
            RuntimeError: The job was copied to a process that the handler has started.
        """
        self._calls_of_node().partial(text, source_text)

    def extend(self, seconds: float) -> int:
        """Extend the lease, as `Job.extend`; returns its end in milliseconds.

        Raises:
            LeaseLost: The attempt is no longer the current one.
            RuntimeError: The job was copied to a process that the handler has started.
        """
        self.deadline_ms = self._calls_of_node().extend(seconds)
        return self.deadline_ms

    def _calls_of_node(self) -> Calls:
        if self._calls is None:
            raise RuntimeError("a copy of a job in another process cannot send: use the handler's")
        return self._calls

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_calls": None}


# --- for the registration and the executor ------------------------------------------------------


async def prepare(job: Job, keys: KeyStore | None) -> None:
    """Decrypt the context of a job, and let it decrypt its audio. Call it before the handler.

    Raises JobError: KEY_MISSING (retryable: another node may have the key); AUDIO_UNREADABLE if the
    assignment says that the session is not encrypted, although it has a key.
    """
    key_id = job._assignment.key
    try:
        if key_id:
            job._cipher = await load_cipher(keys, job.session, key_id)
        elif await has_key(keys, job.session):
            log.error("not encrypted, although the session has a key", **_names_of(job))
            raise JobError("AUDIO_UNREADABLE")
    except (KeyMissing, KeyStoreError, MissingDependencyError) as error:
        log.error("no key", **_names_of(job), error=str(error))
        raise JobError("KEY_MISSING", retryable=True) from error
    job.context = context_of(job._context_body, job._cipher, job.target)


def _names_of(job: Job) -> dict[str, str]:
    return {"session": job.session, "job": job.key}


async def load_audio(job: Job) -> BlockingJob:
    """The same attempt for a blocking handler, with its audio in memory. Raises as `Job.audio`."""
    return BlockingJob(job, await job._payloads())


def connect_calls(job: BlockingJob, calls: Calls) -> None:
    """Let a job that was copied to this process reach the server."""
    job._calls = calls


def is_encrypted(job: Job) -> bool:
    """Whether the session of the job is encrypted."""
    return bool(job._assignment.key) or job._cipher is not None


def mark_cancelled(job: BlockingJob) -> None:
    """Tell a handler in a thread that its attempt is over."""
    job._is_cancelled = True


def encode_result_of(job: Job, result: Result) -> tuple[bytes, bytes]:
    """Text and audio of a result as they are stored. Raises InvalidMessage."""
    return encode_result(result, job._cipher, job.utterance, job.target)


def _silence(job: _Facts) -> bytes:
    return bytes(pcm_bytes(job.padding_ms, job.sample_rate) // SAMPLE_BYTES * SAMPLE_BYTES)


def context_of(
    body: bytes, cipher: SessionCipher | None, target: str
) -> list[tuple[str, str | None]]:
    """The context in the body of an assignment, without parts that cannot be decrypted or read.

    In an encrypted session a part that is not encrypted is left out as well. A body that cannot be
    decoded is no context.
    """
    try:
        parts = _CONTEXT.decode(check_msgpack(body)) if body else []
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("context not readable", error=str(error))
        return []
    texts: list[tuple[str, str | None]] = []
    for part in parts:
        if not part.encrypted and cipher is None:
            texts.append((part.source_text, part.text))
        elif not part.encrypted and cipher is not None:
            error_text = str(not_encrypted(cipher.session))
            log.error("context not readable", session=cipher.session, error=error_text)
        elif cipher is not None:
            encrypted = Text(encrypted=part.encrypted, characters=part.characters)
            try:
                text = cipher.decrypt_text("result", part.utterance, target, encrypted)
            except (DecryptionError, codec.UnreadableText) as error:
                log.error("context not readable", session=cipher.session, error=str(error))
            else:
                texts.append((text.source_text, text.text))
    return texts
