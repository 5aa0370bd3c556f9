"""The node socket, `WS /v1/nodes`: one registration a connection.

Owns: registering, the tasks of a connection, how each end of a registration ends it.
Never does: run handlers; the node does. Read next: node_frames.py, node_attempts.py,
node/registration.py, docs/protocol.md.

The registration belongs to the node's token, not to the connection: a connection that ends leaves
it and its leases, until the node has sent no heartbeat for too long.
"""

from __future__ import annotations

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket

from eventsched.errors import (
    EventschedError,
    Forbidden,
    InvalidMessage,
    NodeDrainedError,
    NodeSuperseded,
)
from eventsched.gateway.frames import Close, Error, FrameDecoder, error_frame
from eventsched.gateway.node_attempts import NodeAttempts
from eventsched.gateway.node_frames import (
    BINARY_BYTES_MAX,
    TEXT_BYTES_MAX,
    AudioRequest,
    Cancel,
    Drain,
    Drained,
    Extend,
    Extended,
    FailReport,
    Heartbeat,
    HeartbeatReply,
    NodeFrame,
    NoSpeechReport,
    PartialResult,
    Register,
    Registered,
    ResultReport,
)
from eventsched.gateway.service import Gateway
from eventsched.gateway.socket import Ended, FrameSocket, serve_until
from eventsched.node.job import JobError
from eventsched.node.node import Node
from eventsched.node.registration import DrainLimit, Registration
from eventsched.schema import keys
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeGrant
from eventsched.tokens.claims import Claims

FIRST_FRAME_S = 10.0
"""How long a connection may take until its node is registered."""
CALLS_MAX = 32
"""Frames of one connection that wait for the server at the same time."""
_DECODER: FrameDecoder[NodeFrame] = FrameDecoder(NodeFrame)
Call = Heartbeat | AudioRequest | PartialResult | Extend


async def nodes(socket: WebSocket, gateway: Gateway, claims: Claims) -> None:
    """Serve one node."""
    frames = FrameSocket(socket, text_max=TEXT_BYTES_MAX, binary_max=BINARY_BYTES_MAX)
    await serve_until(claims.exp, frames, _NodeSocket(frames, gateway, claims).run)


class _NodeSocket:
    """One connection of a node."""

    def __init__(self, socket: FrameSocket, gateway: Gateway, claims: Claims) -> None:
        self._socket = socket
        self._gateway = gateway
        self._claims = claims
        self._drain = anyio.Event()
        self._drain_limit = DrainLimit(0.0)
        self._calls = anyio.Semaphore(CALLS_MAX)

    async def run(self) -> None:
        """Register the node and serve it until the end. Raises Ended, Disconnected."""
        frame, store, grant = await self._registered()
        await self._socket.send(
            Registered(node=grant.node, epoch=grant.epoch, heartbeat_ms=grant.heartbeat_ms)
        )
        held = [(each.job, each.attempt) for each in frame.held]
        lost = await store.heartbeat_node(grant.node, grant.epoch, load=0, attempts=held)
        for job, attempt in held:
            if job in lost:
                await self._socket.send(Cancel(job=job, attempt=attempt, reason="lost"))
        still_held = {attempt for attempt in held if attempt[0] not in lost}
        attempts = NodeAttempts(self._socket, still_held, lazy_audio=frame.lazy_audio)
        registration = Registration(
            store,
            grant,
            attempts.run,
            slots=frame.slots,
            url="",
            keys=None,
            is_remote=True,
            on_reported=attempts.on_reported,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._serve, registration)
            await self._receive(tasks, registration, attempts)

    # --- registering ------------------------------------------------------------------------

    async def _registered(self) -> tuple[Register, Store, NodeGrant]:
        with anyio.move_on_after(FIRST_FRAME_S):
            while True:
                try:
                    return await self._try_register(await self._socket.receive())
                except NodeDrainedError as error:
                    raise Ended(Close.DONE, error_frame(error, fatal=True)) from None
                except EventschedError as error:
                    await self._socket.send(error_frame(error))
        late = InvalidMessage.of("type", f"register within {FIRST_FRAME_S:.0f} s", "send it")
        raise Ended(Close.TIMEOUT, error_frame(late, fatal=True))

    async def _try_register(self, received: str | bytes) -> tuple[Register, Store, NodeGrant]:
        frame = None if isinstance(received, bytes) else _DECODER.decode(received)
        if not isinstance(frame, Register):
            raise InvalidMessage.of("type", "register expected", "register first")
        node = Node(
            frame.name,
            sources=frame.sources,
            targets=frame.targets,
            features=frame.features,
            slots=frame.slots,
            version=frame.version,
        )
        full_id = keys.complete(node.name, self._gateway.client.cells)
        if not keys.name_of(full_id).startswith(self._claims.name):
            raise Forbidden(f"the token is for nodes named {self._claims.name}…")
        store = self._gateway.client.store_of(full_id)
        grant = await store.register_node(
            node=full_id,
            token=frame.registration_token,
            sources=node.sources,
            targets=node.targets,
            features=node.features,
            slots=node.slots,
            version=node.version,
        )
        return frame, store, grant

    # --- after registering ------------------------------------------------------------------

    async def _serve(self, registration: Registration) -> None:
        """Run attempts until the registration is over, then end the connection."""
        try:
            end = await registration.run(self._drain, self._drain_limit)
        except NodeSuperseded as error:
            raise Ended(Close.SUPERSEDED, error_frame(error, fatal=True)) from None
        if end == "drained":
            await self._socket.send(Drained())
            raise Ended(Close.DONE)
        raise Ended(
            Close.LOST,
            Error(
                code="NODE_UNKNOWN",
                message="NODE_UNKNOWN; register again",
                remedy="register again",
                fatal=True,
            ),
        )

    async def _receive(
        self, tasks: TaskGroup, registration: Registration, attempts: NodeAttempts
    ) -> None:
        speech_of: ResultReport | None = None
        """The result whose speech is the next frame."""
        while True:
            received = await self._socket.receive()
            about = ("", 0)
            try:
                if isinstance(received, bytes):
                    report, speech_of = speech_of, None
                    if report is None:
                        raise InvalidMessage.of(
                            "type", "a text frame expected", "send `result` first"
                        )
                    about = report.job, report.attempt
                    attempts.end(report, received)
                    continue
                if speech_of is not None:
                    about = speech_of.job, speech_of.attempt
                    speech_of = None
                    raise InvalidMessage.of("audio", "a binary frame expected", "send the speech")
                frame = _DECODER.decode(received)
                if isinstance(frame, Register):
                    raise InvalidMessage.of(
                        "type", "the node is registered", "use one connection a node"
                    )
                if isinstance(frame, Drain):
                    self._drain_limit.seconds = frame.within_ms / 1_000
                    self._drain.set()
                elif isinstance(frame, ResultReport | NoSpeechReport | FailReport):
                    about = frame.job, frame.attempt
                    if isinstance(frame, ResultReport) and frame.audio:
                        speech_of = frame
                    else:
                        attempts.end(frame)
                else:
                    await self._calls.acquire()
                    tasks.start_soon(self._call, frame, registration, attempts)
            except EventschedError as error:
                await self._socket.send(error_frame(error, job=about[0], attempt=about[1]))

    async def _call(self, frame: Call, registration: Registration, attempts: NodeAttempts) -> None:
        """Serve a frame that needs the server."""
        about = ("", 0) if isinstance(frame, Heartbeat) else (frame.job, frame.attempt)
        try:
            if isinstance(frame, Heartbeat):
                held = [(each.job, each.attempt) for each in frame.held]
                lost = await registration.heartbeat(held)
                await self._socket.send(HeartbeatReply(lost=lost))
                return
            attempt = await attempts.wait_found(frame.job, frame.attempt)
            if isinstance(frame, AudioRequest):
                await attempts.send_audio(attempt)
            elif isinstance(frame, PartialResult):
                await attempt.job.partial(frame.text, source_text=frame.source_text)
            else:
                deadline_ms = await attempt.job.extend(frame.seconds)
                await self._socket.send(
                    Extended(job=frame.job, attempt=frame.attempt, deadline_ms=deadline_ms)
                )
        except JobError as error:
            await self._socket.send(
                Error(
                    code=error.code,
                    message="the audio cannot be read",
                    job=about[0],
                    attempt=about[1],
                )
            )
        except EventschedError as error:
            await self._socket.send(error_frame(error, job=about[0], attempt=about[1]))
        finally:
            self._calls.release()
