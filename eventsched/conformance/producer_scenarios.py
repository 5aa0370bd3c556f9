"""The scenarios of a producer.

A program `producer` does the same in each: it opens a session (source `en`, target `es`), sends 3 s
of audio in chunks of 100 ms and `finalize`, waits for the outcome and confirms it, sends 1 s more
and `close`, and reads until `closed`.

Owns: what happens in each scenario. Read next: producer_peer.py, docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import anyio

from eventsched.conformance.producer_peer import FIRST_BYTES, ProducerPeer
from eventsched.conformance.rules import check
from eventsched.gateway.frames import Close, Error
from eventsched.gateway.session_frames import BackpressureFrame

QUIET_S = 0.3
"""A client that sends nothing for so long counts as waiting."""
ProducerScenario: TypeAlias = Callable[[ProducerPeer], Awaitable[None]]


async def _rest(peer: ProducerPeer) -> None:
    """From the first utterance to the end."""
    await peer.until_finalized()
    await peer.result()
    await peer.until_confirmed()
    await peer.finish()


async def open_(peer: ProducerPeer) -> None:
    """A session without faults."""
    await peer.open()
    await _rest(peer)


async def resume(peer: ProducerPeer) -> None:
    """The connection breaks in an utterance, before `finalize`, and after an outcome."""
    await peer.open()
    await peer.until(lambda: peer.next >= 12, acks=False)
    await peer.ack(5)
    peer.socket.cut()
    peer.listener.refuse(3)
    await peer.resume(5)
    await peer.until(lambda: peer.next > 5 and peer.audio_bytes >= FIRST_BYTES)
    peer.socket.cut()
    await peer.resume(peer.next)
    frame = await peer.socket.receive_soon(peer.listener.within_s)
    if frame is not None:
        peer.take(frame)
    check(peer.finalized_at is not None, "FINALIZE", "finalize does not come after the resume")
    await peer.result()
    await peer.socket.end(Close.RESTART)
    await peer.resume(peer.next)
    await peer.finish()


async def close(peer: ProducerPeer) -> None:
    """The connection breaks after `close`, and again before the last outcome."""
    await peer.open()
    await peer.until_finalized()
    await peer.result()
    await peer.until_confirmed()
    await peer.until_closing()
    peer.socket.cut()
    await peer.resume(peer.next)
    peer.socket.cut()
    await peer.resume(peer.next)
    await peer.socket.send(Error(code="SESSION_CLOSED", message="SESSION_CLOSED"))
    await peer.end()


async def duplicate(peer: ProducerPeer) -> None:
    """More is stored than was acknowledged when the connection breaks, and `ack` is repeated."""
    await peer.open()
    await peer.until(lambda: peer.next >= 12, acks=False)
    await peer.ack(5)
    await peer.ack(5)
    peer.socket.cut()
    await peer.resume(12)
    await peer.ack(12)
    await _rest(peer)


async def out_of_credit(peer: ProducerPeer) -> None:
    """The credit is 4 chunks, and after a resume 7,000 bytes."""
    await peer.open(credit_chunks=4)
    await _with_pauses(peer, lambda: peer.finalized_at is not None)
    await peer.result()
    await peer.until_confirmed()
    await peer.socket.end(Close.RESTART)
    stored = peer.next
    await peer.resume(stored, credit_bytes=7_000)
    await _with_pauses(peer, lambda: peer.next >= stored + 4)
    await peer.finish()


async def _with_pauses(peer: ProducerPeer, holds: Callable[[], bool]) -> None:
    """Acknowledge only while the client waits."""
    while not holds():
        frame = await peer.socket.receive_soon(QUIET_S)
        if frame is not None:
            peer.take(frame)
        elif peer.next > peer.acked:
            await peer.ack(peer.next)
        else:  # the client has credit, so something is due
            peer.take(await peer.socket.receive())
    await peer.ack(peer.next)


async def backpressure(peer: ProducerPeer) -> None:
    """The system stores nothing for a while."""
    await peer.open(credit_chunks=8)
    await peer.until(lambda: peer.next >= 3)
    tries = peer.listener.tries
    for _ in range(4):
        await peer.socket.send(BackpressureFrame(retry_after_ms=250))
        with anyio.move_on_after(0.25):
            while True:
                await peer.receive()
    check(peer.listener.tries == tries, "BACKPRESSURE", "the client has connected again")
    await peer.ack(peer.next)
    await _rest(peer)


async def gap(peer: ProducerPeer) -> None:
    """The gateway has dropped chunks and names the one that it expects."""
    await peer.open()
    await peer.until(lambda: peer.next >= 10, acks=False)
    peer.expect_again(6)
    remedy = "send the chunks from `expected` on"
    await peer.socket.send(Error(code="SEQ_GAP", remedy=remedy, expected=6))
    while peer.next == 6:  # chunks that were on their way come first
        frame = await peer.socket.receive_soon(peer.listener.within_s)
        check(frame is not None, "GAP", "chunk 6 does not come")
        assert frame is not None
        peer.take(frame)
    await peer.ack(peer.next)
    await _rest(peer)


async def garbage(peer: ProducerPeer) -> None:
    """The gateway sends what a later version may send."""
    await peer.open()
    await peer.until(lambda: peer.next >= 3)
    for text in (
        '{"type": "weather", "is_fine": true}',
        '{"type": "ack", "next_seq": 1, "utterance": 0, "mood": {"is_good": [1, null]}}',
        '{"type": "error", "code": "LATER_CODE", "message": "nothing to worry about"}',
    ):
        await peer.socket.send_text(text)
    await peer.socket.send_bytes(b"\x00\x01")
    tries = peer.listener.tries
    await _rest(peer)
    check(peer.listener.tries == tries, "UNKNOWN", "the client has connected again")


async def gone(peer: ProducerPeer) -> None:
    """The session does not exist any more."""
    await peer.open()
    await peer.until(lambda: peer.next >= 3)
    error = Error(code="SESSION_UNKNOWN", message="SESSION_UNKNOWN", fatal=True)
    await peer.socket.end(Close.GONE, error)


async def superseded(peer: ProducerPeer) -> None:
    """Another producer has resumed the session."""
    await peer.open()
    await peer.until(lambda: peer.next >= 3)
    error = Error(code="SESSION_SUPERSEDED", message="SESSION_SUPERSEDED", fatal=True)
    await peer.socket.end(Close.SUPERSEDED, error)


PRODUCER_SCENARIOS: Mapping[str, ProducerScenario] = {
    "open": open_,
    "resume": resume,
    "close": close,
    "duplicate": duplicate,
    "out-of-credit": out_of_credit,
    "backpressure": backpressure,
    "gap": gap,
    "garbage": garbage,
    "gone": gone,
    "superseded": superseded,
}
