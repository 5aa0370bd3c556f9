"""The gateway's side of one session, and the rules of a producer.

Owns: the expected chunk, what is acknowledged, the checks of chunks, credit and outcomes.
Never does: decide what happens; producer_scenarios.py does. Read next: producer_scenarios.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from eventsched.conformance.peer import Listener, PeerSocket
from eventsched.conformance.rules import Violation, check
from eventsched.errors import InvalidMessage
from eventsched.gateway.frames import Close, FrameDecoder
from eventsched.gateway.session_frames import (
    CREDIT_BYTES,
    CREDIT_CHUNKS,
    Ack,
    ClientFrame,
    ClosedFrame,
    CloseSession,
    Confirm,
    Finalize,
    Open,
    Opened,
    ResultFrame,
    Resume,
    split_chunk,
)

SESSION = "c0.5e551011"
SECRET = "0123456789abcdef0123456789abcdef"
RATE = 16_000
FIRST_BYTES = 3 * 2 * RATE
"""Audio before `finalize`: 3 s."""
SECOND_BYTES = 2 * RATE
"""Audio between `finalize` and `close`: 1 s."""
CHUNK_BYTES_MIN, CHUNK_BYTES_MAX = RATE // 25, 2 * RATE
_DECODER: FrameDecoder[ClientFrame] = FrameDecoder(ClientFrame)
ResultT = TypeVar("ResultT")


class ProducerPeer:
    """One session, over all of its connections."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.socket: PeerSocket[ClientFrame]
        self.chunks: dict[int, bytes] = {}
        """Payload of each chunk that arrived."""
        self.next = 0
        """Number of the next chunk."""
        self.acked = 0
        self._credit = (CREDIT_CHUNKS, CREDIT_BYTES)
        self._is_gap = False
        self.sent: list[str] = []
        """Ids of the outcomes that were sent."""
        self.finalized_at: int | None = None
        """Number of the chunk after `finalize`."""

    @property
    def audio_bytes(self) -> int:
        """Bytes of audio that arrived."""
        return sum(len(self.chunks[number]) for number in range(self.next))

    # --- connections ------------------------------------------------------------------------

    async def _accept(self, rule: str) -> ClientFrame | bytes:
        self.socket = PeerSocket(await self.listener.accept(rule), _DECODER, self.listener.within_s)
        return await self.socket.receive()

    async def open(self, **opened: Any) -> None:
        """Accept the first connection and open the session."""
        frame = await self._accept("PACE")
        check(isinstance(frame, Open), "FIRST_FRAME", f"{_name(frame)} instead of open")
        assert isinstance(frame, Open)
        wanted = ("en", ["es"], "pcm16", RATE)
        found = (frame.source, frame.targets, frame.encoding, frame.sample_rate)
        check(found == wanted, "FRAMES", f"open has {found} instead of {wanted}")
        await self.send_opened(**opened)

    async def resume(self, next_seq: int, **opened: Any) -> None:
        """Accept a further connection, on which the client resumes the session."""
        frame = await self._accept("RECONNECT")
        check(isinstance(frame, Resume), "FIRST_FRAME", f"{_name(frame)} instead of resume")
        assert isinstance(frame, Resume)
        is_session = (frame.session, frame.resume_token) == (SESSION, SECRET)
        check(is_session, "RESUME", "another session or resume token")
        last = self.sent[-1] if self.sent else ""
        check(
            frame.results_after == last,
            "RESULTS_AFTER",
            f"results_after is {frame.results_after!r}; the last outcome was {last!r}",
        )
        self.next = next_seq
        await self.send_opened(next_seq=next_seq, **opened)

    async def send_opened(
        self,
        *,
        next_seq: int = 0,
        credit_chunks: int = CREDIT_CHUNKS,
        credit_bytes: int = CREDIT_BYTES,
    ) -> None:
        self.acked = next_seq
        self._is_gap = False
        self._credit = credit_chunks, credit_bytes
        await self.socket.send(
            Opened(
                session=SESSION,
                resume_token=SECRET,
                next_seq=next_seq,
                utterance=0 if self.finalized_at is None else 1,
                credit_chunks=credit_chunks,
                credit_bytes=credit_bytes,
            )
        )

    # --- what the client sends --------------------------------------------------------------

    def take(self, received: ClientFrame | bytes) -> ClientFrame | None:
        """Check what arrived; return it if it is no chunk. Raises Violation."""
        if isinstance(received, bytes):
            self._take_chunk(received)
            return None
        check(not isinstance(received, Open | Resume), "FIRST_FRAME", "a second first frame")
        if isinstance(received, Confirm):
            check(received.id in self.sent, "CONFIRM", f"{received.id} was not sent")
        if isinstance(received, Finalize) and not self._is_gap:
            self._take_finalize()
        return received

    def _take_chunk(self, frame: bytes) -> None:
        try:
            number, payload = split_chunk(frame)
        except InvalidMessage as error:
            raise Violation("CHUNK_FORM", str(error)) from None
        if self._is_gap and number != self.next:
            return
        self._is_gap = False
        check(number == self.next, "CHUNK_NUMBERS", f"chunk {number} instead of {self.next}")
        form = f"chunk {number} has {len(payload)} bytes"
        check(0 < len(payload) <= CHUNK_BYTES_MAX and len(payload) % 2 == 0, "CHUNK_FORM", form)
        last = self.chunks.get(number - 1, b"")
        is_after_short = number > 0 and number != self.finalized_at
        if is_after_short and len(last) < CHUNK_BYTES_MIN:
            raise Violation("CHUNK_FORM", f"chunk {number - 1} has {len(last)} bytes")
        is_same = self.chunks.setdefault(number, payload) == payload
        check(is_same, "CHUNK_REPEATED", f"chunk {number} has other audio than before")
        self.next = number + 1
        self._check_credit()

    def _check_credit(self) -> None:
        chunks, size = self._credit
        count = self.next - self.acked
        check(count <= chunks, "CREDIT", f"{count} chunks, and {chunks} may be on their way")
        used = sum(len(self.chunks[number]) for number in range(self.acked, self.next))
        check(used <= size, "CREDIT", f"{used} bytes, and {size} may be on their way")

    def _take_finalize(self) -> None:
        at = self.next if self.finalized_at is None else self.finalized_at
        is_repeated = self.finalized_at == self.next
        check(is_repeated or self.finalized_at is None, "FINALIZE", "a second utterance")
        audio = f"{self.audio_bytes} bytes before finalize instead of {FIRST_BYTES}"
        check(self.audio_bytes == FIRST_BYTES, "AUDIO", audio)
        self.finalized_at = at

    async def receive(self) -> ClientFrame | None:
        """Receive and check one frame; return it if it is no chunk."""
        return self.take(await self.socket.receive())

    async def until(self, holds: Callable[[], bool], *, acks: bool = True) -> None:
        """Receive until the condition holds; acknowledge each chunk by default."""
        while not holds():
            frame = await self.receive()
            if isinstance(frame, CloseSession):
                raise Violation("CLOSE", "the session is closed too early")
            if frame is None and acks:
                await self.ack(self.next)

    async def ack(self, next_seq: int) -> None:
        self.acked = max(self.acked, next_seq)
        await self.socket.send(Ack(next_seq=next_seq, utterance=0 if not self.sent else 1))

    def expect_again(self, number: int) -> None:
        """Drop chunks until this one comes again."""
        self.next = number
        self._is_gap = True

    # --- outcomes and the end ---------------------------------------------------------------

    async def until_finalized(self) -> None:
        await self.until(lambda: self.finalized_at is not None)

    async def result(self) -> None:
        """Send the outcome of the next utterance."""
        number = len(self.sent)
        self.sent.append(f"1700000000{number:03}-0")
        await self.socket.send(
            ResultFrame(
                id=self.sent[-1],
                session=SESSION,
                utterance=number,
                target="es",
                delivery_no=number,
                text="hola",
                source_text="hello",
            )
        )

    async def until_confirmed(self) -> None:
        """Receive until the last outcome is confirmed."""
        while True:
            frame = await self.receive()
            if isinstance(frame, CloseSession):
                raise Violation("CONFIRM", "the session is closed without the confirmation")
            if isinstance(frame, Confirm) and frame.id == self.sent[-1]:
                return
            if frame is None:
                await self.ack(self.next)

    async def finish(self) -> None:
        """Take the second utterance, and close the session as the client wants."""
        await self.until_closing()
        await self.end()

    async def until_closing(self) -> None:
        """Take the second utterance, until the client closes the session."""
        while True:
            frame = await self.receive()
            if isinstance(frame, CloseSession):
                break
            if frame is None:
                await self.ack(self.next)
        audio = f"{self.audio_bytes} bytes before close instead of {FIRST_BYTES + SECOND_BYTES}"
        check(self.audio_bytes == FIRST_BYTES + SECOND_BYTES, "AUDIO", audio)

    async def end(self) -> None:
        """Send the last outcome, and end the session."""
        await self.result()
        while True:  # the confirmation is not required: the session ends
            received = await self.socket.receive_soon(0.2)
            if received is None or isinstance(received, Confirm):
                break
            self.take(received)
        await self.socket.send(ClosedFrame())
        await self.socket.end(Close.DONE)


def _name(frame: ClientFrame | bytes) -> str:
    return "a chunk" if isinstance(frame, bytes) else str(frame.__struct_config__.tag)
