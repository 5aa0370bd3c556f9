"""The scenarios of a node.

A program `node` does the same in each: it registers as `conformance` (source `en`, target `es`,
4 slots), answers each job with the number of bytes of its audio as `text`, and drains at SIGTERM.

Owns: what happens in each scenario. Read next: node_peer.py, docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from eventsched.conformance.node_peer import HEARTBEAT_MS, NodePeer, PeerAttempt
from eventsched.conformance.rules import check
from eventsched.gateway.frames import Close, Error
from eventsched.gateway.node_frames import Recorded

HEARTBEAT_MS_MAX = 3 * HEARTBEAT_MS
"""What the mean time between heartbeats may be, on a busy machine."""
NodeScenario: TypeAlias = Callable[[NodePeer], Awaitable[None]]


async def _job_without_audio(peer: NodePeer) -> PeerAttempt:
    """The node registers, and gets a job whose audio does not follow yet."""
    await peer.register(rule="PACE")
    attempt = PeerAttempt(0)
    await peer.send_job(attempt, audio=False)
    return attempt


async def open_(peer: NodePeer) -> None:
    """Three jobs, one of which waits for its audio during heartbeats."""
    await peer.register(rule="PACE")
    await peer.serve_job(PeerAttempt(0))
    waiting = PeerAttempt(1)
    await peer.send_job(waiting, audio=False)
    ref = peer.ref
    await peer.until_heartbeats(1)  # it may have been sent before the job
    await peer.until_heartbeats(4)
    times = [at for at, _ in peer.heartbeats[-5:]]
    mean_ms = (times[-1] - times[0]) * 1_000 / 4
    late = f"a heartbeat every {mean_ms:.0f} ms instead of {HEARTBEAT_MS} ms"
    check(mean_ms <= HEARTBEAT_MS_MAX, "HEARTBEAT", late)
    for _, held in peer.heartbeats[-4:]:
        check(held == {waiting.id}, "HELD", f"a heartbeat holds {sorted(held)}")
    await peer.serve_job(PeerAttempt(2, size=0))
    await peer.send_last_audio(waiting, ref)
    await peer.until_reported(waiting)
    await peer.record(waiting)
    await peer.finish()


async def resume(peer: NodePeer) -> None:
    """The connection breaks before a result is recorded; then the registration is another one."""
    await peer.register(rule="PACE")
    done, partly = PeerAttempt(0), PeerAttempt(1)
    await peer.send_job(done)
    await peer.send_job(partly, audio=False)
    await peer.until_reported(done)
    peer.socket.cut()
    peer.listener.refuse(3)
    await peer.register()
    check(done.id in peer.held, "HELD", f"the attempt with a result is not in {sorted(peer.held)}")
    done.reports = 0
    await peer.until_reported(done, "RESULT_REPEATED")
    await peer.record(done)
    await peer.send_job(partly, audio=False)
    await peer.socket.end(Close.RESTART)
    for attempt in (done, partly):
        attempt.is_lost = True
    await peer.register(epoch=2)
    check(done.id not in peer.held, "HELD", "an attempt is held whose result is recorded")
    await _next_job(peer, 2, "EPOCH")
    await peer.finish()


async def _next_job(peer: NodePeer, number: int, rule: str) -> None:
    """A further job, and heartbeats without earlier attempts."""
    await peer.serve_job(PeerAttempt(number))
    await peer.until_heartbeats(2)
    _, held = peer.heartbeats[-1]
    check(not held, rule, f"a heartbeat holds {sorted(held)}")


async def duplicate(peer: NodePeer) -> None:
    """A job is sent again after a broken connection, and `recorded` comes twice."""
    attempt = await _job_without_audio(peer)
    await peer.until_heartbeats(1)
    peer.socket.cut()
    await peer.register()
    await peer.send_job(attempt)
    await peer.until_reported(attempt)
    for _ in range(2):
        await peer.socket.send(Recorded(job=attempt.job, attempt=attempt.attempt))
    attempt.is_recorded = True
    await _next_job(peer, 1, "ONE_OUTCOME")
    await peer.finish()


async def cancel(peer: NodePeer) -> None:
    """An attempt is cancelled before its audio is complete, and the rest of the audio comes."""
    attempt = await _job_without_audio(peer)
    await peer.until_heartbeats(1)
    await peer.cancel(attempt)
    await peer.send_last_audio(attempt, peer.ref)
    await _next_job(peer, 1, "CANCEL")
    await peer.finish()


async def lease_lost(peer: NodePeer) -> None:
    """An attempt is lost by a heartbeat, and the result of another one is refused."""
    attempt = await _job_without_audio(peer)
    attempt.is_lost, peer.lost = True, [attempt.job]
    ref = peer.ref
    await peer.until_heartbeats(2)
    peer.lost = []
    await peer.send_last_audio(attempt, ref)
    refused = PeerAttempt(1)
    await peer.send_job(refused)
    await peer.until_reported(refused)
    await peer.socket.send(
        Error(code="LEASE_LOST", message="LEASE_LOST", job=refused.job, attempt=refused.attempt)
    )
    refused.is_lost = True
    await _next_job(peer, 2, "CANCEL")
    await peer.finish()


async def drain(peer: NodePeer) -> None:
    """The node is drained while an attempt runs."""
    attempt = await _job_without_audio(peer)
    ref = peer.ref
    await peer.until_drain()
    await peer.until_heartbeats(2)
    await peer.send_last_audio(attempt, ref)
    await peer.until_reported(attempt, "DRAIN")
    await peer.record(attempt)
    await peer.finish()


async def operator_drain(peer: NodePeer) -> None:
    """An operator drains the node, which loses its connection before it learns of the end."""
    await peer.register(rule="PACE")
    await peer.serve_job(PeerAttempt(0))
    peer.socket.cut()
    await peer.accept()
    error = Error(code="NODE_DRAINED", message="NODE_DRAINED", fatal=True)
    await peer.socket.end(Close.DONE, error)


async def garbage(peer: NodePeer) -> None:
    """The gateway sends what a later version may send, and audio of no job."""
    await peer.register(rule="PACE")
    for text in (
        '{"type": "weather", "is_fine": true}',
        '{"type": "heartbeat", "lost": [], "mood": {"is_good": [1, null]}}',
        '{"type": "recorded", "job": "acme:c0.none:0:translation:es:none", "attempt": 1}',
        '{"type": "error", "code": "LATER_CODE", "message": "nothing to worry about"}',
    ):
        await peer.socket.send_text(text)
    await peer.socket.send_bytes(b"\x00\x01")
    await peer.socket.send_bytes(bytes(4) + b"\x80\x00\x00\x00audio of no job")
    await _next_job(peer, 0, "UNKNOWN")
    await peer.finish()


async def lost(peer: NodePeer) -> None:
    """The node was silent for too long, and is lost with its attempt."""
    attempt = await _job_without_audio(peer)
    attempt.is_lost = True
    error = Error(code="NODE_UNKNOWN", message="NODE_UNKNOWN", fatal=True)
    await peer.socket.end(Close.LOST, error)
    await peer.register(epoch=2)
    await _next_job(peer, 1, "EPOCH")
    await peer.finish()


async def superseded(peer: NodePeer) -> None:
    """Another process has registered under the name."""
    await peer.register(rule="PACE")
    await peer.serve_job(PeerAttempt(0))
    error = Error(code="NODE_SUPERSEDED", message="NODE_SUPERSEDED", fatal=True)
    await peer.socket.end(Close.SUPERSEDED, error)


NODE_SCENARIOS: Mapping[str, NodeScenario] = {
    "open": open_,
    "resume": resume,
    "duplicate": duplicate,
    "cancel": cancel,
    "lease-lost": lease_lost,
    "drain": drain,
    "operator-drain": operator_drain,
    "garbage": garbage,
    "lost": lost,
    "superseded": superseded,
}
