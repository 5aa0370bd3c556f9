"""The producer socket, `WS /v1/sessions`: one session a connection.

Owns: opening and resuming, the tasks of a connection, how each exception ends it.
Never does: decide about audio; producer_audio.py does. Read next: session_frames.py,
producer_audio.py, socket.py, docs/protocol.md.

The session is detached from the start: a connection that ends leaves it open, so that the client
resumes it at any gateway until the session is idle for too long.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AsyncExitStack

import anyio
from starlette.websockets import WebSocket

from eventsched.client.session import Session
from eventsched.errors import (
    EventschedError,
    InvalidMessage,
    SessionClosedError,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.gateway.access import share_of
from eventsched.gateway.frames import Close, FrameDecoder, error_frame
from eventsched.gateway.producer_audio import AudioIntake
from eventsched.gateway.service import Gateway
from eventsched.gateway.session_frames import (
    BINARY_BYTES_MAX,
    TEXT_BYTES_MAX,
    ClientFrame,
    ClosedFrame,
    Confirm,
    Open,
    Opened,
    Resume,
    outcome_frame,
)
from eventsched.gateway.socket import Ended, FrameSocket, serve_until
from eventsched.gateway.speech_chunks import (
    SpeechChunks,
    check_audio,
    check_detector,
    speech_chunks,
)
from eventsched.tokens.claims import ALL_TENANTS, Claims

FIRST_FRAME_S = 10.0
"""How long a connection may take until its session is open."""
_DECODER: FrameDecoder[ClientFrame] = FrameDecoder(ClientFrame)


async def sessions(socket: WebSocket, gateway: Gateway, claims: Claims) -> None:
    """Serve one producer."""
    frames = FrameSocket(socket, text_max=TEXT_BYTES_MAX, binary_max=BINARY_BYTES_MAX)
    await serve_until(claims.exp, frames, _ProducerSocket(frames, gateway, claims).run)


class _ProducerSocket:
    """One connection of a producer."""

    def __init__(self, socket: FrameSocket, gateway: Gateway, claims: Claims) -> None:
        self._socket = socket
        self._gateway = gateway
        self._claims = claims
        self._partials = True
        self._endpointing = False
        self._has_detector = False
        """The connection counts as one with endpointing, until it ends."""
        self._after = ""
        """Id of the outcome after which to send outcomes; empty: after the last confirmed one."""

    async def run(self) -> None:
        """Open the session and serve it until the connection ends. Raises Ended, Disconnected."""
        async with AsyncExitStack() as stack:
            session = await self._opened(stack)
            session.detach()
            speech = await self._speech(session) if self._endpointing else None
            if speech is not None:
                stack.callback(speech.close)
            await self._socket.send(
                Opened(
                    session=session.id,
                    resume_token=session.resume_secret,
                    next_seq=session.next_seq,
                    utterance=session.utterance,
                )
            )
            if session.is_closing:  # the client may have audio that nobody stores
                await self._socket.send(error_frame(SessionClosedError("SESSION_CLOSED")))
            intake = AudioIntake(self._socket, session, has_endpointing=speech is not None)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_outcomes, session)
                if speech is not None:
                    tasks.start_soon(intake.find_utterances, speech)
                tasks.start_soon(intake.append)
                tasks.start_soon(intake.acknowledge)
                self._socket.pass_chunks(intake.accept_chunk)
                await self._receive(session, intake)

    # --- opening ----------------------------------------------------------------------------

    async def _opened(self, stack: AsyncExitStack) -> Session:
        """Return the session that the first acceptable frame opens or resumes."""
        with anyio.move_on_after(FIRST_FRAME_S):
            while True:
                try:
                    block = self._block_of(await self._socket.receive())
                    if self._endpointing and not self._has_detector:
                        stack.enter_context(self._gateway.detectors.take(share_of(self._claims)))
                        self._has_detector = True
                    return await stack.enter_async_context(block)
                except (SessionUnknown, SessionClosedError) as error:
                    raise Ended(Close.GONE, error_frame(error, fatal=True)) from None
                except EventschedError as error:
                    await self._socket.send(error_frame(error))
        late = InvalidMessage.of("type", f"open or resume within {FIRST_FRAME_S:.0f} s", "send it")
        raise Ended(Close.TIMEOUT, error_frame(late, fatal=True))

    def _block_of(self, received: str | bytes) -> AbstractAsyncContextManager[Session]:
        """Return the block of the session that a frame opens or resumes. Raises InvalidMessage."""
        if isinstance(received, bytes):
            raise InvalidMessage.of("type", "open or resume expected, got audio", "open first")
        frame = _DECODER.decode(received)
        if not isinstance(frame, Open | Resume):
            raise InvalidMessage.of("type", "open or resume expected", "open first")
        self._partials, self._endpointing = frame.partials, frame.endpointing
        if frame.endpointing:
            check_detector()
        if isinstance(frame, Open):
            return self._open(frame)
        self._after = frame.results_after
        return self._resume(frame)

    def _open(self, frame: Open) -> AbstractAsyncContextManager[Session]:
        tenant = self._claims.tenant
        if tenant == ALL_TENANTS:
            tenant = frame.tenant
        elif frame.tenant not in ("", tenant):
            raise InvalidMessage.of("tenant", "the tenant of the token", "leave it out")
        if frame.endpointing:
            check_audio(frame.encoding, frame.sample_rate)
        return self._gateway.client.session(
            tenant,
            frame.source,
            frame.targets,
            features=frame.features,
            room=frame.room or None,
            listen_language=frame.listen_language or None,
            encoding=frame.encoding,
            sample_rate=frame.sample_rate,
            priority=frame.priority,
            traceparent=frame.traceparent,
        )

    def _resume(self, frame: Resume) -> AbstractAsyncContextManager[Session]:
        tenant = "" if self._claims.tenant == ALL_TENANTS else self._claims.tenant
        return self._gateway.client.resume(
            frame.session, frame.resume_token, tenant=tenant, also_closed=True
        )

    async def _speech(self, session: Session) -> SpeechChunks:
        """Return the endpointing of the session. Raises Ended if its audio does not permit it."""
        try:
            check_audio(session.encoding, session.sample_rate)
        except InvalidMessage as error:
            raise Ended(Close.PROTOCOL, error_frame(error, fatal=True)) from None
        settings = await self._gateway.client.store_of(session.id).read_settings()
        return speech_chunks(
            settings, session.sample_rate, self._gateway.detector_threads, self._claims.tenant
        )

    # --- after opening ----------------------------------------------------------------------

    async def _receive(self, session: Session, intake: AudioIntake) -> None:
        while True:
            received = await self._socket.receive()
            try:
                if isinstance(received, bytes):
                    await intake.receive_chunk(received)
                    continue
                frame = _DECODER.decode(received)
                if isinstance(frame, Open | Resume):
                    raise InvalidMessage.of(
                        "type", "the session is open", "open another connection"
                    )
                if isinstance(frame, Confirm):
                    session.confirm(frame.id)
                else:
                    intake.put(frame)
            except EventschedError as error:
                await self._socket.send(error_frame(error))

    async def _send_outcomes(self, session: Session) -> None:
        """Send outcomes as they arrive; end the connection with the session."""
        try:
            outcomes = session.results(
                after=self._after or None, partials=self._partials, confirms=False
            )
            async for outcome in outcomes:
                await self._socket.send(outcome_frame(outcome, texts=self._claims.texts))
        except SessionSuperseded as error:
            raise Ended(Close.SUPERSEDED, error_frame(error, fatal=True)) from None
        except SessionUnknown as error:
            raise Ended(Close.GONE, error_frame(error, fatal=True)) from None
        except InvalidMessage as error:  # the field `results_after`
            raise Ended(Close.PROTOCOL, error_frame(error, fatal=True)) from None
        await self._socket.send(ClosedFrame())
        raise Ended(Close.DONE)
