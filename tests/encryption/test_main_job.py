"""An encrypted session works like any other, and cannot be read without its key."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

import eventsched
from eventsched.client.session import Results, Session
from eventsched.encryption.decrypt import EventDecryptor
from eventsched.encryption.keystore import KeyFolder
from eventsched.errors import KeyMissing, KeyStoreError
from eventsched.schema import codec
from eventsched.schema.events import Event, ResultDelivered, ResultRecorded, SessionOpened
from eventsched.schema.keys import name_of
from eventsched.store.client import Client
from eventsched.store.transport import entries_of
from tests.client.handlers import in_process
from tests.encryption.searching import all_values
from tests.fixtures_store import TimedStore
from tests.outcomes import next_of, next_result
from tests.server_kinds import Server
from tests.systems import client_of, serving, system, until

SPOKEN = b"\x13\x37SPOKEN WORDS\x37\x13"
PCM = SPOKEN * 800
SOURCE_TEXT = "geheimes Wort"
TRANSLATION = "palabra secreta"
SPEECH = b"SYNTHESISED" * 100


def node_of(name: str, jobs: list[eventsched.Job], *, blocking: bool = False) -> eventsched.Node:
    node = eventsched.Node(name, sources=["de"], targets=["es"], slots=2)

    def result_of(job: eventsched.Job | eventsched.BlockingJob, audio: bytes) -> eventsched.Result:
        jobs.append(job)  # type: ignore[arg-type]
        assert audio.startswith(PCM)
        return eventsched.Result(
            source_text=f"{SOURCE_TEXT} {job.utterance}",
            text=f"{TRANSLATION} {job.utterance}",
            audio=SPEECH,
        )

    if blocking:

        @node.job
        def blocks(job: eventsched.BlockingJob) -> eventsched.Result:
            return result_of(job, job.audio())

    else:

        @node.job
        async def awaits(job: eventsched.Job) -> eventsched.Result:
            await job.partial(source_text=SOURCE_TEXT[:8])
            return result_of(job, await job.audio())

    return node


async def one_more(session: Session, results: Results) -> eventsched.Result:
    await session.append(PCM, end_of_utterance=True)
    with anyio.fail_after(20):
        while isinstance(outcome := await anext(results), eventsched.Partial):
            assert (outcome.source_text, outcome.is_encrypted) == (SOURCE_TEXT[:8], False)
    assert isinstance(outcome, eventsched.Result), outcome
    return outcome


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
@pytest.mark.parametrize("blocking", [False, True], ids=["async", "thread"])
async def test_nodes_and_listeners_read_texts_that_the_server_cannot(
    server: Server, cell: str, key_store: KeyFolder, blocking: bool
) -> None:
    jobs: list[eventsched.Job] = []
    async with system(server.url, cell, key_store=key_store) as es:
        async with (
            serving(es, node_of("n1", jobs, blocking=blocking)),
            es.session("acme", "de", ["es"], encrypt=True) as session,
        ):
            results = session.results(partials=True)
            first = await one_more(session, results)
            assert (first.source_text, first.text) == (f"{SOURCE_TEXT} 0", f"{TRANSLATION} 0")
            assert first.audio == SPEECH
            await until_context(es, session)
            await one_more(session, results)
            assert jobs[1].context == [(f"{SOURCE_TEXT} 0", f"{TRANSLATION} 0")]
            stored = await all_values(es.store_of(session.id))
            for plain in (
                SPOKEN,
                SOURCE_TEXT.encode(),
                TRANSLATION.encode(),
                SOURCE_TEXT[:8].encode(),
                SPEECH[:22],
            ):
                assert plain not in stored
        await check_log(es, session, key_store)


async def until_context(es: eventsched.Client, session: Session) -> None:
    """Wait until the group view has folded the first result."""
    store = es.store_of(session.id)

    async def has_it() -> bool:
        revision = await store.transport.command(
            "GET", store.keys.active_revision("group"), key=store.keys.active_revision("group")
        )
        key = store.keys.view("group", revision.decode(), name_of(session.id))
        return bool(await store.transport.command("HEXISTS", key, "context:es", key=key))

    await until("the group view has the result", has_it)


async def check_log(es: eventsched.Client, session: Session, key_store: KeyFolder) -> None:
    """The log names the key and shows the lengths of texts; only the key decrypts the texts."""
    store = es.store_of(session.id)
    entries = await store.read_range(store.keys.log, "-", "+", 1_000)
    log = [codec.decode(*entry) for entry in entries]
    key = await key_store.get(session.id)
    assert [event.data.key for event in log if isinstance(event.data, SessionOpened)] == [key.id]
    texts = [event for event in log if isinstance(event.data, ResultRecorded | ResultDelivered)]
    assert len(texts) == 2
    for event in texts:
        text = codec.decode_text(event.body)
        assert (text.source_text, text.text, text.language) == ("", None, "")
        assert text.characters == len(f"{SOURCE_TEXT} 0{TRANSLATION} 0")
        plain = codec.decode_text((await EventDecryptor(key_store).decrypt(event)).body)
        assert plain.source_text.startswith(SOURCE_TEXT)
    await key_store.destroy(session.id)
    unchanged: Event = await EventDecryptor(key_store).decrypt(texts[0])
    assert unchanged == texts[0], "without the key the event stays encrypted"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_listener_without_the_key_gets_an_unreadable_result(
    server: Server, cell: str, key_store: KeyFolder, tmp_path: Path
) -> None:
    """In a room, a listener needs the key store with the speaker's key."""
    jobs: list[eventsched.Job] = []
    room = f"{cell}.r"
    async with (
        system(server.url, cell, key_store=key_store) as es,
        system(server.url, cell, roles=[], key_store=KeyFolder(tmp_path / "other")) as stranger,
        serving(es, node_of("n1", jobs)),
        stranger.session("acme", "fr", room=room, listen_language="es") as outside,
        es.session("acme", "fr", room=room, listen_language="es") as inside,
        es.session("acme", "de", room=room, encrypt=True) as speaker,
    ):
        (tmp_path / "other").mkdir(mode=0o700)
        await speaker.append(PCM, end_of_utterance=True)
        with anyio.fail_after(20):
            readable = await next_result(inside.results())
            unreadable = await next_result(outside.results())
        assert (readable.text, readable.audio, readable.is_encrypted) == (
            f"{TRANSLATION} 0",
            SPEECH,
            False,
        )
        assert (unreadable.text, unreadable.audio, unreadable.is_encrypted) == (None, None, True)
        assert (unreadable.outcome, unreadable.session) == ("result", speaker.id)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_job_moves_on_from_a_node_without_the_key(
    server: Server, cell: str, key_store: KeyFolder
) -> None:
    jobs: list[eventsched.Job] = []
    async with (
        system(server.url, cell, key_store=key_store) as es,
        system(server.url, cell, roles=[]) as keyless,
        serving(keyless, node_of("a-keyless", [])),
        serving(es, node_of("b-keyed", jobs)),
        es.session("acme", "de", ["es"], encrypt=True) as session,
    ):
        await session.append(PCM, end_of_utterance=True)
        with anyio.fail_after(20):
            result = await next_result(session.results())
        assert result.text == f"{TRANSLATION} 0"
        assert [job.attempt for job in jobs] == [2]
        log = await es.store_of(session.id).read_range(
            es.store_of(session.id).keys.log, "-", "+", 1_000
        )
        events = [codec.decode(*entry) for entry in log]
        (ended,) = [event.data for event in events if event.type == "AttemptEnded"]
        assert (ended.reason, ended.code) == ("failed", "KEY_MISSING")  # type: ignore[union-attr]


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_another_process_resumes_with_the_key(
    server: Server, cell: str, key_store: KeyFolder
) -> None:
    jobs: list[eventsched.Job] = []
    async with (
        system(server.url, cell, key_store=key_store) as es,
        system(server.url, cell, roles=[]) as keyless,
        serving(es, node_of("n1", jobs)),
    ):
        async with es.session("acme", "de", ["es"], encrypt=True) as session:
            await session.append(PCM)
            session.detach()
        with pytest.raises(KeyStoreError, match="no key store is named"):
            async with keyless.resume(session.id, session.resume_secret):
                pass
        async with es.resume(session.id, session.resume_secret) as again:
            assert again.epoch == 2, "the client without the key did not resume the session"
            await again.finalize()
            with anyio.fail_after(20):
                assert (await next_result(again.results())).text == f"{TRANSLATION} 0"
            again.detach()
        await key_store.destroy(session.id)
        with pytest.raises(KeyMissing, match="is destroyed"):
            async with es.resume(session.id, session.resume_secret):
                pass


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_handler_in_another_process_gets_the_audio_and_no_key(
    server: Server, cell: str, key_store: KeyFolder
) -> None:
    node = eventsched.Node("n1", sources=["de"], targets=["es"])
    node.job(processes=True)(in_process)
    async with (
        system(server.url, cell, key_store=key_store) as es,
        serving(es, node),
        es.session("acme", "de", ["es"], encrypt=True) as session,
    ):
        await session.append(PCM, end_of_utterance=True)
        with anyio.fail_after(30):
            result = await next_result(session.results())
        assert result.text is not None
        pid, size = map(int, result.text.split())
        assert pid != os.getpid()
        assert size == len(PCM) + 280 * 32


# --- tampering -----------------------------------------------------------------


async def swap_bodies(redis: Client, key: str, of: int) -> None:
    """Swap the bodies (field number `of`) of the first two entries of a stream."""
    entries = entries_of(await redis.execute_command("XRANGE", key, "-", "+"))
    bodies = [fields[of] for _, fields in entries]
    bodies[0], bodies[1] = bodies[1], bodies[0]
    await redis.delete(key)
    for (entry_id, fields), body in zip(entries, bodies, strict=True):
        fields[of] = body
        await redis.execute_command("XADD", key, entry_id, *fields)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_swapped_chunks_fail_the_job(
    server: Server, cell: str, redis: Client, key_store: KeyFolder
) -> None:
    jobs: list[eventsched.Job] = []
    async with (
        system(server.url, cell, key_store=key_store) as es,
        serving(es, node_of("n1", jobs)),
        es.session("acme", "de", ["es"], encrypt=True) as session,
    ):
        await session.append(PCM[:3_200])
        await session.append(PCM[3_200:6_400])
        await swap_bodies(redis, es.store_of(session.id).keys.audio(name_of(session.id)), 17)
        await session.finalize()
        with anyio.fail_after(20):
            failed = await next_of(eventsched.Failed, session.results())
        assert failed.code == "AUDIO_UNREADABLE"
        assert jobs == []


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_swapped_texts_are_unreadable(
    server: Server, cell: str, redis: Client, key_store: KeyFolder
) -> None:
    async with (
        system(server.url, cell, key_store=key_store) as es,
        serving(es, node_of("n1", [], blocking=True)),
        es.session("acme", "de", ["es"], encrypt=True) as session,
    ):
        store = es.store_of(session.id)
        out = store.keys.outbox(name_of(session.id))
        for _ in range(2):
            await session.append(PCM, end_of_utterance=True)

        async def both_are_stored() -> bool:
            return len(await store.read_range(out, "-", "+", 10)) == 2

        await until("both results are there", both_are_stored)
        await swap_bodies(redis, out, 7)
        results = session.results()
        with anyio.fail_after(20):
            first, second = await next_result(results), await next_result(results)
        states = [(each.utterance, each.text, each.is_encrypted) for each in (first, second)]
        assert states == [(0, None, True), (1, None, True)]


async def test_a_session_whose_key_cannot_be_stored_is_closed_at_once(
    store: TimedStore, key_store: KeyFolder
) -> None:
    key_store.path.mkdir(mode=0o755)
    async with client_of(store, key_store) as es:
        with pytest.raises(KeyStoreError, match="chmod 700"):
            async with es.session("acme", "de", ["es"], encrypt=True):
                pytest.fail("opened")
    assert await store.types() == ["SessionOpened", "SessionClosing", "SessionClosed"]
