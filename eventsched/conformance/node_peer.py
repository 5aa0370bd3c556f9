"""The gateway's side of one registration, and the rules of a node.

Owns: the attempts, their audio, heartbeats, the checks of what a node reports.
Never does: decide what happens; node_scenarios.py does. Read next: node_scenarios.py.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from eventsched.conformance.peer import Listener, PeerSocket
from eventsched.conformance.rules import Violation, check
from eventsched.gateway.frames import Close, FrameDecoder
from eventsched.gateway.node_frames import (
    AUDIO_SLICE_BYTES,
    AudioRequest,
    Cancel,
    Drain,
    Drained,
    FailReport,
    Heartbeat,
    HeartbeatReply,
    JobFrame,
    NodeFrame,
    NoSpeechReport,
    Recorded,
    Register,
    Registered,
    ResultReport,
    audio_frames,
)

NAME = "conformance"
NODE = f"c0.{NAME}"
HEARTBEAT_MS = 500
AttemptId = tuple[str, int]
_DECODER: FrameDecoder[NodeFrame] = FrameDecoder(NodeFrame)


class PeerAttempt:
    """One attempt that was sent to the node."""

    def __init__(
        self, number: int, attempt: int = 1, size: int = 3 * AUDIO_SLICE_BYTES + 6
    ) -> None:
        self.job = f"acme:c0.5e551011:{number}:translation:es:none"
        self.utterance = number
        self.attempt = attempt
        self.audio = bytes([number + 1]) * size
        self.reports = 0
        self.is_recorded = False
        self.is_lost = False
        self.has_audio = False

    @property
    def id(self) -> AttemptId:
        return self.job, self.attempt


class NodePeer:
    """One registration, over all of its connections."""

    def __init__(self, listener: Listener, drain: Callable[[], None]) -> None:
        self.listener = listener
        self.within_s = listener.within_s
        self.terminate = drain
        """Sends SIGTERM to the program."""
        self.socket: PeerSocket[NodeFrame]
        self.attempts: dict[AttemptId, PeerAttempt] = {}
        self.heartbeats: list[tuple[float, set[AttemptId]]] = []
        """Time and held attempts of each heartbeat of this connection."""
        self.lost: list[str] = []
        """Job keys that the next heartbeats name as lost."""
        self.token = ""
        self.held: set[AttemptId] = set()
        """Attempts that the latest `register` named."""
        self._ref = 0
        self._is_draining = False
        self._speech_of: ResultReport | None = None

    # --- connections ------------------------------------------------------------------------

    async def register(self, *, rule: str = "RECONNECT", epoch: int = 1) -> None:
        """Accept a connection, and register the node."""
        await self.accept(rule)
        await self.socket.send(Registered(node=NODE, epoch=epoch, heartbeat_ms=HEARTBEAT_MS))

    async def accept(self, rule: str = "RECONNECT") -> None:
        """Accept a connection with its `register`."""
        self.socket = PeerSocket(await self.listener.accept(rule), _DECODER, self.within_s)
        frame = await self.socket.receive()
        check(isinstance(frame, Register), "FIRST_FRAME", f"{_name(frame)} instead of register")
        assert isinstance(frame, Register)
        wanted = (NAME, ["en"], ["es"], 4)
        found = (frame.name, frame.sources, frame.targets, frame.slots)
        check(found == wanted, "FRAMES", f"register has {found} instead of {wanted}")
        is_same = self.token in ("", frame.registration_token)
        check(is_same, "REGISTRATION_TOKEN", "another registration token than before")
        self.token = frame.registration_token
        self.held = {(each.job, each.attempt) for each in frame.held}
        unknown = self.held - {each.id for each in self.attempts.values() if not each.is_recorded}
        check(not unknown, "HELD", f"held names {sorted(unknown)}, which the node does not have")
        partly = self.held & {each.id for each in self.attempts.values() if not each.has_audio}
        check(not partly, "HELD", f"held names {sorted(partly)}, whose audio is not complete")
        self.heartbeats = []
        self._speech_of = None

    async def send_job(self, attempt: PeerAttempt, *, audio: bool = True) -> None:
        """Send an attempt; without `audio`, all of its audio but the last frame."""
        self.attempts[attempt.id] = attempt
        self._ref += 1
        await self.socket.send(
            JobFrame(
                job=attempt.job,
                attempt=attempt.attempt,
                ref=self._ref,
                session="c0.5e551011",
                utterance=attempt.utterance,
                turn=0,
                source="en",
                target="es",
                features=[],
                encoding="pcm16",
                sample_rate=16_000,
                ms=len(attempt.audio) // 32,
                padding_ms=0,
                priority=1,
                traceparent="",
                deadline_ms=1_700_000_060_000,
                context=[],
            )
        )
        frames = list(audio_frames(self._ref, attempt.audio))
        for frame in frames if audio else frames[:-1]:
            await self.socket.send_bytes(frame)
        attempt.has_audio = audio

    async def send_last_audio(self, attempt: PeerAttempt, ref: int) -> None:
        """Send the frame that `send_job` left out."""
        attempt.has_audio = True
        await self.socket.send_bytes(list(audio_frames(ref, attempt.audio))[-1])

    @property
    def ref(self) -> int:
        """Reference of the latest job."""
        return self._ref

    # --- what the node sends ----------------------------------------------------------------

    async def receive(self) -> NodeFrame | None:
        """Receive and check one frame; answer heartbeats; return any other text frame."""
        received = await self.socket.receive()
        if isinstance(received, bytes):
            check(self._speech_of is not None, "FRAMES", "a binary frame without `audio: true`")
            report, self._speech_of = self._speech_of, None
            return report
        check(self._speech_of is None, "FRAMES", "no binary frame after `audio: true`")
        if isinstance(received, Register):
            raise Violation("FIRST_FRAME", "a second register")
        if isinstance(received, Heartbeat):
            await self._on_heartbeat(received)
            return None
        if isinstance(received, ResultReport | NoSpeechReport | FailReport):
            self._on_report(received)
            if isinstance(received, ResultReport) and received.audio:
                self._speech_of = received
                return None
        if isinstance(received, AudioRequest):
            raise Violation("FRAMES", "`audio` is for nodes that registered with lazy_audio")
        if isinstance(received, Drain):
            self._is_draining = True
        return received

    async def _on_heartbeat(self, frame: Heartbeat) -> None:
        held = {(each.job, each.attempt) for each in frame.held}
        self.heartbeats.append((monotonic(), held))
        await self.socket.send(HeartbeatReply(lost=self.lost))

    def _on_report(self, report: ResultReport | NoSpeechReport | FailReport) -> None:
        attempt = self.attempts.get((report.job, report.attempt))
        check(attempt is not None, "ONE_OUTCOME", f"an outcome of {report.job}, which was not sent")
        assert attempt is not None
        check(
            not attempt.is_lost, "CANCEL", f"an outcome of {attempt.job}, which is not the node's"
        )
        check(attempt.has_audio, "JOB_AUDIO", "an outcome before the audio is complete")
        attempt.reports += 1
        check(attempt.reports == 1, "ONE_OUTCOME", f"{attempt.reports} outcomes of {attempt.job}")
        size = str(len(attempt.audio))
        text = report.text if isinstance(report, ResultReport) else _name(report)
        check(text == size, "JOB_AUDIO", f"{text!r} instead of {size!r}, the bytes of the audio")

    async def until_reported(self, attempt: PeerAttempt, rule: str = "PACE") -> None:
        """Receive until the outcome of the attempt arrives. Raises Violation: `rule` if none."""
        deadline = monotonic() + self.within_s
        while not attempt.reports:
            late = f"no outcome of {attempt.job} within {self.within_s:.0f} s"
            check(monotonic() < deadline, rule, late)
            await self.receive()

    async def record(self, attempt: PeerAttempt) -> None:
        """Say that the outcome is stored."""
        attempt.is_recorded = True
        await self.socket.send(Recorded(job=attempt.job, attempt=attempt.attempt))

    async def serve_job(self, attempt: PeerAttempt) -> None:
        """Let the node do a job, and record its result."""
        await self.send_job(attempt)
        await self.until_reported(attempt)
        await self.record(attempt)

    async def cancel(self, attempt: PeerAttempt) -> None:
        attempt.is_lost = True
        reason = "closing"
        await self.socket.send(Cancel(job=attempt.job, attempt=attempt.attempt, reason=reason))

    async def until_heartbeats(self, count: int) -> None:
        """Receive until the node has sent so many further heartbeats."""
        wanted = len(self.heartbeats) + count
        deadline = monotonic() + self.within_s
        while len(self.heartbeats) < wanted:
            late = f"{len(self.heartbeats)} heartbeats within {self.within_s:.0f} s"
            check(monotonic() < deadline, "HEARTBEAT", late)
            try:
                await self.receive()
            except Violation as violation:
                if violation.rule == "PACE":
                    raise Violation("HEARTBEAT", violation.detail) from None
                raise

    # --- the end ----------------------------------------------------------------------------

    async def until_drain(self) -> None:
        """End the program, and receive until `drain`."""
        self.terminate()
        deadline = monotonic() + self.within_s
        while not self._is_draining:
            check(
                monotonic() < deadline, "DRAIN", f"no drain within {self.within_s:.0f} s of SIGTERM"
            )
            await self.receive()

    async def finish(self) -> None:
        """Drain the node."""
        if not self._is_draining:
            await self.until_drain()
        await self.socket.send(Drained())
        await self.socket.end(Close.DONE)


def _name(frame: NodeFrame | bytes) -> str:
    return "a binary frame" if isinstance(frame, bytes) else str(frame.__struct_config__.tag)
