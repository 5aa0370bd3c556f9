"""The producer's side of one session: audio in, results out.

Owns: numbering chunks, sending again what may not have arrived, what was heard and handled.
Never does: batching over sessions (channel.py), judging audio (audio/chunks.py).
Read next: client.py (opening), results.py (what is heard), audio/chunks.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio
import msgspec
import structlog

from eventsched.audio import chunks
from eventsched.audio.chunks import AudioChunk, Format
from eventsched.client.channel import APPEND_BYTES_MAX, APPEND_ITEMS_MAX, CellMultiplexer
from eventsched.client.results import Delivered, heard
from eventsched.client.subscription import START, OutboxEntry, Subscription
from eventsched.encryption.keystore import KeyStore
from eventsched.errors import (
    Backpressure,
    InvalidMessage,
    Refused,
    SeqGap,
    ServerUnavailable,
)
from eventsched.store.cell import Chunk, Finalize, Receipt, SessionGrant
from eventsched.store.retry import Backoff, happens_within

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

RESENDS_MAX = 3
PRESSED_MAX = 10
"""How often a closing session waits for pressure to end while it holds audio."""
KEPT_CHUNKS = 256
KEPT_BYTES = 2 * 1024 * 1024
"""What is kept of appended audio for a server that forgot some of it in a failover."""
UNSURE_BYTES_MAX = 32 * 1024 * 1024
"""Beyond so much that no server has taken, nothing more is taken from the caller."""
CLOSE_MARGIN_S = 5.0

log = structlog.get_logger("eventsched.client.session")


class Session:
    """One open session: audio in, results out. Made by `Client.session` and `Client.resume`.

    Its methods may be called by several tasks; appends take effect in the order of their calls.
    """

    def __init__(
        self,
        channel: CellMultiplexer,
        grant: SessionGrant,
        encoding: Format,
        sample_rate: int,
        *,
        keys: KeyStore | None = None,
        seal: SessionCipher | None = None,
    ) -> None:
        self.id = grant.session
        """Full id of the session, `<cell>.<name>`."""
        self.epoch = grant.epoch
        """Number of the producer that holds the session; each resume raises it."""
        self.encoding = encoding
        self.sample_rate = sample_rate
        self.quiet_s = 0
        self.is_detached = False
        self._channel = channel
        self._keys = keys
        self._seal = seal
        """Encrypts its audio; none when the session is not encrypted."""
        self._next_seq = grant.next_seq
        self._utterance = grant.utterance
        self._turn = anyio.Lock(fast_acquire=True)  # free, it costs no turn of the event loop
        self._unsure: list[Chunk] = []
        """Sent, but nobody knows whether it arrived: goes again before anything else."""
        self._kept: deque[Chunk] = deque()
        self._kept_bytes = 0
        self._start = grant.out_id
        self._box: Subscription | None = None
        self._taken = self._handled = ""

    @property
    def next_seq(self) -> int:
        """Number of the next chunk: as many chunks have been appended, from 0."""
        return self._next_seq

    @property
    def utterance(self) -> int:
        """Index of the current utterance, from 0, as of the last reply of the server."""
        return self._utterance

    @property
    def confirmed(self) -> str:
        """Id of the last result that was handled, that is, after which another was asked for."""
        return self._handled

    # --- audio in ---------------------------------------------------------------------------

    async def append(
        self, audio: bytes | Sequence[bytes], *, end_of_utterance: bool = False
    ) -> Receipt:
        """Store audio, once and in order.

        Audio of 20 to 1,000 ms becomes one chunk; longer audio becomes chunks of 100 ms, sent in
        calls of at most 16 chunks or 1 MiB. A chunk may complete utterances.

        Args:
            audio: PCM16 bytes; for an Opus session a list of packets, or bytes in which each
                packet is preceded by its length as a big-endian 16-bit integer.
            end_of_utterance: The utterance ends with this audio. Then the audio may be shorter
                than 20 ms, or empty.

        Returns:
            The receipt of the whole call; `finalized` names the utterances that it completed.

        Raises:
            InvalidMessage: The audio is not what the session takes; nothing was sent.
            ChunkTooLarge: A packet has more than 65,536 bytes; nothing was sent.
            Backpressure: The cell, the tenant or the server takes no more for now. The field
                `accepted_bytes` says how much of the audio was stored; append the rest after
                `retry_after_ms`. Also raised, and nothing taken, when more than 32 MiB of audio
                wait for a server that is away.
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
            ServerUnavailable: The server is away. The audio counts as appended and is sent before
                anything else, as after a cancelled call.
        """
        bytes_max = chunks.CHUNK_BYTES_MAX - (self._seal.overhead_bytes if self._seal else 0)
        pieces = chunks.split_audio(
            audio,
            self.encoding,
            self.sample_rate,
            end_of_utterance=end_of_utterance,
            bytes_max=bytes_max,
        )
        try:
            await self._turn.acquire()
        except anyio.get_cancelled_exc_class():
            self._take(pieces, end_of_utterance=end_of_utterance)
            raise
        try:
            await self._make_room()
            earlier, numbered = (
                len(self._unsure),
                self._take(pieces, end_of_utterance=end_of_utterance),
            )
            try:
                receipts = await self._settle()
            except Refused as refused:
                refused.fields["accepted_bytes"] = str(self._give_back(numbered))
                raise
        finally:
            self._turn.release()
        return _merged(receipts[earlier : earlier + len(numbered)])

    def _take(self, pieces: Sequence[AudioChunk], *, end_of_utterance: bool) -> list[Chunk]:
        """From here on the audio counts as appended."""
        numbered = self._number(pieces, end_of_utterance=end_of_utterance)
        self._unsure += numbered
        return numbered

    async def finalize(self) -> Receipt:
        """Complete the current utterance.

        A cancelled call is sent all the same, possibly after audio that is appended next.

        Returns:
            A receipt; its status is `duplicate` if the utterance has no audio, or was complete.

        Raises:
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
            ServerUnavailable: The server is away; the call may be repeated.
        """
        async with self._turn:
            await self._settle()
            asked = Finalize(session=self.id, epoch=self.epoch, utterance=self._utterance)
            (reply,) = await self._channel.finalizes.submit([asked])
            if isinstance(reply, Refused):
                raise reply
            self._learn(reply)
        return reply

    def _number(self, pieces: Sequence[AudioChunk], *, end_of_utterance: bool) -> list[Chunk]:
        numbered = [
            Chunk(
                session=self.id,
                epoch=self.epoch,
                seq=self._next_seq + at,
                ms=piece.ms,
                payload=self._sealed(self._next_seq + at, piece.payload),
                end_of_utterance=end_of_utterance and piece is pieces[-1],
            )
            for at, piece in enumerate(pieces)
        ]
        self._next_seq += len(numbered)
        return numbered

    def _sealed(self, seq: int, payload: bytes) -> bytes:
        return self._seal.encrypt_chunk(seq, payload) if self._seal else payload

    def _bytes_of(self, chunk: Chunk) -> int:
        """How many bytes of the caller's audio it holds."""
        overhead = self._seal.overhead_bytes if self._seal and chunk.payload else 0
        return len(chunk.payload) - overhead

    def _give_back(self, numbered: Sequence[Chunk]) -> int:
        """What was refused of these was never taken. Returns the bytes of those that were stored.

        What an earlier call has left unsure stays so: it has been taken.
        """
        first = numbered[0].seq
        refused = [chunk for chunk in self._unsure if chunk.seq >= first]
        self._unsure = [chunk for chunk in self._unsure if chunk.seq < first]
        self._next_seq = refused[0].seq
        return sum(self._bytes_of(chunk) for chunk in numbered if chunk.seq < self._next_seq)

    async def _make_room(self) -> None:
        """What is unsure stays bounded while the server is away and the caller goes on."""
        if sum(len(chunk.payload) for chunk in self._unsure) <= UNSURE_BYTES_MAX:
            return
        try:
            await self._settle()
        except ServerUnavailable:
            fields = {"retry_after_ms": "1000", "accepted_bytes": "0", "reason": "server_away"}
            raise Backpressure("BACKPRESSURE", fields) from None

    async def _settle(self) -> list[Receipt]:
        """Everything that was taken is stored when this returns, or still comes first."""
        receipts: list[Receipt] = []
        while self._unsure:
            sent = _fitting(self._unsure)
            stored, refused = await self._exchange(sent)
            self._keep(sent[: len(stored)])
            self._unsure = self._unsure[len(stored) :]
            for receipt in stored:
                self._learn(receipt)
            receipts += stored
            if refused is not None:
                raise refused
        return receipts

    async def _settle_at_last(self) -> None:
        """As `_settle`, and pressure is waited out: nothing comes behind that could bring it."""
        for _ in range(PRESSED_MAX):
            try:
                await self._settle()
            except Backpressure as pressed:
                await self._channel.store.transport.sleep(pressed.retry_after_ms / 1_000)
            else:
                return
        await self._settle()

    async def _exchange(self, sent: list[Chunk]) -> tuple[list[Receipt], Refused | None]:
        """The receipts of those that were stored, in order, and why the next one was not."""
        stored: dict[int, Receipt] = {}
        going = sent
        refused: Refused | None = None
        for _ in range(RESENDS_MAX):
            replies = await self._channel.appends.submit(self._confirming(going))
            refused = next((reply for reply in replies if isinstance(reply, Refused)), None)
            for chunk, reply in zip(going, replies, strict=True):
                if isinstance(reply, Receipt):
                    stored[chunk.seq] = reply
            if not isinstance(refused, SeqGap):
                break
            log.warning("audio sent again", session=self.id, seq=refused.expected)
            going = self._from(refused, sent)
        if stored:  # what is refused under pressure does not count: keepalives go on
            self.quiet_s = 0
        return [stored[chunk.seq] for chunk in sent if chunk.seq in stored], refused

    def _from(self, gap: SeqGap, sent: list[Chunk]) -> list[Chunk]:
        """Everything from the number that the server expects, if it is all still held."""
        held = [chunk for chunk in (*self._kept, *sent) if chunk.seq >= gap.expected]
        if not held or held[0].seq != gap.expected:
            raise gap
        return held

    def _confirming(self, going: list[Chunk]) -> list[Chunk]:
        if not self._handled:
            return going
        return [msgspec.structs.replace(going[0], confirmed=self._handled), *going[1:]]

    def _keep(self, stored: Sequence[Chunk]) -> None:
        self._kept.extend(stored)
        self._kept_bytes += sum(len(chunk.payload) for chunk in stored)
        while len(self._kept) > KEPT_CHUNKS or self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popleft().payload)

    def _learn(self, receipt: Receipt) -> None:
        self._utterance = receipt.utterance

    # --- results out ------------------------------------------------------------------------

    def results(self, *, after: str | Delivered | None = None, partials: bool = False) -> Results:
        """Iterate over the outcomes that the session receives, in order, until its end.

        A result counts as handled when the next one is asked for; a resumed session receives what
        was not handled. A second call continues after the last result taken.

        Args:
            after: A result, or its id, after which to start instead.
            partials: Include partial results, with the outcome `partial`.

        Returns:
            An asynchronous iterator, which ends with the session and waits for a server that is
            away. A text that cannot be decrypted or read does not end it: see Delivered.

        Raises:
            InvalidMessage: `after` is not the id of a result.
        """
        if after is not None:
            self._taken = after.id if isinstance(after, Delivered) else after
            self._listen(self._taken)
        return Results(self, partials=partials)

    async def next_told(self) -> OutboxEntry | None:
        """The next entry of the out stream; none after the session's end. For `Results`."""
        box = self._box or self._listen(self._start)
        self._handled = self._taken
        told = await self._channel.listener.take(box)
        if told is not None and told.kind != "truncated":
            self._taken = told.id
        return told

    async def heard(self, told: OutboxEntry) -> Delivered:
        """An entry of the out stream to read, with the speaker's key if need be. For `Results`."""
        return await heard(told, self._keys)

    def _listen(self, after: str) -> Subscription:
        _check_position(after)
        if self._box is not None:
            self._channel.listener.remove(self._box)
        self._box = Subscription(self.id, after)
        self._channel.listener.add(self._box)
        return self._box

    # --- playback ---------------------------------------------------------------------------

    async def playback_started(self, result: Delivered) -> None:
        """Record that the sound of a result starts to play where this session hears it.

        Until it ends, a pause does not complete this session's utterance. The playback counts as
        ended after the setting `playback_ms` if no end is recorded.

        Args:
            result: The result that plays, with the outcome `result`.

        Raises:
            InvalidMessage: The outcome of `result` is another one.
            SessionClosedError: The session is closing or closed.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
        """
        await self._mark(result, started=True)

    async def playback_ended(self, result: Delivered) -> None:
        """Record that the sound of a result no longer plays; harmless if it never started.

        Args:
            result: The result that played. Errors are those of `playback_started`.
        """
        await self._mark(result, started=False)

    async def _mark(self, result: Delivered, *, started: bool) -> None:
        if result.outcome != "result":
            raise InvalidMessage.of(
                "result", f"a result expected, got {result.outcome}", "mark what is played"
            )
        store = self._channel.store
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

        An open session without a producer is closed after the setting `idle_ms`.
        """
        self.is_detached = True

    async def close(self) -> bool:
        """Close the session: no more audio, and buffered audio becomes the last utterance.

        The call waits until every outcome of the session has ended. Results that were not taken
        yet can still be taken afterwards.

        Returns:
            False if the end was not seen within the setting `close_wait_ms` and some seconds.

        Raises:
            ServerUnavailable: The server is away and the session is open. Audio that may not have
                arrived is sent before the close when the call is repeated.
            SessionSuperseded: Another producer has resumed the session.
            SessionUnknown: The records of the session are deleted.
        """
        store = self._channel.store
        async with self._turn:
            await self._settle_at_last()
            self._channel.producers.pop(self.id, None)
            await Backoff(store.transport).call(lambda: store.close_session(self.id, self.epoch))
        box = self._box or self._listen(self._start)
        box.drains = True
        self._channel.listener.look_again()
        settings = await store.read_hash(store.keys.settings)
        wait_s = int(settings["close_wait_ms"]) / 1_000 + CLOSE_MARGIN_S
        return await happens_within(store.transport, wait_s, box.closed)

    def forget(self) -> None:
        """Nobody listens or keeps alive any more. For `Client`."""
        self._channel.producers.pop(self.id, None)
        if self._box is not None:
            self._channel.listener.remove(self._box)


class Results:
    """The asynchronous iterator that `Session.results` returns."""

    def __init__(self, session: Session, *, partials: bool) -> None:
        self._session = session
        self._kinds = {"result", "truncated", "partial"} if partials else {"result", "truncated"}

    def __aiter__(self) -> Results:
        return self

    async def __anext__(self) -> Delivered:
        while True:
            told = await self._session.next_told()
            if told is None:
                raise StopAsyncIteration
            if told.kind in self._kinds:
                return await self._session.heard(told)


def _fitting(unsure: Sequence[Chunk]) -> list[Chunk]:
    """The first ones, as many as fit one call."""
    size, count = 0, 0
    for chunk in unsure[:APPEND_ITEMS_MAX]:
        size += len(chunk.payload)
        if count and size > APPEND_BYTES_MAX:
            break
        count += 1
    return list(unsure[:count])


def _merged(receipts: Sequence[Receipt]) -> Receipt:
    """One receipt for several chunks."""
    finalized = tuple(number for receipt in receipts for number in receipt.finalized)
    is_new = any(receipt.status == "ok" for receipt in receipts)
    return Receipt("ok" if is_new else "duplicate", receipts[-1].utterance, finalized)


def _check_position(after: str) -> None:
    ms, _, seq = after.partition("-")
    if after != START and not (ms.isdecimal() and seq.isdecimal() and int(ms)):
        raise InvalidMessage.of(
            "after", f"the id of a result expected, got {after!r:.80}", "copy it"
        )
