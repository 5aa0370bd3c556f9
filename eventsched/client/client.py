"""The entry point of the library: connect, open a session, resume a session.

Owns: `connect`, `Client`, the names, tokens and secrets that clients create (rule 7, resumable
sessions), the checks of a session's arguments, and the end of a session's block.
Must not: start roles.
Read next: reading.py (reading), session.py (producing), node/node.py (serving).
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import msgspec

from eventsched.audio.chunks import CHUNK_BYTES_MAX, RATE_MAX, RATE_MIN, Format
from eventsched.audio.endpointing import Endpointing
from eventsched.audio.speech_detector import check_installed
from eventsched.client.append_buffer import StoredLimits
from eventsched.client.channel import CellMultiplexer
from eventsched.client.reading import ReadingClient
from eventsched.client.session import Session
from eventsched.client.speech_intake import SpeechIntake, limits_of
from eventsched.current_span import current_traceparent
from eventsched.encryption.decrypt import check_plain, load_cipher, make_cipher
from eventsched.encryption.keystore import VARIABLE, AnyKeys, Key, KeyStore, find_key_store
from eventsched.errors import (
    InvalidMessage,
    KeyStoreError,
    Refused,
    ServerUnavailable,
    SessionClosedError,
    SessionSuperseded,
    SessionUnknown,
    UnexpectedReply,
)
from eventsched.logs import get_logger, warn_on_stderr
from eventsched.schema import keys
from eventsched.schema.settings import parse_settings
from eventsched.schema.validation import (
    PRIORITY_MAX,
    SERVICES_MAX,
    TARGETS_MAX,
    check_address,
    check_between,
    check_id,
    check_language,
    check_list,
    check_name,
    check_secret,
    check_traceparent,
    check_url,
)
from eventsched.server.choice import ServerChoice, choose_server
from eventsched.store.cell import Store
from eventsched.store.connection import CELLS_MAX, Connection, open_connection
from eventsched.store.retry import Backoff
from eventsched.store.session_commands import SessionGrant, hash_secret

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

FORMATS = ("pcm16", "opus")
SECRET_BITS = 128
"""Bits of a resume secret: 127 random bits, and one that tells whether the session is encrypted."""
RESEND_MS_MAX = 60_000
RESEND_BYTES_MAX = 16 * 1024 * 1024
CANCELLED_CLOSE_S = 5.0
"""How long a cancelled block may take to request the close of its session."""

warn_on_stderr()
log = get_logger("eventsched.client.client")


def connect(
    url: str | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    cells: int | None = None,
    settings: Mapping[str, int] | None = None,
    keys: AnyKeys | None = None,
    archive: str | os.PathLike[str] | None = None,
    resend_ms: int = StoredLimits().ms,
    resend_bytes: int = StoredLimits().bytes,
) -> AbstractAsyncContextManager[Client]:
    """Connect to a server when the block is entered; the client works as long as the block lasts.

    A server without cells gets them. Whether the server is a cluster is detected.

    Args:
        url: Address of the server: `redis://`, `rediss://` or `unix://`.
        data: Folder of an embedded server. A server is started there if none runs, and ends with
            its last user. Without both arguments the server is the one of EVENTSCHED_URL, else of
            the folder EVENTSCHED_DATA, else of `./.eventsched`, as for every command.
        cells: Number of cells of a server that has none yet (default 1).
        settings: Settings that replace those of the cells, by name, as whole numbers.
        keys: Key store for encrypted sessions, or the path of a key folder. Default: the folder
            that EVENTSCHED_KEYS names, else none.
        archive: Folder of the archive, for reads of events that the server has no more; it is
            opened by the first read. Default: the folder EVENTSCHED_ARCHIVE, else none.
        resend_ms: How much confirmed audio each session keeps, 0 to 60,000 ms. A failover may lose
            audio that the server had confirmed; the session then sends it again.
        resend_bytes: The same in bytes, 0 to 16 MiB. The smaller bound counts.

    Raises:
        InvalidMessage: The address, a setting or another argument is not acceptable; raised by the
            call itself.
        ServerUnavailable: No server answers, or it cannot be used; the message names the remedy.
            Raised when the block is entered.
    """
    check_between("resend_ms", resend_ms, 0, RESEND_MS_MAX)
    check_between("resend_bytes", resend_bytes, 0, RESEND_BYTES_MAX)
    if cells is not None:
        check_between("cells", cells, 1, CELLS_MAX)
    parse_settings(settings or {})
    folder = None if data is None else Path(data)
    choice = choose_server(url, folder)
    if choice.url:
        check_url(choice.url)
    limits = StoredLimits(resend_ms, resend_bytes)
    path = archive or os.environ.get("EVENTSCHED_ARCHIVE")
    return _connected(
        choice, cells, settings, find_key_store(keys), Path(path) if path else None, limits
    )


@asynccontextmanager
async def _connected(
    choice: ServerChoice,
    cells: int | None,
    settings: Mapping[str, int] | None,
    keys: KeyStore | None,
    archive: Path | None,
    limits: StoredLimits,
) -> AsyncIterator[Client]:
    """Connect for as long as the block lasts."""
    url, data = choice.url or None, choice.folder
    async with (
        open_connection(url, data=data, cells=cells, settings=settings) as connection,
        running_client(
            Client(
                connection.stores,
                url=connection.url,
                keys=keys,
                archive=archive,
                limits=limits,
                connection=connection,
            )
        ) as client,
    ):
        yield client


@asynccontextmanager
async def running_client(client: Client) -> AsyncIterator[Client]:
    """Run the client's tasks while the block lasts. An exception of the block stays unchanged."""
    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        for channel in client.channels.values():
            tasks.start_soon(channel.run, name=f"channel {channel.store.cell}")
        try:
            yield client
        except Exception as error:  # noqa: BLE001 - raised again below, without a group around it
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """The checked arguments of a session."""

    tenant: str
    source: str
    targets: list[str]
    features: list[str]
    room: str
    listen_language: str
    encoding: Format
    sample_rate: int
    priority: int
    traceparent: str
    key: str


def _new_secret(*, is_encrypted: bool) -> str:
    """A new resume secret. Its last bit tells whether the session is encrypted.

    The server cannot change that bit, unlike the record of the session (docs/adr/0016).
    """
    number = secrets.randbits(SECRET_BITS - 1) << 1 | is_encrypted
    return f"{number:0{SECRET_BITS // 4}x}"


def _is_of_encrypted(secret: str) -> bool:
    """Whether the secret is of an encrypted session."""
    return int(secret, 16) % 2 == 1


class Client(ReadingClient):
    """A connection to all cells of a server, made by `connect`."""

    def __init__(
        self,
        stores: Mapping[str, Store],
        *,
        url: str = "",
        rng: random.Random | None = None,
        keys: KeyStore | None = None,
        archive: Path | None = None,
        limits: StoredLimits | None = None,
        connection: Connection | None = None,
    ) -> None:
        super().__init__(stores, keys=keys, archive=archive, connection=connection)
        self.url = url
        """Address at which another thread can connect to the server; empty if it cannot."""
        self.channels = {cell: CellMultiplexer(store) for cell, store in stores.items()}
        self._rng = rng or random.SystemRandom()
        self._limits = limits

    def store_of(self, full_id: str) -> Store:
        """The store of the cell of `<cell>.<name>`.

        Raises:
            InvalidMessage: The server has no such cell.
        """
        return self._channel_of(full_id).store

    def new_name(self) -> str:
        """A new name of a session, or token: 128 random bits as 32 hexadecimal digits."""
        return f"{self._rng.getrandbits(128):032x}"

    def session(
        self,
        tenant: str,
        source: str,
        targets: Sequence[str] = (),
        *,
        features: Sequence[str] = (),
        room: str | None = None,
        listen_language: str | None = None,
        encoding: Format = "pcm16",
        sample_rate: int = 16_000,
        priority: int = 1,
        traceparent: str = "",
        encrypt: bool = False,
        endpointing: bool | Endpointing = False,
    ) -> AbstractAsyncContextManager[Session]:
        """Open a session when the block is entered; close it when the block ends.

        The end of the block waits until every outcome of the session has ended, at most for the
        setting `close_wait_ms`, unless `close` was called in the block. An exception of the block
        also closes the session, and comes out unchanged. A repeated call after a lost reply opens
        no second session.

        Args:
            tenant: The customer whose session it is; waiting is fair between tenants.
            source: Language that is spoken, such as `en`, or `auto`.
            targets: Languages that the speaker wants, at most 8. In a room the languages that the
                other members listen to take their place.
            features: Features that the nodes of its jobs must declare, at most 16.
            room: Name of a room of the tenant; its members hear each other. `<cell>.<name>` places
                the room in this cell.
            listen_language: Language in which this session hears the other members of the room.
            encoding: Encoding of the chunks: `pcm16` (mono, 16 bits, little-endian) or `opus`.
            sample_rate: Sample rate in Hz, 8,000 to 48,000.
            priority: 0 interactive, 1 normal, 2 background.
            traceparent: W3C trace context, stored with every event of the session. Without it, the
                current span of OpenTelemetry, if the application has one.
            encrypt: Encrypt audio and texts with a new key of the session in the key store.
                Nodes and listeners need the key; server and roles never have it.
            endpointing: Find the ends of utterances by voice activity detection: silence is not
                sent, and an utterance ends at the end of speech. True has the default settings.
                PCM16 only. A session takes about 6 % of one core of this process.

        Raises:
            InvalidMessage: An argument is not acceptable; field, limit and remedy are named.
            Backpressure: The cell or this tenant takes no more for now.
            KeyStoreError: The new key could not be stored; no session is left open.
            MissingDependencyError: The detector of `endpointing` is not installed.
            ServerUnavailable: The server is away.
        """
        name = self.new_name()
        checked_tenant = check_name("tenant", tenant)
        room_id = "" if room is None else self._room(checked_tenant, room)
        key = self._new_key(room_id) if encrypt else None
        request = _Request(
            tenant=checked_tenant,
            source=check_language("source", source, auto=True),
            targets=_languages("targets", targets),
            features=_features(features),
            room=room_id,
            listen_language=""
            if listen_language is None
            else check_language("listen_language", listen_language, auto=False),
            encoding=_format(encoding),
            sample_rate=check_between("sample_rate", sample_rate, RATE_MIN, RATE_MAX),
            priority=check_between("priority", priority, 0, PRIORITY_MAX),
            traceparent=check_traceparent("traceparent", traceparent or current_traceparent()),
            key=key.id if key else "",
        )
        if listen_language is not None and room is None:
            raise InvalidMessage.of(
                "listen_language", "only in a room", "name the room, or use targets"
            )
        speech = _endpointing(endpointing)
        if speech is not None:
            _check_pcm(request.encoding)
        cell = keys.cell_of(request.room) if request.room else keys.pick_cell(name, self.cells)
        return self._during(partial(self._open, keys.Keys(cell).full(name), request, key, speech))

    def resume(
        self,
        session_id: str,
        secret: str,
        *,
        tenant: str = "",
        endpointing: bool | Endpointing = False,
        also_closed: bool = False,
    ) -> AbstractAsyncContextManager[Session]:
        """Take an open session over when the block is entered; close it when the block ends.

        Appending continues at `Session.next_seq`, results after the last one that was handled. The
        producer that had the session before gets SessionSuperseded at its next call.

        Args:
            session_id: Full id of the session, `<cell>.<name>`, as `Session.id` has it.
            secret: Its resume secret, as `Session.resume_secret` has it.
            tenant: The tenant of the session, if it must be this one.
            endpointing: As in `session`. The detector begins anew.
            also_closed: Resume a session that is closing or closed as well, for the outcomes that
                did not arrive: `results` has them until the end of the session, and `append`
                raises SessionClosedError. No producer loses such a session.

        Raises:
            InvalidMessage: An argument is not of this form, or `endpointing` does not fit.
            SessionUnknown: There is no such session, its records are deleted, the secret is not
                the one of this session, or it belongs to another tenant.
            SessionClosedError: The session is closing or closed, without `also_closed`.
            Backpressure: The session was resumed 16 times in less than 160 s: a session can be
                resumed 16 times at once, and then once every 10 s.
            KeyMissing: The session is encrypted and its key is not in the key store.
            KeyStoreError: The session is encrypted, and no key store is named or there is none.
            DecryptionError: The session is not encrypted, although the key store has a key of it.
            ServerUnavailable: The server is away.
        """
        return self._during(
            partial(
                self._resume,
                check_id("session", session_id),
                check_secret("secret", secret),
                tenant,
                _endpointing(endpointing),
                also_closed=also_closed,
            )
        )

    # --- opening and closing ----------------------------------------------------------------

    def _new_key(self, audience: str) -> Key:
        if self.keys is None:
            raise InvalidMessage.of(
                "encrypt", "no key store is named", f"name a folder by --keys, keys= or {VARIABLE}"
            )
        return Key.new(audience)

    async def _open(
        self, full_id: str, request: _Request, key: Key | None, speech: Endpointing | None
    ) -> Session:
        channel, token = self._channel_of(full_id), self.new_name()
        secret = _new_secret(is_encrypted=key is not None)
        cipher = make_cipher(full_id, key) if key else None
        # A repeated call with the same token gets the same reply: a lost reply does no harm.
        grant = await Backoff(channel.store.transport).call(
            lambda: channel.store.open_session(
                name=keys.name_of(full_id),
                token=token,
                secret_sha1=hash_secret(secret),
                features_hash=features_hash(request.features),
                **msgspec.structs.asdict(request),
            ),
        )
        if key is not None:
            await self._store_key(key, channel.store, grant)
        return await self._register(
            channel,
            grant,
            secret,
            request.encoding,
            request.sample_rate,
            cipher,
            request.room,
            speech,
        )

    async def _store_key(self, key: Key, store: Store, grant: SessionGrant) -> None:
        """Store the key before any audio is encrypted with it; close the session if that fails."""
        assert self.keys is not None
        try:
            await self.keys.put(grant.session, key)
        except KeyStoreError:
            await store.close_session(grant.session, grant.epoch)
            raise

    async def _resume(
        self,
        session_id: str,
        secret: str,
        tenant: str,
        speech: Endpointing | None,
        *,
        also_closed: bool,
    ) -> Session:
        channel, token = self._channel_of(session_id), self.new_name()
        store = channel.store
        read = partial(store.read_hash, store.keys.session(keys.name_of(session_id)))
        record = await Backoff(store.transport).call(read)
        if tenant and record.get("tenant", tenant) != tenant:
            raise SessionUnknown("SESSION_UNKNOWN")
        # A missing key raises here, before the present producer loses the session. So does a record
        # without a key if the key store has one: the server does not decide what is encrypted. With
        # a wrong secret only the server answers: the session is unknown.
        is_owner = record.get("secret_sha1") == hash_secret(secret)
        if speech is not None:
            _check_pcm(record.get("encoding", "pcm16"))
        key_id = record.get("key", "") if is_owner else ""
        is_encrypted = bool(key_id) or (is_owner and _is_of_encrypted(secret))
        cipher = await load_cipher(self.keys, session_id, key_id) if is_encrypted else None
        if is_owner and cipher is None:
            await check_plain(self.keys, session_id)
        is_closing = False
        try:
            grant = await Backoff(store.transport).call(
                lambda: store.resume_session(session_id, secret, token)
            )
        except SessionClosedError:  # the secret is the right one, or the session were unknown
            if not also_closed or not is_owner:
                raise
            record = await Backoff(store.transport).call(read)
            if "buffer" not in record:  # its records were deleted meanwhile
                raise
            grant, is_closing = _grant_of_closed(session_id, record), True
        if not is_owner:  # the server has changed the record
            raise UnexpectedReply(f"{session_id}: the server resumed the session of another secret")
        return await self._register(
            channel,
            grant,
            secret,
            cast("Format", record["encoding"]),
            int(record["sample_rate"]),
            cipher,
            cipher.audience if cipher else "",
            speech,
            is_closing=is_closing,
        )

    async def _register(
        self,
        channel: CellMultiplexer,
        grant: SessionGrant,
        secret: str,
        encoding: Format,
        sample_rate: int,
        cipher: SessionCipher | None,
        room: str,
        speech: Endpointing | None,
        *,
        is_closing: bool = False,
    ) -> Session:
        intake = None
        if speech is not None:
            settings = await Backoff(channel.store.transport).call(channel.store.read_settings)
            overhead = cipher.overhead_bytes if cipher else 0
            limits = limits_of(settings, sample_rate)
            intake = SpeechIntake(speech, sample_rate, limits, bytes_max=CHUNK_BYTES_MAX - overhead)
        session = Session(
            channel,
            grant,
            secret,
            encoding,
            sample_rate,
            keys=self.keys,
            cipher=cipher,
            room=room,
            limits=self._limits,
            intake=intake,
        )
        if is_closing:  # it has no producer, so no keepalive
            session.is_closing = session.is_detached = True
            return session
        channel.register(session)
        log.debug("session open", session=session.id, epoch=session.epoch)
        return session

    @asynccontextmanager
    async def _during(self, opening: Callable[[], Awaitable[Session]]) -> AsyncIterator[Session]:
        session = await opening()
        is_cancelled = False
        try:
            yield session
        except anyio.get_cancelled_exc_class():
            is_cancelled = True
            await self._request_close(session)
            raise
        except Exception:
            try:
                await self._close(session)
            except Refused as refused:  # the exception of the block takes precedence
                log.warning("session not closed", session=session.id, error=str(refused))
            raise
        else:
            await self._close(session)
        finally:
            session._release(is_cancelled=is_cancelled)

    async def _close(self, session: Session) -> None:
        if session.is_detached or session.is_closing:
            return
        try:
            if not await session.close():
                log.warning("session not closed in time", session=session.id)
        except (SessionSuperseded, SessionUnknown) as refused:
            log.warning("session gone", session=session.id, code=refused.code)
        except ServerUnavailable as error:  # it is closed once the server is back
            log.warning("session not closed yet", session=session.id, error=str(error))

    async def _request_close(self, session: Session) -> None:
        """Request the close of a cancelled session without waiting for its outcomes."""
        if session.is_detached:
            return
        with anyio.move_on_after(CANCELLED_CLOSE_S, shield=True):
            try:
                await self.store_of(session.id).close_session(session.id, session.epoch)
            except (SessionSuperseded, SessionUnknown, ServerUnavailable) as error:
                log.warning("session not closed", session=session.id, error=str(error))

    def _channel_of(self, full_id: str) -> CellMultiplexer:
        channel = self.channels.get(keys.cell_of(full_id))
        if channel is None:
            raise InvalidMessage.of(
                "id", f"{full_id!r} names no cell of {', '.join(self.cells)}", "check the id"
            )
        return channel

    def _room(self, tenant: str, room: str) -> str:
        full_id = keys.room_id(tenant, check_address("room", room), self.cells)
        self._channel_of(full_id)
        return full_id


def features_hash(features: Sequence[str]) -> str:
    """The first 16 hex digits of SHA-256 over the sorted features (rule 10, job identity)."""
    if not features:
        return "none"
    return hashlib.sha256(",".join(sorted(set(features))).encode()).hexdigest()[:16]


def _languages(field: str, values: Sequence[str]) -> list[str]:
    listed = check_list(field, values, TARGETS_MAX)
    return [check_language(field, language, auto=False) for language in listed]


def _features(values: Sequence[str]) -> list[str]:
    listed = check_list("features", values, SERVICES_MAX)
    return [check_name("features", name) for name in listed]


def _endpointing(value: bool | Endpointing) -> Endpointing | None:
    """The settings of endpointing; none without it. Raises MissingDependencyError."""
    settings = Endpointing() if value is True else value
    if not settings:
        return None
    if not isinstance(settings, Endpointing):
        raise InvalidMessage.of(
            "endpointing", f"a bool or Endpointing expected, got {value!r:.80}", "pass True"
        )
    check_installed()
    return settings


def _check_pcm(encoding: str) -> None:
    if encoding != "pcm16":
        raise InvalidMessage.of(
            "endpointing", f"pcm16 expected, the session has {encoding}", "send PCM16"
        )


def _format(value: str) -> Format:
    if value not in FORMATS:
        raise InvalidMessage.of(
            "encoding", f"pcm16 or opus expected, got {value!r:.80}", "choose one"
        )
    return cast("Format", value)


def _grant_of_closed(session_id: str, record: Mapping[str, str]) -> SessionGrant:
    """Return where a session that is closing or closed has ended, by its record."""
    next_seq = int(record["buffer"].partition("|")[0])
    epoch, utterance = int(record["epoch"]), int(record["utterance"])
    return SessionGrant(session_id, epoch, next_seq, utterance, record.get("confirmed", "0-0"))
