"""Tests of a node's handler and of a read model, without a server.

    from eventsched import testing

    async def test_a_greeting_is_translated() -> None:
        job = testing.job(audio=eventsched.read_wav("hello.wav"), target="es")
        outcome = await testing.run_handler(node, job)
        assert outcome.text == "hola"
        assert job.partials == [("ho", "")]

Owns: jobs with audio and context that a test gives, and running a handler as its node does.
Must not: connect to a server.
Read next: folding.py (read models), docs/testing.md, node/executor.py (how a node runs a handler).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from eventsched.audio.chunks import Format, join_opus, opus_ms, pcm_ms, split_opus
from eventsched.client.results import NoSpeech, Result
from eventsched.errors import InvalidMessage, LeaseLost
from eventsched.node.executor import BLANK, result_of, runner
from eventsched.node.hooks import Hooks
from eventsched.node.job import EXTEND_S_MAX, Assignment, Job, JobError, NoSpeechError, outcome_of
from eventsched.node.node import Node
from eventsched.testing.folding import event, fold

__all__ = ["Outcome", "RecordedJob", "event", "fold", "job", "run_handler", "running_handler"]

Outcome: TypeAlias = Result | NoSpeech | JobError
"""What a node reports for a job."""
LEASE_MS = 30_000
SESSION = "c0.test"


class RecordedJob(Job):
    """A job of a test: it records what its handler sends. Made by `job`."""

    partials: list[tuple[str | None, str]]
    """(text, source text) of each partial result, in order."""
    extended_s: list[float]
    """Seconds of each extension of the lease, in order."""

    def __init__(self, assignment: Assignment, payload: bytes) -> None:
        key = f"test:{SESSION}:{assignment.utterance}:translation:{assignment.target}:none"
        super().__init__(key, assignment, b"", _NoReporter())
        self._payload = payload
        self.partials = []
        self.extended_s = []

    def lose_lease(self) -> None:
        """Let every further call of the job raise LeaseLost, as after its lease has ended."""
        self._lost = LeaseLost("LEASE_LOST", {"job": self.key})

    async def partial(self, text: str | None = None, *, source_text: str = "") -> None:
        """Record a partial result; see `Job.partial`."""
        self._check_lease()
        self.partials.append((text, source_text))

    async def extend(self, seconds: float) -> int:
        """Record an extension of the lease; see `Job.extend`."""
        self._check_lease()
        self.extended_s.append(seconds)
        more_ms = round(min(seconds, EXTEND_S_MAX) * 1_000)
        self.deadline_ms = max(self.deadline_ms, more_ms)
        return self.deadline_ms

    async def _payloads(self) -> list[bytes]:
        return [self._payload]


def job(
    *,
    audio: bytes | Sequence[bytes] = b"",
    context: Sequence[tuple[str, str | None]] = (),
    source: str = "en",
    target: str = "es",
    features: Sequence[str] = (),
    encoding: Format = "pcm16",
    sample_rate: int = 16_000,
    padding_ms: int = 0,
    utterance: int = 0,
    turn: int = 0,
    attempt: int = 1,
    priority: int = 1,
) -> RecordedJob:
    """Return a job for a handler, with the facts that a test gives.

    Args:
        audio: PCM16 bytes, or for Opus a list of packets or bytes as `Session.append` takes them.
        context: Earlier texts of the group, oldest first: (source text, translation or none).
        source: Source language.
        target: Language to produce.
        features: Features that the session asks for.
        encoding: `pcm16` or `opus`.
        sample_rate: Sample rate in Hz.
        padding_ms: Silence that follows the audio.
        utterance: Index of the utterance.
        turn: Number of the turn.
        attempt: Number of the attempt, from 1.
        priority: 0 interactive, 1 normal, 2 background.

    Raises:
        InvalidMessage: The audio is not of the encoding.
    """
    payload, ms = _payload_of(audio, encoding, sample_rate)
    assignment = Assignment(
        session=SESSION,
        utterance=utterance,
        turn=turn,
        source=source,
        target=target,
        features=list(features),
        attempt=attempt,
        epoch=1,
        encoding=encoding,
        sample_rate=sample_rate,
        first="1-1",
        last="1-1",
        count=1,
        bytes=len(payload),
        ms=ms,
        padding_ms=padding_ms,
        deadline_ms=LEASE_MS,
        priority=priority,
    )
    recorded = RecordedJob(assignment, payload)
    recorded.context = list(context)
    return recorded


Run: TypeAlias = Callable[[RecordedJob], Coroutine[Any, Any, Outcome]]


async def run_handler(node: Node | Callable[..., Any], job: RecordedJob) -> Outcome:
    """Run the handler of a node for a job, and return what the node would report.

    The handler runs as in the node: in the event loop, in a thread, in a process, or for a batch of
    this job alone, between the hooks of the node.

    Args:
        node: The node, or a handler.
        job: The job, made by `job`.

    Returns:
        A Result, a NoSpeech (also for a blank Result), or a JobError that it raised or returned.

    Raises:
        TypeError: The handler returned another value.
        InvalidMessage: The result is too large, the node has no handler, or it could never run.
        Exception: What the handler raised; a node would report HANDLER_ERROR.
    """
    async with running_handler(node) as run:
        return await run(job)


@asynccontextmanager
async def running_handler(node: Node | Callable[..., Any]) -> AsyncIterator[Run]:
    """Yield a function that runs the handler for a job, several times between the hooks.

    Args:
        node: The node, or a handler.
    """
    async with _block_of(node) as inner:

        async def run(job: RecordedJob) -> Outcome:
            try:
                returned = await inner(job)
            except Exception as error:
                outcome = outcome_of(error)
                if outcome is None:
                    raise
                returned = outcome
            return _reported(job, returned)

        yield run


def _block_of(node: Node | Callable[..., Any]) -> Any:
    if not isinstance(node, Node):
        return runner(node, slots=1, processes=False)(Hooks())
    if node._runner is None:
        raise InvalidMessage.of("node", f"{node.name} has no handler", "declare one with @node.job")
    # A test of one job loads one process, not one for each slot.
    return node._runner(node._hooks._replace(before_jobs=False))


def _reported(job: RecordedJob, returned: Any) -> Outcome:
    """Return what a node reports for a value that a handler returned or raised."""
    if isinstance(returned, NoSpeechError):
        return NoSpeech(code=returned.code)
    if isinstance(returned, Result) and returned.is_blank:
        return NoSpeech(code=BLANK)
    result_of(job, returned)  # raises if a node could not report it
    outcome: Outcome = returned
    return outcome


def _payload_of(
    audio: bytes | Sequence[bytes], encoding: Format, sample_rate: int
) -> tuple[bytes, int]:
    """Return the payload and its duration in ms."""
    if encoding == "opus":
        packets = split_opus(audio) if isinstance(audio, bytes) else list(audio)
        return join_opus(packets), opus_ms(packets)
    if not isinstance(audio, bytes):
        raise InvalidMessage.of("audio", "bytes of PCM16 expected", "pass bytes, not a list")
    return audio, pcm_ms(len(audio), sample_rate)


class _NoReporter:
    """The registration of a job of a test, which has none."""

    store: Any = None

    async def send_partial(self, key: str, attempt: int, body: bytes) -> None:
        raise AssertionError("RecordedJob.partial sends nothing")

    async def extend(self, key: str, attempt: int, more_ms: int) -> int:
        raise AssertionError("RecordedJob.extend sends nothing")
