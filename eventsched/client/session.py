"""One session as its producer uses it: audio in, outcomes out.

Owns: the calls of a session and their replies, sending chunks again after a lost reply or a gap,
and the position up to which outcomes are handled.
Must not: batch over sessions (channel.py), hold chunks (append_buffer.py), check audio
(audio/chunks.py), find the ends of utterances (speech_intake.py).
Read next: client.py (opening), append_buffer.py, results.py (the outcomes).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING

import anyio
import msgspec

from eventsched.audio import chunks
from eventsched.audio.chunks import CHUNK_BYTES_MAX, AudioChunk, Format, check_chunk
from eventsched.client.append_buffer import AppendBuffer, StoredLimits
from eventsched.client.channel import APPEND_BYTES_MAX, APPEND_ITEMS_MAX, CellMultiplexer
from eventsched.client.outbox_entry import OutboxEntry
from eventsched.client.results import Listener, Outcome, Result, read_outcome
from eventsched.client.speech_intake import SpeechIntake
from eventsched.client.subscription import Subscription
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import (
    Backpressure,
    InvalidMessage,
    Refused,
    SeqGap,
    ServerUnavailable,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.logs import get_logger
from eventsched.schema.ids import START, is_id, ms_of, parse_id
from eventsched.schema.validation import check_traceparent
from eventsched.store.retry import Backoff, happens_within
from eventsched.store.session_commands import Chunk, Finalize, Receipt, SessionGrant

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

RESENDS_MAX = 3
BACKPRESSURE_WAITS_MAX = 10
"""How often a closing session with pending audio waits for backpressure to end."""
CLOSE_MARGIN_S = 5.0

log = get_logger("eventsched.client.session")


class Session:
    """One open session: audio in, results out. Made by `Client.session` and `Client.resume`.

    Its methods may be called by several tasks; appends take effect in the order of their calls.
    """

    def __init__(
        self,
        channel: CellMultiplexer,
        grant: SessionGrant,
        resume_secret: str,
        encoding: Format,
        sample_rate: int,
        *,
        keys: KeyStore | None = None,
        cipher: SessionCipher | None = None,
        room: str = "",
        limits: StoredLimits | None = None,
        intake: SpeechIntake | None = None,
    ) -> None:
        self.id = grant.session
        """Full id of the session, `<cell>.<name>`. It is no secret: listeners receive it."""
        self.resume_secret = resume_secret
        """With the id, the right to resume the session: 32 hexadecimal digits. Give it only to a
        process that may continue the session, never as an argument of a command; no log, event or
        message shows it."""
        self.epoch = grant.epoch
        """Number of the producer that holds the session; each resume raises it."""
        self.encoding = encoding
        self.sample_rate = sample_rate
        self.quiet_s = 0
        self.is_detached = False
        self.is_closing = False
        """The server has the request to close the session."""
        self._is_left = False
        """The block has ended, and the session is detached: nothing more is received here."""
        self._channel = channel
        self._keys = keys
        self._cipher = cipher
        """Encrypts the audio; none if the session is not encrypted."""
        self._room = room
        """Full id of the room whose encrypted sessions are decrypted here; may be empty."""
        self._intake = intake
        """Finds the ends of utterances; none if the caller marks them."""
        self._utterance = grant.utterance
        self._turn = anyio.Lock(fast_acquire=True)  # a free lock costs no switch of tasks
        self._buffer = AppendBuffer(grant.next_seq, limits)
        self._start = grant.out_id
        self._subscription: Subscription | None = None
        self._wants_partials = False
        self._taken = self._handled = ""
        self._confirms = True
        self._refusal: Refused | None = None
        """Why this producer no longer owns the session; none while it does."""

    @property
    def next_seq(self) -> int:
        """Number of the next chunk: as many chunks have been appended, from 0."""
        return self._buffer.next_seq

    @property
    def stored_seq(self) -> int:
        """Number of the first chunk that no server has confirmed."""
        return self._buffer.next_seq - len(self._buffer)

    @property
    def utterance(self) -> int:
        """Index of the current utterance, from 0, as of the last reply of the server."""
        return self._utterance

    @property
    def confirmed(self) -> str:
        """Id of the last outcome that was handled: the caller has asked for the next one."""
        return self._handled

    # --- audio in ---------------------------------------------------------------------------

    async def append(
        self,
        audio: bytes | Sequence[bytes],
        *,
        end_of_utterance: bool = False,
        traceparent: str = "",
    ) -> Receipt:
        """Store audio, once and in order.

        Audio of 20 to 1,000 ms becomes one chunk; longer audio becomes chunks of 100 ms, sent in
        calls of at most 16 chunks or 1 MiB. A chunk may complete utterances. In a session with
        endpointing, audio of any length is taken, and its silence is not sent.

        Args:
            audio: PCM16 bytes; for an Opus session a list of packets, or bytes in which each
                packet is preceded by its length as a big-endian 16-bit integer. Empty audio sends
                what waits from earlier calls; it is malformed if nothing waits.
            end_of_utterance: The utterance ends with this audio. Then the audio may be shorter
                than 20 ms, or empty.
            traceparent: W3C trace context of the utterance that ends with this audio, or of those
                that endpointing ends in it. Without it an utterance has that of the session.

        Returns:
            The receipt of the whole call; `finalized` names the utterances that it completed.

        Raises:
            InvalidMessage: The audio is not what the session takes, or a traceparent is malformed
                or has no utterance that ends; nothing was sent.
            ChunkTooLarge: A packet has more than 65,536 bytes; nothing was sent.
            Backpressure: The cell, the tenant or the server takes no more for now. So much of the
                audio as `accepted_bytes` says is appended; append the rest, which may be empty,
                after `retry_after_ms`. In an encrypted session all of it is appended, and what is
                not stored yet is sent before anything else; in a session with endpointing, too.
                Also raised, with nothing stored, while more than 32 MiB of audio wait for a server
                that is away.
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
            ServerUnavailable: The server is away. The audio counts as appended and is sent before
                anything else, as after a cancelled call.
        """
        if self._intake is not None:
            check_traceparent("traceparent", traceparent)
            return await self._append_speech(
                self._intake, audio, end_of_utterance=end_of_utterance, traceparent=traceparent
            )
        _check_utterance_trace(traceparent, end_of_utterance=end_of_utterance)
        pieces = self._split(audio, end_of_utterance=end_of_utterance)
        return await self._append(
            _ended(pieces, end_of_utterance=end_of_utterance, traceparent=traceparent)
        )

    async def append_chunks(
        self,
        chunks: Sequence[AudioChunk],
        *,
        end_of_utterance: bool = False,
        traceparent: str = "",
    ) -> Receipt:
        """Store chunks as the caller has cut them: each gets one number, from `next_seq` on.

        For programs whose own clients number the chunks. `append` suits all others.

        Args:
            chunks: Chunks that `eventsched.audio.chunks.one_chunk` has checked, at most 16. None
                sends what waits from earlier calls. A chunk with `end_of_utterance` ends the
                utterance, and may be short or empty.
            end_of_utterance: The utterance ends with the last chunk, which may be short or empty.
            traceparent: W3C trace context of the utterance that ends with the last chunk.

        Returns:
            The receipt of the whole call.

        Raises:
            ChunkTooLarge: A chunk exceeds the limit of this session; nothing was sent.
            InvalidMessage: As `append`; nothing was sent.
            Refused: As `append`. Chunks from `next_seq` on are not appended; they may be appended
                again.
            ServerUnavailable: As `append`. Chunks from `stored_seq` on may not have arrived.
        """
        _check_utterance_trace(traceparent, end_of_utterance=end_of_utterance)
        for chunk in chunks:
            may_be_short = end_of_utterance or chunk.end_of_utterance
            check_chunk(
                chunk.payload, chunk.ms, self._chunk_bytes_max, end_of_utterance=may_be_short
            )
        return await self._append(
            _ended(chunks, end_of_utterance=end_of_utterance, traceparent=traceparent)
        )

    @property
    def _chunk_bytes_max(self) -> int:
        return CHUNK_BYTES_MAX - (self._cipher.overhead_bytes if self._cipher else 0)

    async def _append(self, pieces: Sequence[AudioChunk]) -> Receipt:
        try:
            await self._turn.acquire()
        except anyio.get_cancelled_exc_class():
            self._accept(pieces)
            raise
        try:
            await self._make_room()
            earlier = len(self._buffer)
            accepted = self._accept(pieces)
            try:
                with self._owned():
                    receipts = await self._flush()
            except Refused as refused:
                refused.fields["accepted_bytes"] = str(self._withdraw(accepted))
                raise
        finally:
            self._turn.release()
        if not accepted:
            return _merged(receipts, self._utterance)
        return _merged(receipts[earlier : earlier + len(accepted)], self._utterance)

    async def _append_speech(
        self,
        intake: SpeechIntake,
        audio: bytes | Sequence[bytes],
        *,
        end_of_utterance: bool,
        traceparent: str,
    ) -> Receipt:
        """As `append`, for the speech in the audio. What endpointing has taken stays appended."""
        added = intake.add(audio, end_of_utterance=end_of_utterance, traceparent=traceparent)
        async with self._turn:
            try:
                await self._make_room()
                self._accept(await intake.take())
                with self._owned():
                    receipts = await self._flush()
            except Refused as refused:
                taken = 0 if intake.withdraw(added) else len(audio)
                refused.fields["accepted_bytes"] = str(taken)
                raise
        if not receipts:
            return Receipt("ok", self._utterance)
        return _merged(receipts, self._utterance)

    def _split(self, audio: bytes | Sequence[bytes], *, end_of_utterance: bool) -> list[AudioChunk]:
        """The chunks of audio; none for empty audio that sends what waits."""
        is_empty = isinstance(audio, bytes | bytearray | list | tuple) and not audio
        if is_empty and not end_of_utterance and self._buffer:
            return []
        return chunks.split_audio(
            audio,
            self.encoding,
            self.sample_rate,
            end_of_utterance=end_of_utterance,
            bytes_max=self._chunk_bytes_max,
        )

    def _accept(self, pieces: Sequence[AudioChunk]) -> list[Chunk]:
        """The audio counts as appended once it is in the buffer."""
        chunks = self._number(pieces)
        self._buffer.add(chunks)
        return chunks

    async def _accept_speech(self, traceparent: str = "") -> None:
        """The current utterance ends with the audio that endpointing has."""
        if self._intake is not None:
            self._accept(await self._intake.take(ends=True, traceparent=traceparent))

    async def finalize(self, *, traceparent: str = "") -> Receipt:
        """Complete the current utterance.

        A cancelled call is sent all the same, possibly after audio that is appended next.

        Args:
            traceparent: W3C trace context of this utterance, stored with its events. Without it the
                utterance has that of the session.

        Returns:
            A receipt; its status is `duplicate` if the utterance has no audio, or was complete.

        Raises:
            InvalidMessage: The traceparent is malformed; nothing was sent.
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
            ServerUnavailable: The server is away; the call may be repeated.
        """
        check_traceparent("traceparent", traceparent)
        async with self._turn:
            with self._owned():
                await self._accept_speech(traceparent)
                receipt = _merged(await self._flush(), self._utterance)
                if self._intake is not None and receipt.finalized:
                    return receipt
                request = Finalize(
                    session=self.id,
                    epoch=self.epoch,
                    utterance=self._utterance,
                    traceparent=traceparent,
                )
                (reply,) = await self._channel.finalizes.submit([request])
                if isinstance(reply, Refused):
                    raise reply
            self._utterance = reply.utterance
        return reply

    def _number(self, pieces: Sequence[AudioChunk]) -> list[Chunk]:
        return [
            Chunk(
                session=self.id,
                epoch=self.epoch,
                seq=seq,
                ms=piece.ms,
                payload=self._encrypted(seq, piece.payload),
                end_of_utterance=piece.end_of_utterance,
                traceparent=piece.traceparent,
            )
            for seq, piece in enumerate(pieces, self._buffer.next_seq)
        ]

    def _encrypted(self, seq: int, payload: bytes) -> bytes:
        return self._cipher.encrypt_chunk(seq, payload) if self._cipher else payload

    def _bytes_of(self, chunk: Chunk) -> int:
        """How many bytes of the caller's audio the chunk holds."""
        overhead = self._cipher.overhead_bytes if self._cipher and chunk.payload else 0
        return len(chunk.payload) - overhead

    def _withdraw(self, accepted: Sequence[Chunk]) -> int:
        """The chunks of a refused call that are still pending were not appended after all.

        Chunks that an earlier call left pending stay: they count as appended. So do those of an
        encrypted session. They have been sent, and other audio under their numbers would give the
        server a choice between two ciphertexts that both decrypt. Returns how many bytes of the
        call's audio are stored, or stay.
        """
        if accepted and self._cipher is None:
            self._buffer.withdraw(accepted[0].seq)
        stored = [chunk for chunk in accepted if chunk.seq < self._buffer.next_seq]
        return sum(map(self._bytes_of, stored))

    async def _make_room(self) -> None:
        """Pending audio stays bounded while the server is away and the caller continues."""
        if not self._buffer.is_full:
            return
        try:
            await self._flush()
        except ServerUnavailable:
            fields = {"retry_after_ms": "1000", "accepted_bytes": "0", "cause": "server_away"}
            raise Backpressure("BACKPRESSURE", fields) from None

    async def _flush(self) -> list[Receipt]:
        """Send all pending chunks. Those that are not confirmed stay pending if this raises."""
        receipts: list[Receipt] = []
        while self._buffer:
            batch = self._buffer.batch(chunks_max=APPEND_ITEMS_MAX, bytes_max=APPEND_BYTES_MAX)
            confirmed, refused = await self._send(batch)
            self._buffer.confirm(len(confirmed))
            receipts += confirmed
            if confirmed:
                self._utterance = confirmed[-1].utterance
            if refused is not None:
                raise refused
        return receipts

    async def _flush_before_close(self) -> None:
        """As `_flush`, and wait for backpressure to end: no later call would send the audio."""
        for _ in range(BACKPRESSURE_WAITS_MAX):
            try:
                await self._flush()
            except Backpressure as refused:
                await self._channel.store.transport.sleep(refused.retry_after_ms / 1_000)
            else:
                return
        await self._flush()

    async def _send(self, batch: list[Chunk]) -> tuple[list[Receipt], Refused | None]:
        """The receipts of the chunks that are stored, in order, and why the next one is refused.

        Chunks that the server postpones have no receipt: the caller sends them again.
        """
        receipts: dict[int, Receipt] = {}
        chunks = batch
        refused: Refused | None = None
        for _ in range(RESENDS_MAX):
            replies = await self._channel.appends.submit(self._confirming(chunks))
            refused = next((reply for reply in replies if isinstance(reply, Refused)), None)
            for chunk, reply in zip(chunks, replies, strict=True):
                if isinstance(reply, Receipt):
                    receipts[chunk.seq] = reply
            if not isinstance(refused, SeqGap):
                break
            chunks = self._buffer.resend(
                batch,
                expected=refused.expected,
                chunks_max=APPEND_ITEMS_MAX,
                bytes_max=APPEND_BYTES_MAX,
            )
            if not chunks:
                raise refused
            log.warning("audio sent again", session=self.id, seq=refused.expected)
        if receipts:  # a refusal under backpressure does not count: keepalives continue
            self.quiet_s = 0
        return [receipts[chunk.seq] for chunk in batch if chunk.seq in receipts], refused

    def _confirming(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks, of which the first carries the position that this session has handled."""
        if not self._handled:
            return chunks
        return [msgspec.structs.replace(chunks[0], confirmed=self._handled), *chunks[1:]]

    # --- results out ------------------------------------------------------------------------

    def results(
        self,
        *,
        after: str | Outcome | None = None,
        partials: bool = False,
        confirms: bool = True,
    ) -> Results:
        """Iterate over the outcomes that the session receives, in order, until its end.

        An outcome counts as handled when the next one is asked for; a resumed session receives
        those that were not handled. A second call continues after the last outcome taken.

        Args:
            after: An outcome, or its id, after which to start instead.
            partials: Include partial results. At most the newest 32 wait for the session.
            confirms: Whether an outcome counts as handled when the next one is asked for. Otherwise
                it counts once `confirm` names it or a later one.

        Returns:
            An asynchronous iterator of Result, NoSpeech, Failed, Missing, Truncated and, if asked
            for, Partial. It ends with the session, or with the block of a session that is detached,
            and waits for a server that is away, also after the block. A text that cannot be
            decrypted or read does not end it: see Result. Once another producer has resumed the
            session, it raises SessionSuperseded; once the records of the session are deleted,
            SessionUnknown.

        Raises:
            InvalidMessage: `after` is not the id of an outcome.
            SessionSuperseded: Another producer has resumed the session.
        """
        self._check_owner()
        self._confirms = confirms
        if partials:
            self._wants_partials = True
            if self._subscription is not None:
                self._channel.listener.want_partials(self._subscription)
        if after is not None:
            self._taken = after if isinstance(after, str) else after.id
            self._subscribe(self._taken)
        is_encrypted = self._cipher is not None
        listener = Listener(self.id, self._keys, is_encrypted, self._room)
        return Results(self._next_entry, listener, partials=partials)

    def confirm(self, outcome: str | Outcome) -> None:
        """Count the outcomes up to this one as handled; the next append or keepalive says so.

        Args:
            outcome: An outcome, or its id, that the session has received. One before the last that
                was handled has no effect.

        Raises:
            InvalidMessage: The session has not received an outcome of this id or a later one.
        """
        position = outcome if isinstance(outcome, str) else outcome.id
        _check_position(position)
        if position == START or (self._handled and parse_id(position) <= parse_id(self._handled)):
            return
        if not self._taken or parse_id(position) > parse_id(self._taken):
            raise InvalidMessage.of(
                "outcome", "the id of an outcome that was received", "confirm what arrived"
            )
        self._handled = position

    async def _next_entry(self) -> OutboxEntry | None:
        """The next entry of the outbox; none after the session's end."""
        self._check_owner()
        subscription = self._subscription or self._subscribe(self._start)
        if self._confirms:
            self._handled = self._taken
        entry = await self._channel.listener.take(subscription)
        if entry is not None and entry.kind not in ("truncated", "partial"):
            self._taken = entry.id
        return entry

    def _on_end(self, refused: Refused) -> None:
        """This producer no longer owns the session: its results end with the refusal."""
        self._refusal = refused
        if self._subscription is not None:
            self._channel.listener.remove(self._subscription)
            self._subscription.fail(refused)

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """End the results as well if a call in the block is refused because of the owner."""
        try:
            yield
        except (SessionSuperseded, SessionUnknown) as refused:
            self._channel.unregister(self)
            self._on_end(refused)
            raise

    def _check_owner(self) -> None:
        """Raise the refusal if this producer no longer owns the session.

        Its subscription would replace that of the present owner.
        """
        if self._refusal is not None:
            raise copy(self._refusal)

    def _subscribe(self, after: str) -> Subscription:
        _check_position(after)
        earlier = self._subscription
        self._subscription = Subscription(self.id, after, wants_partials=self._wants_partials)
        if not self._is_left:
            self._channel.listener.add(self._subscription)
        else:
            self._subscription.end()
            if earlier is not None:
                self._channel.listener.remove(earlier)
        return self._subscription

    # --- playback ---------------------------------------------------------------------------

    async def playback_started(self, result: Result) -> None:
        """Record that the audio of a result starts to play for this session.

        Until the playback ends, a pause does not complete this session's utterance. Without a
        recorded end, the playback counts as ended after the setting `playback_ms`.

        Args:
            result: The result that plays, as the session received it.

        Raises:
            InvalidMessage: `result` is another outcome, or this session cannot have received it: it
                is neither the session's own nor of a session in its room. Or 64 playbacks are open,
                or the session has started each result it received once, and 128 more.
            Backpressure: The cell or the tenant starts no further work for now.
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
        """
        await self._mark_playback(result, started=True)

    async def playback_ended(self, result: Result) -> None:
        """Record that the playback of a result has ended; harmless if it never started.

        Args:
            result: The result that played.

        Raises:
            Refused: As `playback_started`.
        """
        await self._mark_playback(result, started=False)

    async def _mark_playback(self, result: object, *, started: bool) -> None:
        if not isinstance(result, Result) or not result.id:
            raise InvalidMessage.of(
                "result",
                f"a result expected that a session received, got {type(result).__name__}",
                "pass a Result of `results()`",
            )
        store = self._channel.store
        with self._owned():
            await Backoff(store.transport).call(
                lambda: store.mark_playback(
                    self.id,
                    self.epoch,
                    origin=result.session,
                    target=result.target,
                    utterance=result.utterance,
                    started=started,
                ),
            )
        self.quiet_s = 0

    # --- the end ----------------------------------------------------------------------------

    def detach(self) -> None:
        """Keep the session open after its block ends, so that another process can resume it.

        That process needs `id` and `resume_secret`.

        An open session without a producer is closed after the setting `idle_ms`. The results end
        with the block: the producer that resumes the session receives those that were not handled.
        """
        self.is_detached = True

    async def close(self, *, wait: bool = True) -> bool:
        """Close the session: no more audio, and buffered audio becomes the last utterance.

        The call waits until every outcome of the session has ended. Results that were not taken
        yet can still be taken afterwards, for the time of the setting `outbox_retention_ms`.

        Args:
            wait: False returns as soon as the server has the request; then the end of the block
                does not wait either. `results` goes on, also after the block, until the session is
                closed, which takes at most the setting `close_wait_ms`.

        Returns:
            Whether the session is closed. With `wait`, False if it was not closed within the
            setting `close_wait_ms` and 5 s.

        Raises:
            ServerUnavailable: The server is away and the session is open. Audio that may not have
                arrived is sent before the close when the call is repeated.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
        """
        store = self._channel.store
        await self._request_close()
        subscription = self._subscription or self._subscribe(self._start)
        subscription.drains = True
        self._channel.listener.read_now(subscription)
        self.is_closing = True
        if not wait:
            return subscription.closed.is_set()
        settings = await Backoff(store.transport).call(store.read_settings)
        wait_s = settings.close_wait_ms / 1_000 + CLOSE_MARGIN_S
        with subscription.awaited():
            return await happens_within(store.transport, wait_s, subscription.closed)

    async def _request_close(self) -> None:
        """Send the audio that may not have arrived, and request the close."""
        store = self._channel.store
        async with self._turn:
            with self._owned():
                await self._accept_speech()
                await self._flush_before_close()
                self._channel.unregister(self)
                await Backoff(store.transport).call(
                    lambda: store.close_session(self.id, self.epoch)
                )

    def _release(self, *, is_cancelled: bool) -> None:
        """Stop keepalives and listening; close the session in the background if it is open.

        `Client` calls it when the block ends. The results of a session that is not closed yet,
        because the server is away or its outcomes have not ended, go on after the block. They end
        with a block that is cancelled.
        """
        self._channel.unregister(self)
        subscription = self._subscription
        is_over = self.is_detached or is_cancelled or self._refusal is not None
        if not is_over and (subscription is None or not subscription.closed.is_set()):
            subscription = subscription or self._subscribe(self._start)
            subscription.drains = False  # if no results are taken, at most its bounds are read
            self._channel.finish(self.id, subscription, self._request_close)
            return
        self._is_left = self.is_detached
        if subscription is not None:
            self._channel.listener.remove(subscription)
            subscription.end()


def _check_utterance_trace(traceparent: str, *, end_of_utterance: bool) -> None:
    """Raise InvalidMessage for a malformed traceparent, and for one of no utterance that ends."""
    check_traceparent("traceparent", traceparent)
    if traceparent and not end_of_utterance:
        raise InvalidMessage.of(
            "traceparent", "an utterance that ends with this audio", "pass end_of_utterance=True"
        )


def _ended(
    pieces: Sequence[AudioChunk], *, end_of_utterance: bool, traceparent: str
) -> list[AudioChunk]:
    """The pieces, of which the last one ends the utterance if asked."""
    if not pieces or not end_of_utterance:
        return list(pieces)
    *others, last = pieces
    return [*others, msgspec.structs.replace(last, end_of_utterance=True, traceparent=traceparent)]


class Results:
    """The asynchronous iterator that `Session.results` returns."""

    def __init__(
        self,
        next_entry: Callable[[], Awaitable[OutboxEntry | None]],
        listener: Listener,
        *,
        partials: bool,
    ) -> None:
        self._next_entry = next_entry
        self._listener = listener
        self._kinds = {"result", "truncated", "partial"} if partials else {"result", "truncated"}

    def __aiter__(self) -> Results:
        return self

    async def __anext__(self) -> Outcome:
        while True:
            entry = await self._next_entry()
            if entry is None:
                raise StopAsyncIteration
            if entry.kind in self._kinds:
                return await read_outcome(entry, self._listener)


def _merged(receipts: Sequence[Receipt], utterance: int) -> Receipt:
    """One receipt for several chunks; `utterance` is the current one if there are none."""
    finalized = tuple(number for receipt in receipts for number in receipt.finalized)
    is_new = any(receipt.status == "ok" for receipt in receipts)
    last = receipts[-1].utterance if receipts else utterance
    return Receipt("ok" if is_new else "duplicate", last, finalized)


def _check_position(after: str) -> None:
    if after != START and not (is_id(after) and ms_of(after)):
        raise InvalidMessage.of(
            "after", f"the id of an outcome expected, got {after!r:.80}", "pass an outcome"
        )
