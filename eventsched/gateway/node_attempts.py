"""The attempts that run at a node behind a socket.

Owns: the attempt of each job, sending it to the node with its audio, checking its outcome.
Never does: read the connection, keep leases. Read next: node_socket.py, node/registration.py.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import Any

import anyio

from eventsched.client.results import NoSpeech, Result
from eventsched.errors import (
    EventschedError,
    InvalidMessage,
    LeaseLost,
    Refused,
    ServerUnavailable,
)
from eventsched.gateway.frames import error_frame
from eventsched.gateway.node_frames import (
    Cancel,
    FailReport,
    NoSpeechReport,
    Recorded,
    ResultReport,
    audio_frames,
    job_frame,
)
from eventsched.gateway.socket import Disconnected, FrameSocket
from eventsched.node.executor import HANDLER_ERROR, result_of
from eventsched.node.heartbeat import AttemptId
from eventsched.node.job import Job, JobError

START_S = 10.0
"""How long a frame about a held attempt waits until the gateway has found the attempt."""
Report = ResultReport | NoSpeechReport | FailReport


class RunningAttempt:
    """One attempt that the node runs."""

    def __init__(self, job: Job, ref: int) -> None:
        self.job = job
        self.ref = ref
        self.outcome: Any = None
        self.ended = anyio.Event()


class NodeAttempts:
    """The attempts of one connection.

    Args:
        socket: The connection.
        held: Attempts that the node already runs: their `job` frames are not sent again.
        lazy_audio: Audio is sent when the node requests it.
    """

    def __init__(
        self, socket: FrameSocket, held: Collection[AttemptId], *, lazy_audio: bool
    ) -> None:
        self._socket = socket
        self._held = set(held)
        self._found = {attempt: anyio.Event() for attempt in self._held}
        """Set for a held attempt once it runs here. The node may be faster."""
        self._early: dict[AttemptId, tuple[Report, bytes | None]] = {}
        """Outcomes of held attempts that do not run here yet."""
        self._lazy_audio = lazy_audio
        self._running: dict[AttemptId, RunningAttempt] = {}
        self._refs = count(1)
        self._audio_turn = anyio.Lock()
        """One audio is sent at a time: a node that reads slowly costs the memory of one audio."""

    async def run(self, job: Job) -> Any:
        """Let the node run an attempt, and return its outcome."""
        attempt = RunningAttempt(job, next(self._refs))
        key = (job.key, job.attempt)
        self._running[key] = attempt
        if key in self._found:
            self._found[key].set()
        try:
            if key in self._early:
                await self._end_early(*self._early.pop(key))
            if key not in self._held:
                await self._socket.send(job_frame(job, attempt.ref))
                if not self._lazy_audio:
                    await self.send_audio(attempt)
            await attempt.ended.wait()
        except Disconnected:
            # The attempt belongs to the node, not to the connection: report nothing. The end of
            # the connection cancels this call.
            await anyio.sleep_forever()
        except JobError as error:  # the audio cannot be read
            await self._cancel(job, error.code)
            raise
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._cancel(job, "cancelled")
            raise
        finally:
            del self._running[key]
        return attempt.outcome

    async def _end_early(self, report: Report, audio: bytes | None) -> None:
        try:
            self.end(report, audio)
        except EventschedError as error:
            await self._socket.send(error_frame(error, job=report.job, attempt=report.attempt))

    async def _cancel(self, job: Job, reason: str) -> None:
        try:
            await self._socket.send(Cancel(job=job.key, attempt=job.attempt, reason=reason))
        except Disconnected:
            return  # the reply to the next registration of the node has the same

    async def send_audio(self, attempt: RunningAttempt) -> None:
        """Send the audio of an attempt. Raises JobError, ServerUnavailable, Disconnected."""
        async with self._audio_turn:
            for frame in audio_frames(attempt.ref, await attempt.job.audio()):
                await self._socket.send_bytes(frame)

    async def wait_found(self, job: str, number: int) -> RunningAttempt:
        """Return a running attempt; wait for one that the node holds. Raises LeaseLost."""
        if (job, number) in self._found:
            with anyio.move_on_after(START_S):
                await self._found[job, number].wait()
        return self.find(job, number)

    def find(self, job: str, number: int) -> RunningAttempt:
        """Return a running attempt. Raises LeaseLost."""
        attempt = self._running.get((job, number))
        if attempt is None or attempt.ended.is_set():
            raise LeaseLost("LEASE_LOST", {"job": job, "attempt": str(number)})
        return attempt

    def end(self, report: Report, audio: bytes | None = None) -> None:
        """End an attempt with its outcome. Raises LeaseLost, InvalidMessage."""
        key = (report.job, report.attempt)
        if key in self._found and not self._found[key].is_set():
            self._early[key] = report, audio
            return
        attempt = self.find(*key)
        outcome = _outcome(report, audio)
        result_of(attempt.job, outcome)  # raises InvalidMessage, which the node gets
        attempt.outcome = outcome
        attempt.ended.set()

    async def on_reported(self, job: Job, error: Refused | ServerUnavailable | None) -> None:
        """Send the node whether the result of an attempt is stored."""
        is_stored = error is None or (
            isinstance(error, Refused) and error.code == "DUPLICATE_RESULT"
        )
        if is_stored:
            await self._socket.send(Recorded(job=job.key, attempt=job.attempt))
        elif error is not None:
            await self._socket.send(error_frame(error, job=job.key, attempt=job.attempt))
            if isinstance(error, InvalidMessage):  # the attempt has ended with a failure
                await self._cancel(job, HANDLER_ERROR)


def _outcome(report: Report, audio: bytes | None) -> Result | NoSpeech | JobError:
    """Return the outcome that a handler would return. Raises InvalidMessage."""
    if isinstance(report, NoSpeechReport):
        return NoSpeech(code=report.code)
    if isinstance(report, FailReport):
        return JobError(
            report.code,
            retryable=report.retryable,
            feature=report.feature,
            retry_in_ms=report.retry_in_ms,
        )
    if report.audio and not audio:
        raise InvalidMessage.of("audio", "speech expected, got none", "leave `audio` out")
    return Result(
        text=report.text,
        source_text=report.source_text,
        language=report.language,
        audio=audio,
    )
