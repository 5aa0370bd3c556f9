"""An erased session cannot be read: not from Redis, its files, or the archive."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio import to_thread

import eventsched
import projections
from eventsched.archive import verifier
from eventsched.archive.archiver import Archiver
from eventsched.archive.commands import ArchiveCommands
from eventsched.archive.layout import ArchiveFolder
from eventsched.audit.erasure import (
    Eraser,
    FilesNotRewritten,
    NotErasable,
    rewrite_files,
)
from eventsched.audit.verify import Verifier
from eventsched.client.client import Client, running_client
from eventsched.encryption.keystore import Key, KeyFolder
from eventsched.errors import ArchiveError, KeyMissing, NotFound
from eventsched.history.reader import EventFilter, Reader
from eventsched.history.source import HistorySource
from eventsched.projection.store import ProjectionStore
from eventsched.roles.rebuild import Rebuild
from eventsched.roles.runner import running
from eventsched.schema.events import Event, SessionErased, SessionOpened
from eventsched.schema.keys import name_of
from eventsched.server.testing import LocalServer
from eventsched.store.cell import Store
from eventsched.store.connection import Connection, open_connection
from tests.archive.archives import seal_all
from tests.encryption.searching import all_values, archived_values, files_containing
from tests.outcomes import next_result
from tests.systems import serving, until

TEXT_BYTES = 40


@dataclass(frozen=True)
class Secret:
    """The plaintexts of one session: audio, words, translation, partial words, speech."""

    audio: bytes
    words: str
    text: str
    partial: str
    sound: bytes

    @classmethod
    def new(cls) -> Secret:
        w = partial(secrets.token_hex, TEXT_BYTES)
        return cls(os.urandom(3_200), w(), w(), w(), os.urandom(2_000))

    @property
    def all(self) -> dict[str, bytes]:
        return {
            "audio": self.audio,
            "words": self.words.encode(),
            "text": self.text.encode(),
            "partial": self.partial.encode(),
            "sound": self.sound,
        }


class ErasureSystem:
    """A server with all roles, an archive, a node, and sessions with utterances."""

    def __init__(
        self,
        server: LocalServer,
        connection: Connection,
        es: Client,
        key_store: KeyFolder,
        path: Path,
    ) -> None:
        self.server = server
        self.connection = connection
        self.es = es
        self.key_store = key_store
        self.store: Store = connection.stores["c0"]
        self.views = ProjectionStore(self.store.transport, "c0")
        self.folder, self._signing = ArchiveFolder.open_or_create(path, None)
        self.eraser = Eraser(connection, key_store)
        self._secrets: dict[bytes, Secret] = {}

    def node(self) -> eventsched.Node:
        node = eventsched.Node("n1", sources=["de"], targets=["es"], slots=4)

        @node.job
        async def translate(job: eventsched.Job) -> eventsched.Result:
            secret = self._secrets[(await job.audio())[:16]]
            await job.partial(source_text=secret.partial)
            return eventsched.Result(source_text=secret.words, text=secret.text, audio=secret.sound)

        return node

    async def talk(self, *, encrypt: bool, close: bool = True) -> tuple[str, Secret]:
        """A session of two utterances whose results have arrived."""
        secret = Secret.new()
        self._secrets[secret.audio[:16]] = secret
        async with self.es.session("acme", "de", ["es"], encrypt=encrypt) as session:
            for _ in range(2):
                await session.append(secret.audio, end_of_utterance=True)
                with anyio.fail_after(20):
                    result = await next_result(session.results())
                assert (result.text, result.audio) == (secret.text, secret.sound)
            if not close:
                session.detach()
        return session.id, secret

    async def archive(self) -> None:
        """Seal the whole log, with audio."""
        cell = self.folder.cell("c0")
        archiver = Archiver(self.views, cell, self._signing, projections.core, audio=True)
        await seal_all(archiver)
        await archiver.release()

    async def events(self, session: str) -> list[Event]:
        """The events of the session, oldest first."""
        history = Reader(HistorySource(self.connection)).history(EventFilter(session=session))
        return [entry async for entry in history if isinstance(entry, Event)]

    async def erase(self, session: str) -> str:
        return await self.eraser.erase(await self.eraser.find(session))

    async def retired(self, session: str) -> None:
        key = self.store.keys.session(name_of(session))

        async def is_gone() -> bool:
            return not await self.store.transport.command("EXISTS", key, key=key)

        await until(f"{session} is retired", is_gone)

    async def check_all(self) -> None:
        """Verify is clean, views equal a rebuild, and the archive is complete and untouched."""
        await self.archive()
        report = await Verifier(self.views, projections.core).run()
        assert report.violations == []
        assert report.failed_entries == []
        names = ["session", "group", "job", "node"]
        assert await Rebuild(self.views, projections.core, names).run() is not None
        assert (await Verifier(self.views, projections.core).run()).violations == []
        audited = await to_thread.run_sync(
            verifier.Verifier(self.folder.path, projection_set=projections.core).run
        )
        assert audited.problems == []
        assert audited.events > 0


@asynccontextmanager
async def erasure_system_of(
    server: LocalServer, tmp_path: Path, key_store: KeyFolder, **settings: int
) -> AsyncIterator[ErasureSystem]:
    async with (
        open_connection(server.url, settings=settings) as connection,
        running(connection),
        running_client(Client(connection.stores, url=server.url, keys=key_store)) as es,
    ):
        erasure_system = ErasureSystem(server, connection, es, key_store, tmp_path / "archive")
        async with serving(es, erasure_system.node()):
            yield erasure_system


async def test_no_plaintext_of_an_erased_session_is_left(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    """Every byte of the server's folder, the archive and the key store is searched."""
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        plain_id, plain = await target.talk(encrypt=False)
        secret_id, secret = await target.talk(encrypt=True)
        await target.archive()
        key = (await key_store.get(secret_id)).secret
        for what, content in secret.all.items():
            assert files_containing(tmp_path, content) == [], what
        for what, content in plain.all.items():  # the search finds plaintext where it is
            assert any(name.startswith("own/") for name in files_containing(tmp_path, content)), (
                what
            )
        assert plain.words.encode() in archived_values(target.folder.path)
        assert files_containing(tmp_path, key) == [f"keys/{secret_id}.key"]

        assert await target.erase(secret_id) == "erased"
        percentages: list[int] = []
        size = await rewrite_files(target.store, percentages.append)
        await target.archive()

        assert size is not None and size > 0 and percentages[-1] == 100
        assert files_containing(tmp_path, key) == []
        assert files_containing(tmp_path / "own", plain.words.encode()), (
            "the unencrypted session stays"
        )
        values = await all_values(target.store)
        assert plain.words.encode() in values
        for what, content in {"key": key, **secret.all}.items():
            assert files_containing(tmp_path, content) == [], what
            assert content not in values, what
            assert content not in archived_values(target.folder.path), what
        await target.check_all()
        entries = Reader(HistorySource(target.connection)).history(EventFilter(session=secret_id))
        types = [entry.type async for entry in entries if isinstance(entry, Event)]
        assert types[-1] == "SessionErased"
        with pytest.raises(KeyMissing):
            await key_store.get(secret_id)
        assert list(key_store.path.iterdir()) == []
        assert plain_id != secret_id


async def test_a_retired_session_is_erased_by_its_history(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(
        own_server, tmp_path, key_store, session_retention_ms=200
    ) as target:
        session, _ = await target.talk(encrypt=True)
        await target.retired(session)
        assert await target.erase(session) == "erased"
        assert await target.erase(session) == "already_erased"
        assert await key_store.sessions() == []
        await target.check_all()


async def test_a_session_trimmed_from_the_log_is_erased_with_the_archive(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(
        own_server, tmp_path, key_store, session_retention_ms=200, log_keep_ms=1
    ) as target:
        session, _ = await target.talk(encrypt=True)
        await target.retired(session)
        await target.talk(encrypt=False)
        await target.archive()
        await until("its events have left the log", partial(trimmed, target, session))
        with pytest.raises(ArchiveError, match="say where the archive is with --archive DIR"):
            await target.erase(session)
        eraser = Eraser(target.connection, key_store, target.folder)
        assert await eraser.erase(await eraser.find(session)) == "erased"
        assert await eraser.erase(await eraser.find(session)) == "already_erased"
        assert await key_store.sessions() == []


async def test_without_an_archive_trimmed_sessions_are_skipped_and_counted(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    settings = {"session_retention_ms": 200, "log_keep_ms": 1, "log_retention_ms": 1}
    async with erasure_system_of(own_server, tmp_path, key_store, **settings) as target:
        lost, _ = await target.talk(encrypt=True)
        await target.retired(lost)
        await target.talk(encrypt=False)
        await until("its events have left the log", partial(trimmed, target, lost))
        state, _ = await target.talk(encrypt=True)
        key = await key_store.get(lost)
        await target.store.erase_session(lost, key.id)  # the only entry left of its history
        with pytest.raises(NotFound, match="which names its key, is trimmed"):
            await target.erase(lost)
        candidates = target.eraser.older_than(0, [lost, "c0.nobody", state], lambda _: None)
        assert [state.session async for state in candidates] == [state]
        assert target.eraser.unknown == 2


async def trimmed(target: ErasureSystem, session: str) -> bool:
    commands = ArchiveCommands(target.views)
    await commands.trim()
    await commands.drop_session_indexes()
    log = await target.views.read_log("0-0", 10_000)
    return all(session.encode() not in fields for _, fields in log)


async def test_a_crash_between_key_and_event_is_completed_by_the_next_erase(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        session, _ = await target.talk(encrypt=True)
        await key_store.destroy(session)  # and the process crashes
        sessions = await key_store.sessions()
        async for state in target.eraser.older_than(0, sessions, lambda _: None):
            assert await target.eraser.erase(state) == "erased"
        assert len(await erased(target, session)) == 1
        assert await key_store.sessions() == []


async def test_a_key_restored_from_a_backup_is_destroyed_again(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        session, _ = await target.talk(encrypt=True)
        key = await key_store.get(session)
        await target.erase(session)
        await key_store.put(session, key)
        assert await target.erase(session) == "already_erased"
        assert await key_store.sessions() == []
        assert len(await erased(target, session)) == 1


async def test_a_session_that_cannot_be_erased_is_refused_and_unchanged(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        plain, _ = await target.talk(encrypt=False)
        running_one, _ = await target.talk(encrypt=True, close=False)
        for session, message, error in (
            (plain, "was not encrypted", NotErasable),
            (running_one, "is not closed yet", NotErasable),
            ("c0.nobody", "no session", NotFound),
        ):
            with pytest.raises(error, match=message):
                await target.erase(session)
        other = Eraser(target.connection, KeyFolder(tmp_path / "other"))
        (tmp_path / "other").mkdir(mode=0o700)
        closed, _ = await target.talk(encrypt=True)
        with pytest.raises(KeyMissing, match="another key store"):
            await other.erase(await other.find(closed))
        assert sorted(await key_store.sessions()) == sorted([running_one, closed])
        assert await erased(target, closed) == []


async def test_the_key_of_another_server_s_session_is_not_destroyed(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    """A server that names a session like one of another server cannot have its key destroyed."""
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        session, _ = await target.talk(encrypt=True)
        foreign = KeyFolder(tmp_path / "foreign")
        key = Key.new()
        await foreign.put(session, key)
        eraser = Eraser(target.connection, foreign)
        with pytest.raises(NotErasable, match=f"this key store has {key.id} for it"):
            await eraser.erase(await eraser.find(session))
        async for state in eraser.older_than(0, [session], lambda _: None):
            with pytest.raises(NotErasable):
                await eraser.erase(state)
        assert (await foreign.get(session)).secret == key.secret
        assert await erased(target, session) == []


async def test_a_forged_close_does_not_destroy_the_key_of_an_open_session(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        session, _ = await target.talk(encrypt=True, close=False)
        forge(target, session, "SessionClosed", "{}")
        with pytest.raises(NotErasable, match="is not closed yet"):
            await target.erase(session)
        assert await key_store.sessions() == [session]
        assert await erased(target, session) == []


async def test_forged_closes_do_not_postpone_an_erasure_or_hasten_it(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        session, _ = await target.talk(encrypt=True, close=False)
        forge(target, session, "SessionClosed", "{}")
        await target.store.close_session(session, 1)
        (closing,) = [
            each for each in await target.events(session) if each.type == "SessionClosing"
        ]
        forge(target, session, "SessionClosed", "{}")
        state = await target.eraser.find(session)
        times = [each.ms for each in await target.events(session) if each.type == "SessionClosed"]
        assert len(times) == 3
        assert state.closed_ms == times[1] >= closing.ms
        assert await target.eraser.erase(state) == "erased"


async def test_a_forged_opening_with_another_key_does_not_prevent_an_erasure(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(
        own_server, tmp_path, key_store, session_retention_ms=200
    ) as target:
        session, _ = await target.talk(encrypt=True)
        await target.retired(session)
        key = await key_store.get(session)
        (opened,) = [each for each in await target.events(session) if each.type == "SessionOpened"]
        assert isinstance(opened.data, SessionOpened)
        forged = msgspec.structs.replace(opened.data, key="0123456789abcdef")
        forge(target, session, "SessionOpened", msgspec.json.encode(forged).decode())
        (state,) = [s async for s in target.eraser.older_than(0, [session], lambda _: None)]
        assert state.key == key.id
        assert await target.eraser.erase(state) == "erased"
        assert await key_store.sessions() == []


def forge(target: ErasureSystem, session: str, kind: str, data: str) -> None:
    """Append an event to the log, as a client with the rights of a producer can."""
    fields = {"t": kind, "v": "1", "s": session, "j": "", "n": "", "c": "", "tp": "", "d": data}
    words = [word for pair in {**fields, "b": ""}.items() for word in pair]
    target.server.call("XADD", target.store.keys.log, "*", *words)


async def test_age_counts_from_the_close_and_unknown_sessions_are_skipped(
    own_server: LocalServer, tmp_path: Path, key_store: KeyFolder
) -> None:
    async with erasure_system_of(own_server, tmp_path, key_store) as target:
        old, _ = await target.talk(encrypt=True)
        still_open, _ = await target.talk(encrypt=True, close=False)
        await target.talk(encrypt=False)
        key = await key_store.get(old)
        await key_store.put("c0.elsewhere", key)  # a session of another server
        await key_store.put("c9.elsewhere", key)

        async def due(age_ms: int) -> list[str]:
            sessions, seen = await key_store.sessions(), list[int]()
            candidates = target.eraser.older_than(age_ms, sessions, seen.append)
            due_sessions = [state.session async for state in candidates]
            assert seen == [1, 2, 3, 4]
            return due_sessions

        async def is_old_enough() -> bool:
            return await due(300) == [old]

        assert await due(60_000) == []
        await until("it is old enough", is_old_enough)
        eraser = Eraser(target.connection, key_store)
        async for state in eraser.older_than(300, await key_store.sessions(), lambda _: None):
            assert await target.eraser.erase(state) == "erased"
        left = sorted([still_open, "c0.elsewhere", "c9.elsewhere"])
        assert await key_store.sessions() == left
        assert eraser.unknown == 2


async def erased(target: ErasureSystem, session: str) -> list[Event]:
    return [each for each in await target.events(session) if isinstance(each.data, SessionErased)]


# --- the append-only file ------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_cluster",
    [
        pytest.param(False, id="standalone"),
        pytest.param(True, id="cluster", marks=pytest.mark.cluster),
    ],
)
async def test_a_rewrite_removes_deleted_values_from_the_file(
    tmp_path: Path, is_cluster: bool
) -> None:
    folder = tmp_path / "own"
    deleted, stored = secrets.token_hex(1_000), secrets.token_hex(1_000)
    with LocalServer(folder, durable=True, is_cluster=is_cluster) as server:
        async with open_connection(server.url) as connection:
            key = connection.stores["c0"].keys.session_index("deleted")
            server.call("RPUSH", key, deleted)
            server.call("RPUSH", connection.stores["c0"].keys.session_index("stored"), stored)
            server.call("DEL", key)
            assert files_containing(folder, deleted.encode()), (
                "the file still has the deleted value"
            )
            size = await rewrite_files(connection.stores["c0"], lambda _: None)
            assert size is not None and size > len(stored)
            # the server removes the old file in the background
            await until(
                "the old file is gone", lambda: not files_containing(folder, deleted.encode())
            )
            assert files_containing(folder, stored.encode())


async def test_a_server_without_an_append_only_file_rewrites_nothing(tmp_path: Path) -> None:
    with LocalServer(tmp_path / "own") as server:
        async with open_connection(server.url) as connection:
            assert await rewrite_files(connection.stores["c0"], lambda _: None) is None


async def test_a_server_that_refuses_the_rewrite_is_reported(own_server: LocalServer) -> None:
    """As managed servers do; the key is destroyed all the same."""
    own_server.call("ACL", "SETUSER", "default", "-bgrewriteaof")
    async with open_connection(own_server.url) as connection:
        with pytest.raises(FilesNotRewritten, match="was not rewritten"):
            await rewrite_files(connection.stores["c0"], lambda _: None)
