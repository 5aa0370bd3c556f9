"""The audio of one producer: from its binary frames to the session, and its acknowledgements.

Owns: the numbers of chunks, the credit, the order of audio and requests, the retries while the
server refuses audio, the times at which an `ack` is sent.
Never does: read the connection. Read next: producer_socket.py, client/session.py.

The number of a chunk on the wire is its number in the session. A chunk is acknowledged once the
server has stored it. Audio that is received and not acknowledged is at most the credit, so the
memory of a connection is bounded, whatever its client sends.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections import deque
from typing import TypeAlias

import anyio

from eventsched.audio.chunks import CHUNK_MS_MIN, AudioChunk, one_chunk
from eventsched.client.channel import APPEND_BYTES_MAX, APPEND_ITEMS_MAX
from eventsched.client.results import Result
from eventsched.client.session import Session
from eventsched.errors import (
    Backpressure,
    EventschedError,
    InvalidMessage,
    Refused,
    SeqGap,
    ServerUnavailable,
    SessionClosedError,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.gateway.frames import Close, Error, error_frame
from eventsched.gateway.session_frames import (
    ACK_MS,
    CREDIT_BYTES,
    CREDIT_CHUNKS,
    Ack,
    BackpressureFrame,
    CloseSession,
    Finalize,
    PlaybackEnded,
    PlaybackStarted,
    split_chunk,
)
from eventsched.gateway.socket import Ended, FrameSocket
from eventsched.gateway.speech_chunks import CHUNK_MS_MAX, SpeechChunks
from eventsched.schema.validation import check_traceparent

AWAY_S = 0.5
"""Pause between two tries while the server is unavailable; each try itself takes some seconds."""
DETECTED_MAX = 8
"""Chunks that the detector processes at once; then the other sessions of the tenant have a turn."""
REQUESTS_MAX = 64
"""Requests that wait beside the audio."""
_ANY_ID = "0-1"
"""Id of the result of a playback: only its session, target and utterance count."""

Request: TypeAlias = Finalize | PlaybackStarted | PlaybackEnded | CloseSession


class AudioIntake:
    """Receives the chunks and requests of one connection and applies them in order."""

    def __init__(
        self, socket: FrameSocket, session: Session, *, has_endpointing: bool = False
    ) -> None:
        self._socket = socket
        self._session = session
        self._queue: deque[AudioChunk | Request] = deque()
        self._undetected: deque[AudioChunk | Request] | None = deque() if has_endpointing else None
        """Chunks and requests that the detector has not processed; none without endpointing."""
        self._last: AudioChunk | Request | None = None
        """The chunk or request that was received last."""
        self._next = self._stored = self._acked = session.next_seq
        self._sizes: deque[int] = deque()
        """Bytes of each chunk that is received and not stored."""
        self._bytes = 0
        """Bytes of the chunks that are received and not acknowledged."""
        self._stored_bytes = 0
        """Bytes of the chunks that are stored and not acknowledged."""
        self._has_gap = False
        """SEQ_GAP was sent: later chunks are dropped until the chunk `_next` arrives."""
        self._arrived = asyncio.Event()
        self._audio_arrived = asyncio.Event() if has_endpointing else self._arrived
        self._ack_due = asyncio.Event()
        self._ack_timer: TimerHandle | None = None
        """Sets `_ack_due`; none while no acknowledgement is wanted."""
        self._is_refused = False
        """The server refuses audio for now: no acknowledgement is sent."""
        self._is_closed = False
        """The session is closed; further audio is dropped."""

    # --- receiving --------------------------------------------------------------------------

    def accept_chunk(self, frame: bytes) -> bool:
        """Receive a binary frame if nothing has to be sent about it; return whether it was."""
        try:
            number, payload = split_chunk(frame)
            if number != self._next or self._exceeds_credit(payload):
                return False
            chunk = self._check(payload)
        except EventschedError:
            return False
        self._add(chunk)
        return True

    async def receive_chunk(self, frame: bytes) -> None:
        """Receive a binary frame, and send what has to be sent about it.

        Raises:
            InvalidMessage: The chunk is malformed; its number is still expected.
            ChunkTooLarge: As InvalidMessage.
            Ended: The credit is exceeded.
        """
        number, payload = split_chunk(frame)
        if number > self._next:
            if not self._has_gap:
                self._has_gap = True
                await self._socket.send(_gap(self._next))
            return
        if number < self._next:
            self._want_ack()
            return
        chunk = self._check(payload)
        if self._exceeds_credit(payload):
            raise _exceeded(f"{CREDIT_CHUNKS} chunks and {CREDIT_BYTES:,} bytes")
        self._add(chunk)

    def _exceeds_credit(self, payload: bytes) -> bool:
        is_over = self._bytes + len(payload) > CREDIT_BYTES
        return is_over or self._next - self._acked == CREDIT_CHUNKS

    def _add(self, chunk: AudioChunk) -> None:
        """The chunk is the next one."""
        size = len(chunk.payload)
        self._sizes.append(size)
        self._bytes += size
        self._next += 1
        self._has_gap = False
        self._enqueue(chunk)

    def _check(self, payload: bytes) -> AudioChunk:
        """Return the chunk. One below 20 ms is accepted as the last one of an utterance only."""
        last = self._last
        if isinstance(last, AudioChunk) and last.ms < CHUNK_MS_MIN:
            raise InvalidMessage.of(
                "chunk",
                f"chunk {self._next - 1} has less than {CHUNK_MS_MIN} ms",
                "send finalize after a short chunk, or longer chunks",
            )
        if not payload:
            raise InvalidMessage.of("chunk", "audio expected, got none", "send finalize instead")
        session = self._session
        chunk = one_chunk(payload, session.encoding, session.sample_rate, end_of_utterance=True)
        if self._undetected is not None and chunk.ms > CHUNK_MS_MAX:
            raise InvalidMessage.of(
                "chunk",
                f"at most {CHUNK_MS_MAX} ms with endpointing, got {chunk.ms}",
                "send shorter chunks",
            )
        return chunk

    def put(self, request: Request) -> None:
        """Receive a request, which takes effect after the audio before it.

        Raises InvalidMessage if it is malformed, Ended if too many wait.
        """
        if isinstance(request, Finalize):  # the frame's pattern also permits a newline at the end
            check_traceparent("traceparent", request.traceparent)
        waiting = len(self._queue) + len(self._undetected or ())
        if waiting >= CREDIT_CHUNKS + REQUESTS_MAX:
            raise _exceeded(f"{REQUESTS_MAX} requests that wait")
        self._enqueue(request)

    def _enqueue(self, item: AudioChunk | Request) -> None:
        self._last = item
        if self._undetected is None:
            self._queue.append(item)
            self._arrived.set()
        else:
            self._undetected.append(item)
            self._audio_arrived.set()

    # --- endpointing ------------------------------------------------------------------------

    async def find_utterances(self, speech: SpeechChunks) -> None:
        """Find the ends of utterances in the chunks that arrive, until cancelled."""
        waiting = self._undetected
        assert waiting is not None
        while True:
            self._audio_arrived.clear()
            if not waiting:
                await self._audio_arrived.wait()
                continue
            chunks: list[AudioChunk] = []
            while (
                len(chunks) < DETECTED_MAX
                and waiting
                and isinstance(item := waiting[0], AudioChunk)
            ):
                chunks.append(item)
                waiting.popleft()
            if chunks:
                self._queue.extend(await speech.feed(chunks))
            else:
                await self._pass_request(waiting.popleft(), speech)
            self._arrived.set()

    async def _pass_request(self, request: AudioChunk | Request, speech: SpeechChunks) -> None:
        """Move a request to the queue, after the audio before it."""
        if isinstance(request, Finalize | CloseSession):
            self._queue.extend(await speech.finish())
        is_last = bool(self._queue) and isinstance(self._queue[-1], Finalize)
        if isinstance(request, Finalize) and is_last:
            self._queue[-1] = request  # it may have a traceparent
        else:
            self._queue.append(request)

    # --- applying ---------------------------------------------------------------------------

    async def append(self) -> None:
        """Apply chunks and requests in order, until cancelled. Raises Ended."""
        while True:
            self._arrived.clear()
            if not self._has_work():
                await self._arrived.wait()
                continue
            try:
                await self._apply_first()
                self._is_refused = False
            except Backpressure as refused:
                await self._pause(refused)
            except ServerUnavailable:
                await anyio.sleep(AWAY_S)
            except SessionClosedError as error:
                await self._on_closed(error)
            except SessionSuperseded as error:
                raise Ended(Close.SUPERSEDED, error_frame(error, fatal=True)) from None
            except SessionUnknown as error:
                raise Ended(Close.GONE, error_frame(error, fatal=True)) from None
            except SeqGap as error:  # the server has lost chunks that nobody can send again
                raise Ended(Close.RESTART, error_frame(error, fatal=True)) from None

    def _has_work(self) -> bool:
        """Whether there is work. A short chunk waits for the request that follows it."""
        if self._session.stored_seq < self._session.next_seq:
            return True
        if len(self._queue) != 1:
            return bool(self._queue)
        return not _is_short(self._queue[0])

    async def _apply_first(self) -> None:
        if self._session.stored_seq < self._session.next_seq:
            await self._session.append_chunks([])
            self._want_ack()
        first = self._queue[0] if self._queue else None
        if isinstance(first, AudioChunk):
            await self._append_chunks()
        elif first is not None:
            await self._apply(first)
            self._queue.popleft()

    async def _append_chunks(self) -> None:
        """Append the chunks at the head of the queue, with the end of the utterance after them."""
        chunks, following = self._first_chunks()
        if not chunks:  # a short chunk that nothing follows yet
            return
        ends = isinstance(following, Finalize) or _is_short(chunks[-1])
        traceparent = following.traceparent if isinstance(following, Finalize) else ""
        before = self._session.next_seq
        try:
            await self._session.append_chunks(
                chunks, end_of_utterance=ends, traceparent=traceparent
            )
        finally:
            accepted = self._session.next_seq - before
            for _ in range(accepted):
                self._queue.popleft()
            if accepted == len(chunks) and isinstance(following, Finalize):
                self._queue.popleft()
            self._want_ack()

    def _first_chunks(self) -> tuple[list[AudioChunk], AudioChunk | Request | None]:
        """Return the chunks of the next call, and the item that follows them in the queue."""
        chunks: list[AudioChunk] = []
        size = 0
        for item in self._queue:
            if not isinstance(item, AudioChunk):
                return chunks, item
            size += len(item.payload)
            if len(chunks) == APPEND_ITEMS_MAX or (chunks and size > APPEND_BYTES_MAX):
                return chunks, item
            chunks.append(item)
        if _is_short(chunks[-1]):
            chunks.pop()
        return chunks, None

    async def _apply(self, request: Request) -> None:
        session = self._session
        if isinstance(request, Finalize):
            await session.finalize(traceparent=request.traceparent)
        elif isinstance(request, CloseSession):
            self._is_closed = True
            await session.close()
        else:
            result = Result(
                id=_ANY_ID,
                session=request.session,
                target=request.target,
                utterance=request.utterance,
            )
            is_start = isinstance(request, PlaybackStarted)
            report = session.playback_started if is_start else session.playback_ended
            try:
                await report(result)
            except (InvalidMessage, Backpressure) as error:
                await self._socket.send(error_frame(error))

    async def _pause(self, refused: Backpressure) -> None:
        """Acknowledge the stored chunks, send the reason of the refusal, and wait."""
        if not self._is_refused:
            await self._send_ack()
        self._is_refused = True
        await self._socket.send(
            BackpressureFrame(
                retry_after_ms=refused.retry_after_ms, cause=refused.fields.get("cause", "")
            )
        )
        await anyio.sleep(refused.retry_after_ms / 1_000)

    async def _on_closed(self, error: Refused) -> None:
        """The session is closed: drop the queue. Its outcomes still arrive."""
        self._queue.clear()
        if self._undetected is not None:
            self._undetected.clear()
        if not self._is_closed:
            self._is_closed = True
            await self._socket.send(error_frame(error))

    # --- acknowledging ----------------------------------------------------------------------

    def _want_ack(self) -> None:
        """Let an acknowledgement be sent: now after half the credit, else within ACK_MS."""
        self._count_stored()
        is_half = self._stored - self._acked >= CREDIT_CHUNKS // 2
        if is_half or self._stored_bytes >= CREDIT_BYTES // 2:
            self._ack_due.set()
        elif self._ack_timer is None:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_later(ACK_MS / 1_000, self._ack_due.set)

    def _count_stored(self) -> None:
        stored = min(self._session.stored_seq, self._next)
        while self._stored < stored:
            self._stored_bytes += self._sizes.popleft()
            self._stored += 1

    async def acknowledge(self) -> None:
        """Send acknowledgements as they are due, until cancelled."""
        try:
            while True:
                await self._ack_due.wait()
                self._ack_due.clear()
                self._stop_ack_timer()
                if not self._is_refused:
                    await self._send_ack()
        finally:
            self._stop_ack_timer()

    def _stop_ack_timer(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None

    async def _send_ack(self) -> None:
        self._count_stored()
        self._bytes -= self._stored_bytes
        self._stored_bytes = 0
        self._acked = self._stored
        await self._socket.send(Ack(next_seq=self._acked, utterance=self._session.utterance))


def _is_short(item: AudioChunk | Request) -> bool:
    """Whether only the end of an utterance may follow this chunk."""
    if not isinstance(item, AudioChunk):
        return False
    return item.ms < CHUNK_MS_MIN and not item.end_of_utterance


def _gap(expected: int) -> Error:
    return Error(
        code="SEQ_GAP",
        message=f"SEQ_GAP expected={expected}; {SeqGap.remedy}",
        remedy=SeqGap.remedy,
        expected=expected,
    )


def _exceeded(limit: str) -> Ended:
    remedy = "wait for ack before sending more"
    error = Error(
        code="CREDIT_EXCEEDED",
        message=f"CREDIT_EXCEEDED: {limit}; {remedy}",
        field="chunk",
        limit=limit,
        remedy=remedy,
        fatal=True,
    )
    return Ended(Close.CREDIT_EXCEEDED, error)
