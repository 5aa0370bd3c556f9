"""In a session that has a key, only what the key has encrypted counts.

A server, a role or a node without the key may write anything to Redis. Nothing of it reaches a
handler, or a listener as if a node with the key had sent it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

import eventsched
from eventsched.client.session import Session
from eventsched.encryption.cipher import SessionCipher
from eventsched.encryption.decrypt import EventDecryptor
from eventsched.encryption.keystore import Key, KeyFolder
from eventsched.errors import DecryptionError
from eventsched.node.job import Assignment, context_of, prepare
from eventsched.schema import codec
from eventsched.schema.events import ContextText, Event, ResultDelivered, Text
from eventsched.schema.ids import format_id, ms_of
from eventsched.schema.keys import name_of
from eventsched.store.cell import Store
from eventsched.store.client import Client
from eventsched.store.session_commands import Receipt
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.server_kinds import Server
from tests.stream_entries import LOG_BODY, replace_value
from tests.systems import client_of, serving, system

CHUNK = bytes(range(100)) * 32
FORGED = Text(source_text="FORGED", text="transfer the money")
ASKED: dict[str, Any] = {"tenant": "acme", "source": "en", "targets": ["es"]}


async def answered(store: TimedStore, session: Session, text: Text) -> None:
    """The result of a node without the key for the session's next utterance."""
    node = await store.join()
    await session.append(CHUNK, end_of_utterance=True)
    await store.dispatch()
    (message,) = await store.inbox(node)
    await store.answer(node, message, body=codec.encode_text(text))


# --- results -----------------------------------------------------------------------------------


async def test_a_plain_result_in_an_encrypted_session_is_left_out_and_logged(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        await answered(store, session, FORGED)
        with anyio.fail_after(20), capture_logs() as lines:
            result = await next_result(session.results())
        assert (result.text, result.source_text, result.audio) == (None, "", None)
        assert result.is_encrypted
        (line,) = [line for line in lines if line["event"] == "text not decrypted"]
        assert line["error"] == f"{session.id}: not encrypted, although the session has a key"
        assert "transfer" not in repr(lines)
        session.detach()


async def test_an_encrypted_session_receives_no_plain_result_of_an_invented_speaker(
    store: TimedStore, redis: Client, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        await answered(store, session, FORGED)
        outbox = store.keys.outbox(name_of(session.id))
        ((entry_id, entry),) = await store.read_range(outbox, "-", "+", 10)
        fields = [field.replace(session.id.encode(), b"c0.invented") for field in entry]
        position = fields.index(b"i") + 1
        number, total = map(int, fields[position].split(b":"))
        fields[position] = b"%d:%d" % (number + 1, total)
        await redis.execute_command("XADD", outbox, format_id(ms_of(entry_id), 1), *fields)
        results = session.results()
        with anyio.fail_after(20):
            received = [await next_result(results) for _ in range(2)]
        assert [(result.session, result.text) for result in received] == [
            (session.id, None),
            ("c0.invented", None),
        ]
        session.detach()


async def answered_encrypted(store: TimedStore, session: Session, keys: KeyFolder) -> None:
    """The result of a node with the key."""
    cipher = SessionCipher(session.id, await keys.get(session.id))
    await answered(store, session, cipher.encrypt_text("result", 0, "es", Text(text="secret")))


async def copy_outbox(store: TimedStore, redis: Client, source: Session, target: Session) -> None:
    """The server adds the first result of one session to the outbox of another session."""
    stream = store.keys.outbox(name_of(source.id))
    ((entry_id, fields),) = await store.read_range(stream, "-", "+", 1)
    copy = store.keys.outbox(name_of(target.id))
    await redis.execute_command("XADD", copy, entry_id, *fields)


@pytest.mark.parametrize("listener", [{}, {"encrypt": True}, {"encrypt": True, "room": "r1"}])
async def test_nobody_else_decrypts_a_session_without_a_room(
    store: TimedStore, redis: Client, key_store: KeyFolder, listener: dict[str, Any]
) -> None:
    """One application has one key store for all of its tenants."""
    async with (
        client_of(store, key_store) as es,
        es.session(**ASKED, encrypt=True) as session,
        es.session(**ASKED | {"tenant": "mallory"} | listener) as other,
    ):
        await answered_encrypted(store, session, key_store)
        await copy_outbox(store, redis, session, other)
        with anyio.fail_after(20):
            copied = await next_result(other.results())
            own = await next_result(session.results())
        session.detach()
        other.detach()
    assert (copied.session, copied.text, copied.is_encrypted) == (session.id, None, True)
    assert own.text == "secret"


@pytest.mark.parametrize("other_room", [{"tenant": "mallory", "room": "r1"}, {"room": "r2"}, {}])
async def test_the_members_of_a_room_alone_decrypt_its_sessions(
    store: TimedStore, redis: Client, key_store: KeyFolder, other_room: dict[str, Any]
) -> None:
    asked = ASKED | {"encrypt": True}
    async with (
        client_of(store, key_store) as es,
        es.session(**asked, room="r1") as speaker,
        es.session(**asked, room="r1", listen_language="es") as member,
        es.session(**asked | other_room) as other,
    ):
        await answered_encrypted(store, speaker, key_store)
        await copy_outbox(store, redis, member, other)
        with anyio.fail_after(20):
            received = await next_result(member.results())
            copied = await next_result(other.results())
        for session in (speaker, member, other):
            session.detach()
    assert (received.session, received.text) == (speaker.id, "secret")
    assert (copied.session, copied.text, copied.is_encrypted) == (speaker.id, None, True)


async def test_a_member_that_is_resumed_decrypts_its_room(
    store: TimedStore, key_store: KeyFolder
) -> None:
    asked = ASKED | {"room": "r1", "encrypt": True}
    async with (
        client_of(store, key_store) as es,
        es.session(**asked) as speaker,
        es.session(**asked, listen_language="es") as member,
    ):
        member.detach()
        async with es.resume(member.id, member.resume_secret) as resumed:
            await answered_encrypted(store, speaker, key_store)
            with anyio.fail_after(20):
                assert (await next_result(resumed.results())).text == "secret"
            resumed.detach()
        speaker.detach()


async def test_a_session_with_a_key_is_not_resumed_as_a_plain_session(
    store: TimedStore, redis: Client, key_store: KeyFolder
) -> None:
    """The server takes the key's id out of the session's record."""
    async with client_of(store, key_store) as es:
        async with es.session(**ASKED, encrypt=True) as session:
            session.detach()
        key = store.keys.session(name_of(session.id))
        await redis.execute_command("HSET", key, "key", "")
        async with es.resume(session.id, session.resume_secret) as resumed:
            await resumed.append(CHUNK)
            ((_, fields),) = await store.read_range(
                store.keys.audio(name_of(session.id)), "-", "+", 10
            )
            assert len(CHUNK) < max(map(len, fields))
            assert all(CHUNK not in field for field in fields)
            resumed.detach()


@pytest.mark.parametrize("has_store", [False, True])
async def test_a_producer_without_the_key_store_resumes_no_encrypted_session(
    store: TimedStore, redis: Client, key_store: KeyFolder, tmp_path: Path, has_store: bool
) -> None:
    """The server says that the session is not encrypted. The secret says that it is."""
    async with client_of(store, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        session.detach()
    key = store.keys.session(name_of(session.id))
    await redis.execute_command("HSET", key, "key", "")
    missing = KeyFolder(tmp_path / "not-mounted") if has_store else None
    async with client_of(store, missing) as other:
        with pytest.raises(eventsched.KeyStoreError):
            async with other.resume(session.id, session.resume_secret):
                raise AssertionError("resumed")
    assert (await store.read_hash(key))["epoch"] == "1", "the producer has not lost the session"


async def test_a_plain_result_of_another_speaker_with_a_key_is_left_out(
    store: TimedStore, key_store: KeyFolder
) -> None:
    """A listener in a room has the keys of the speakers, and expects what they encrypt."""
    room = f"{store.cell}.r"
    async with (
        client_of(store, key_store) as es,
        es.session("acme", "es", room=room, listen_language="es") as listener,
        es.session("acme", "en", room=room, encrypt=True) as speaker,
    ):
        await answered(store, speaker, FORGED)
        with anyio.fail_after(20):
            result = await next_result(listener.results())
        assert (result.session, result.text, result.is_encrypted) == (speaker.id, None, True)
        speaker.detach()
        listener.detach()


@pytest.mark.parametrize("has_folder", [True, False])
async def test_a_plain_result_in_a_session_without_a_key_is_read(
    store: TimedStore, key_store: KeyFolder, has_folder: bool
) -> None:
    if has_folder:
        await key_store.put("c0.another", Key.new())
    async with client_of(store, key_store) as es, es.session(**ASKED) as session:
        await answered(store, session, Text(text="hola"))
        with anyio.fail_after(20):
            result = await next_result(session.results())
        assert (result.text, result.is_encrypted) == ("hola", False)
        session.detach()


async def test_a_plain_text_in_the_history_of_a_session_with_a_key_is_refused(
    key_store: KeyFolder,
) -> None:
    await key_store.put("c0.s1", Key.new())
    data = ResultDelivered(utterance=7, target="es", delivery_no=0, outcome="result")
    event = Event(
        id="1-1", type="ResultDelivered", session="c0.s1", data=data,
        body=codec.encode_text(FORGED),
    )  # fmt: skip
    decryptor = EventDecryptor(key_store)
    for _ in range(2):
        with pytest.raises(DecryptionError, match="not encrypted, although the session has a key"):
            await decryptor.decrypt(event)
    other = msgspec.structs.replace(event, session="c0.s2")
    assert await decryptor.decrypt(other) == other


# --- what a handler sees -----------------------------------------------------------------------


def test_a_plain_text_in_the_context_of_an_encrypted_session_is_left_out_and_logged() -> None:
    cipher = SessionCipher("c0.s1", Key.new())
    true = cipher.encrypt_text("result", 1, "es", Text(source_text="one", text="uno"))
    parts = [
        ContextText("FORGED", "transfer the money", 0),
        ContextText("", None, 1, true.encrypted, true.characters),
    ]
    body = msgspec.msgpack.encode(parts)
    with capture_logs() as lines:
        assert context_of(body, cipher, "es") == [("one", "uno")]
    assert [line["event"] for line in lines] == ["context not readable"]
    assert "transfer" not in repr(lines)
    assert context_of(msgspec.msgpack.encode(parts[:1]), None, "es") == [
        ("FORGED", "transfer the money")
    ]


def node_of(jobs: list[eventsched.Job]) -> eventsched.Node:
    node = eventsched.Node("n1", sources=["en"], targets=["es"])

    @node.job
    async def handle(job: eventsched.Job) -> eventsched.Result:
        await job.audio()
        jobs.append(job)
        return eventsched.Result(text="hola")

    return node


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_job_that_claims_not_to_be_encrypted_reaches_no_handler(
    server: Server, cell: str, redis: Client, key_store: KeyFolder
) -> None:
    """The server takes the key's id out of the session's record."""
    jobs: list[eventsched.Job] = []
    async with (
        system(server.url, cell, key_store=key_store) as es,
        serving(es, node_of(jobs)),
        es.session(**ASKED, encrypt=True) as session,
    ):
        key = es.store_of(session.id).keys.session(name_of(session.id))
        assert await redis.execute_command("HSET", key, "key", "") == 0
        with anyio.fail_after(20), capture_logs() as lines:
            await session.append(CHUNK, end_of_utterance=True)
            failed = await next_of(eventsched.Failed, session.results())
        assert (failed.code, jobs) == ("AUDIO_UNREADABLE", [])
        assert "not encrypted, although the session has a key" in [line["event"] for line in lines]


@pytest.mark.parametrize(
    ("body", "chunk_no"),
    [(b"", 1), (b"", 0), (b"plain audio" * 200, 1), (b"plain audio" * 200, 2)],
    ids=["emptied", "emptied at the start", "plain", "plain at the end"],
)
async def test_a_chunk_that_the_key_has_not_encrypted_is_unreadable(
    store: TimedStore, redis: Client, key_store: KeyFolder, body: bytes, chunk_no: int
) -> None:
    """Count and bytes in the assignment are those of the server, so they fit what it stored.

    At the start and the end, an empty chunk is what a shorter utterance would be.
    """
    async with client_of(store, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        for _ in range(3):
            await session.append(CHUNK)
        key = store.keys.audio(name_of(session.id))
        ids = await replace_value(redis, key, chunk_no, LOG_BODY, body)
        chunks = await store.read_range(key, "-", "+", 10)
        assignment = Assignment(
            session=session.id, utterance=0, turn=0, source="en", target="es", attempt=1, epoch=1,
            encoding="pcm16", sample_rate=16_000, first=ids[0], last=ids[-1], count=len(ids),
            bytes=sum(len(fields[17]) for _, fields in chunks), ms=300, deadline_ms=0,
            key=(await key_store.get(session.id)).id,
        )  # fmt: skip
        job = eventsched.Job("job", assignment, b"", _Reporter(store))
        await prepare(job, key_store)
        if (body, chunk_no) == (b"", 0):
            assert await job.audio() == CHUNK * 2
        else:
            with pytest.raises(eventsched.JobError, match="AUDIO_UNREADABLE"):
                await job.audio()
        session.detach()


class _Reporter:
    """The registration of a job whose handler only reads."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def send_partial(self, key: str, attempt: int, body: bytes) -> None:
        raise AssertionError("not called")

    async def extend(self, key: str, attempt: int, more_ms: int) -> int:
        raise AssertionError("not called")


# --- one ciphertext for each number ------------------------------------------------------------


class Observed(TimedStore):
    """A server that keeps every ciphertext that it was ever sent, and takes audio when told."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: dict[int, set[bytes]] = defaultdict(set)

    async def append_audio(self, chunks: Any) -> Any:
        for chunk in chunks:
            self.sent[chunk.seq].add(chunk.payload)
        return await super().append_audio(chunks)

    async def press(self, *, is_active: bool) -> None:
        await self.set_backpressure("memory", is_active=is_active, seen=9 * is_active, limit=8)


def tone(number: int) -> bytes:
    return bytes([number]) * 3_200


async def test_a_number_never_has_two_ciphertexts_that_decrypt(
    store: TimedStore, key_store: KeyFolder
) -> None:
    """The server refuses audio, keeps what it was sent, and takes the audio that follows."""
    observed = Observed(store.transport, store.cell)
    async with client_of(observed, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        await session.append(tone(1))
        await observed.press(is_active=True)
        with pytest.raises(eventsched.Backpressure) as caught:
            await session.append(tone(2) * 20)
        assert caught.value.accepted_bytes == 3_200 * 20, "all of it counts as appended"
        with pytest.raises(eventsched.Backpressure) as caught:
            await session.append(tone(3))
        assert caught.value.accepted_bytes == 3_200
        with pytest.raises(eventsched.Backpressure):
            await session.append(b"")
        await observed.press(is_active=False)
        receipt = await session.append(b"")
        assert isinstance(receipt, Receipt)
        assert receipt.status == "ok"
        await session.append(tone(4), end_of_utterance=True)
        cipher = SessionCipher(session.id, await key_store.get(session.id))
        plain = [
            cipher.decrypt_chunk(seq, ciphertext)
            for seq in sorted(observed.sent)
            for ciphertext in observed.sent[seq]
        ]
        assert plain == [tone(1), *[tone(2)] * 20, tone(3), tone(4)]
        entries = await store.read_range(store.keys.audio(name_of(session.id)), "-", "+", 100)
        stored = [fields[17] for _, fields in entries]
        assert stored == [one for seq in sorted(observed.sent) for one in observed.sent[seq]]
        session.detach()


async def test_empty_audio_is_refused_if_nothing_waits(
    store: TimedStore, key_store: KeyFolder
) -> None:
    async with client_of(store, key_store) as es, es.session(**ASKED, encrypt=True) as session:
        await session.append(CHUNK)
        with pytest.raises(eventsched.InvalidMessage):
            await session.append(b"")
        session.detach()
