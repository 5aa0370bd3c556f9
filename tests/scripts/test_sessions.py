"""open_session, resume_session and keep_alive: which producer may append, and for how long (rules
7, 8, 18).
"""

from __future__ import annotations

import asyncio
import re

import pytest

from eventsched.errors import (
    Backpressure,
    InvalidMessage,
    Refused,
    SessionClosedError,
    SessionSuperseded,
    SessionUnknown,
)
from eventsched.schema.settings import Settings
from eventsched.store.client import Client
from eventsched.store.session_commands import Receipt
from tests.fixtures_store import SECRET, SECRET_SHA1, TimedStore
from tests.scripts.calls import append, call, code_of, contents, events

OPEN: dict[str, str | int] = {
    "name": "s1", "token": "t1", "secret_sha1": SECRET_SHA1, "tenant": "acme", "source": "en",
    "targets": "es", "features": "", "features_hash": "none", "encoding": "pcm16",
    "sample_rate": 16_000, "priority": 1,
    "room": "", "listen_language": "", "tp": "", "key": "",
}  # fmt: skip


async def test_rule_7_open_tells_epoch_seq_and_utterance(store: TimedStore) -> None:
    session = await store.open(features=["vad", "sources"], features_hash="0123456789abcdef")
    assert (session.epoch, session.next_seq, session.utterance) == (1, 0, 0)
    (opened,) = await events(store, "SessionOpened")
    assert (opened.data.tenant, opened.data.features) == ("acme", ["sources", "vad"])


async def test_rule_7_the_same_token_opens_once(store: TimedStore) -> None:
    replies = await asyncio.gather(*(store.open() for _ in range(20)))
    assert len(set(replies)) == 1
    assert await store.types() == ["SessionOpened"]


async def test_rule_7_of_racing_tokens_one_opens(store: TimedStore) -> None:
    calls = (store.open(token=f"t{i}") for i in range(20))
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(reply, InvalidMessage) for reply in replies) == 19
    assert await store.types() == ["SessionOpened"]


async def test_rule_7_an_id_with_another_token_is_refused(store: TimedStore, redis: Client) -> None:
    await store.open()
    before = await contents(redis, store)
    with pytest.raises(InvalidMessage) as refused:
        await store.open(token="stranger")
    assert refused.value.fields["field"] == "session"
    assert await contents(redis, store) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "a b"), ("name", "a:b"), ("name", "x" * 65), ("token", ""),
        ("token", "a,b"), ("token", "a:1"), ("secret_sha1", ""), ("secret_sha1", "0" * 39),
        ("secret_sha1", "0" * 41), ("secret_sha1", "g" * 40), ("tenant", ""), ("tenant", "a:b"),
        ("tenant", "x" * 65), ("source", ""), ("source", "english"), ("source", "en-"),
        ("source", "e"), ("source", "en-x"), ("source", "en-123456789"), ("source", "EN"),
        ("targets", "auto"), ("targets", "es/x"), ("targets", "es,,fr"),
        ("targets", "de,en,es,fr,it,ja,ko,nl,pl"), ("features", "a b"), ("features", "a:b"),
        ("targets", "es,es"), ("targets", "fr,es"), ("features", "a,a"), ("features", "a,B"),
        ("features", ",".join(f"f{i}" for i in range(17))), ("features_hash", ""),
        ("features_hash", "a:b"), ("features_hash", "0123456789abcdefg"), ("encoding", "mp3"),
        ("sample_rate", ""), ("sample_rate", "16k"), ("sample_rate", 7_999),
        ("sample_rate", 48_001), ("priority", 3),
        ("priority", -1), ("room", "r1"), ("room", "other.r1"), ("room", "a:b"),
        ("room", "other.acme/r1"),
        ("listen_language", "auto"), ("listen_language", "e s"), ("key", "none"),
        ("key", "0123456789abcde"),
    ],
)  # fmt: skip
async def test_open_refuses_what_is_malformed(
    store: TimedStore, redis: Client, field: str, value: str | int
) -> None:
    before = await contents(redis, store)
    refusal = await code_of(store, "open_session", *(OPEN | {field: value}).values())
    named = {"name": "session", "features": "features"}.get(field, field)
    assert refusal.startswith(f"INVALID_MESSAGE {named}:")
    assert await contents(redis, store) == before


async def test_open_takes_all_that_rule_34_allows(store: TimedStore) -> None:
    most: dict[str, str | int] = {
        "name": "x" * 64, "source": "auto", "targets": "de,en,es,fr,it,ja,pt-BR,zh-Hant",
        "features": "A_b-9", "features_hash": "0123456789abcdef", "encoding": "opus",
        "room": store.keys.full("acme/R_1-x"), "listen_language": "fil", "sample_rate": 48_000,
        "priority": 0,
        "key": "0123456789abcdef",
    }  # fmt: skip
    assert await call(store, "open_session", *(OPEN | most).values()) == [1, 0, 0, b"0-0"]


async def test_rule_7_resume_goes_on_where_the_first_left(store: TimedStore) -> None:
    first = await store.open()
    for seq in range(3):
        await store.say(first, seq, end_of_utterance=seq == 1)
    second = await store.resume(first.session, "t2")
    assert (second.epoch, second.next_seq, second.utterance) == (2, 3, 1)
    await store.say(second, 3, end_of_utterance=True)
    finals = await events(store, "UtteranceFinalized")
    assert [(f.data.first_seq, f.data.count) for f in finals] == [(0, 2), (2, 2)]


async def test_rule_7_a_lower_epoch_is_superseded_everywhere(
    store: TimedStore, redis: Client
) -> None:
    old = await store.open()
    await store.say(old, 0)
    await store.resume(old.session, "t2")
    before = await contents(redis, store)
    for attempt in (
        store.say(old, 1),
        store.finalize_utterance(old.session, old.epoch, 0),
        store.close_session(old.session, old.epoch),
        store.mark_playback(
            old.session, old.epoch, origin=old.session, target="es", utterance=0, started=True
        ),
    ):
        with pytest.raises(SessionSuperseded) as refused:
            await attempt
        assert refused.value.fields == {"epoch": "2"}
    (reply,) = await store.keep_alive([(old.session, old.epoch, "")])
    assert isinstance(reply, SessionSuperseded)
    assert await contents(redis, store) == before


async def test_an_unknown_epoch_is_refused(store: TimedStore) -> None:
    session = await store.open()
    with pytest.raises(InvalidMessage):
        await append(store, session, 0, epoch=2)
    assert await code_of(store, "append_audio", "s1", "x", 0, 100, 0, b"aa", "") == (
        "INVALID_MESSAGE field=epoch limit=a whole number"
    )


async def test_rule_7_the_same_token_resumes_once(store: TimedStore) -> None:
    session = await store.open()
    calls = (store.resume(session.session, "t2") for _ in range(20))
    replies = await asyncio.gather(*calls)
    assert {reply.epoch for reply in replies} == {2}
    assert await store.types() == ["SessionOpened", "SessionResumed"]


async def test_rule_7_racing_resumes_leave_one_producer_that_may_append(store: TimedStore) -> None:
    session = await store.open()
    calls = (store.resume(session.session, f"r{i}") for i in range(8))
    grants = await asyncio.gather(*calls)
    assert sorted(grant.epoch for grant in grants) == list(range(2, 10))
    replies = await asyncio.gather(*(store.say(g, 0) for g in grants), return_exceptions=True)
    pairs = zip(grants, replies, strict=True)
    taken = [grant.epoch for grant, reply in pairs if isinstance(reply, Receipt)]
    assert taken == [9]


async def test_rule_7_a_late_retry_does_not_take_the_session_back(store: TimedStore) -> None:
    first = await store.open()
    await store.resume(first.session, "t2")
    third = await store.resume(first.session, "t3")
    late_resume = await store.resume(first.session, "t2")
    late_open = await store.open()
    assert (late_resume.epoch, late_open.epoch) == (2, 1)
    with pytest.raises(SessionSuperseded):
        await store.say(late_resume, 0)
    assert (await store.say(third, 0)).status == "ok"
    assert len(await events(store, "SessionResumed")) == 2


async def test_the_tokens_of_the_last_eight_epochs_are_stored(store: TimedStore) -> None:
    session = await store.open()
    for i in range(20):
        store.tick(10_000)
        await store.resume(session.session, f"r{i}")
    fields = await store.read_hash(store.keys.session("s1"))
    assert fields["tokens"] == ",".join(f"r{i}:{i + 2}" for i in range(12, 20))


async def test_rule_7_a_session_is_resumed_16_times_at_once_and_then_every_10_s(
    store: TimedStore, redis: Client
) -> None:
    session = await store.open()
    for i in range(16):
        await store.resume(session.session, f"r{i}")
    store.tick(1_000)
    before = await contents(redis, store)
    with pytest.raises(Backpressure) as refused:
        await store.resume(session.session, "r16")
    assert refused.value.fields == {"cause": "session_resumes", "retry_after_ms": "9000"}
    assert await contents(redis, store) == before
    assert (await store.resume(session.session, "r15")).epoch == 17  # no new resume
    store.tick(8_999)
    with pytest.raises(Backpressure):
        await store.resume(session.session, "r16")
    store.tick(1)
    assert (await store.resume(session.session, "r16")).epoch == 18
    with pytest.raises(Backpressure):
        await store.resume(session.session, "r17")
    other = await store.open("s2")
    assert (await store.resume(other.session, "r0")).epoch == 2
    for _ in range(16):
        store.tick(10_000)
        await store.keep_alive([(session.session, 18, "")])
    for i in range(17, 33):
        await store.resume(session.session, f"r{i}")


async def test_rule_7_backpressure_refuses_no_resume(store: TimedStore) -> None:
    """Work in flight needs its producer."""
    session = await store.open()
    await store.set_backpressure("memory", is_active=True, seen=2, limit=1)
    assert (await store.resume(session.session, "t2")).epoch == 2


async def test_rule_7_resume_names_the_last_entry_that_was_handled(store: TimedStore) -> None:
    node, session = await store.join(), await store.open()
    assert (await store.resume(session.session, "t2")).out_id == "0-0"
    session = await store.resume(session.session, "t2")
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    (message,) = await store.inbox(node)
    await store.answer(node, message)
    ((entry, _),) = await store.read_range(store.keys.outbox("s1"), "-", "+", 2)
    assert (await store.resume(session.session, "t3")).out_id == "0-0"
    await store.keep_alive([(session.session, session.epoch + 1, entry)])
    assert (await store.resume(session.session, "t4")).out_id == entry


async def test_rule_7_a_retired_session_is_unknown(store: TimedStore, redis: Client) -> None:
    before = await contents(redis, store)
    gone = store.keys.full("gone")
    with pytest.raises(SessionUnknown):
        await store.resume(gone, "t")
    with pytest.raises(SessionUnknown):
        await store.finalize_utterance(gone, 1, 0)
    with pytest.raises(SessionUnknown):
        await store.close_session(gone, 1)
    with pytest.raises(SessionUnknown):
        await store.mark_playback(gone, 1, origin=gone, target="es", utterance=0, started=True)
    (reply,) = await store.keep_alive([(gone, 1, "")])
    assert isinstance(reply, SessionUnknown)
    refusal = await code_of(store, "append_audio", "gone", 1, 0, 100, 0, b"aa", "")
    assert refusal == "SESSION_UNKNOWN"
    assert await contents(redis, store) == before


async def test_resume_refuses_a_token_that_is_no_name(store: TimedStore) -> None:
    session = await store.open()
    for token in ("", "a:1", "a,b", "x" * 65):
        with pytest.raises(InvalidMessage):
            await store.resume(session.session, token)
    assert await store.types() == ["SessionOpened"]


async def test_rule_7_a_wrong_secret_gets_the_reply_of_an_unknown_session(
    store: TimedStore, redis: Client
) -> None:
    session, closed = await store.open(), await store.open("closed")
    await store.close_session(closed.session, closed.epoch)
    before = await contents(redis, store)
    refusals = [
        await code_of(store, "resume_session", name, secret, token)
        for name in ("s1", "closed", "nobody")
        for secret in ("0" * 32, SECRET[:-1] + "1", SECRET.upper(), SECRET_SHA1[:32])
        for token in ("token-s1", "token-closed", "another")
    ]
    assert set(refusals) == {"SESSION_UNKNOWN"}
    assert await contents(redis, store) == before
    assert (await store.resume(session.session, "another")).epoch == 2


@pytest.mark.parametrize("secret", ["", "secret", "0" * 31, "0" * 33, "g" * 32, SECRET_SHA1])
async def test_rule_7_resume_refuses_a_secret_of_another_form(
    store: TimedStore, redis: Client, secret: str
) -> None:
    await store.open()
    before = await contents(redis, store)
    for name in ("s1", "nobody"):
        assert await code_of(store, "resume_session", name, secret, "t") == (
            "INVALID_MESSAGE secret: 32 hex digits"
        )
    assert await contents(redis, store) == before


async def test_rule_7_the_server_has_the_hash_of_the_secret_alone(
    store: TimedStore, redis: Client
) -> None:
    session = await store.open()
    await store.resume(session.session, "t2")
    fields = await store.read_hash(store.keys.session("s1"))
    assert fields["secret_sha1"] == SECRET_SHA1
    assert SECRET not in str(await contents(redis, store))


async def test_a_session_that_closes_is_not_opened_or_resumed(store: TimedStore) -> None:
    session = await store.open()
    await store.close_session(session.session, session.epoch)
    for attempt in (store.open(), store.resume(session.session, "t2")):
        with pytest.raises(SessionClosedError):
            await attempt


async def test_rule_8_idle_ends_after_sixty_seconds_of_nothing(store: TimedStore) -> None:
    await store.open()
    store.tick(59_999)
    assert await store.timers() == 0
    store.tick(1)
    await store.timers()
    (closing,) = await events(store, "SessionClosing")
    assert closing.data.reason == "idle"
    assert (await store.types())[-1] == "SessionClosed"


async def test_rule_8_append_mark_keepalive_and_resume_each_postpone_idle(
    store: TimedStore,
) -> None:
    session = await store.open()

    async def acts() -> None:
        await store.say(session, 0, end_of_utterance=True)

    async def marks() -> None:
        await store.mark_playback(
            session.session, session.epoch, origin=session.session, target="es", utterance=0,
            started=True,
        )  # fmt: skip

    async def keeps() -> None:
        assert await store.keep_alive([(session.session, session.epoch, "")]) == [None]

    async def resumes() -> None:
        await store.resume(session.session, "t2")

    for step in (acts, marks, keeps, resumes):
        store.tick(59_999)
        await step()
        store.tick(1)
        await store.timers()
        assert not await events(store, "SessionClosing"), step.__name__
    store.tick(59_999)
    await store.timers()
    assert [event.ms for event in await events(store, "SessionClosing")] == [store.at_ms]


async def test_rule_8_until_idle_has_come_it_can_be_resumed(store: TimedStore) -> None:
    session = await store.open()
    store.tick(59_999)
    assert (await store.resume(session.session, "t2")).epoch == 2
    store.tick(60_000)
    await store.timers()
    with pytest.raises(SessionClosedError):
        await store.resume(session.session, "t3")


async def test_rule_8_idle_finalizes_what_is_buffered_and_a_late_timekeeper_keeps_the_order(
    store: TimedStore,
) -> None:
    session = await store.open()
    await store.say(session, 0)
    store.tick(600_000)
    await store.timers()
    assert [type_ for type_ in await store.types() if type_ != "JobQueued"] == [
        "SessionOpened", "UtteranceFinalized", "SessionClosing",
    ]  # fmt: skip
    (pause,) = await events(store, "UtteranceFinalized")
    assert pause.data.reason == "pause"


@pytest.mark.parametrize(
    ("args", "field"),
    [
        (("s1", 1), "sessions"),
        (("s1", "x", ""), "epoch"),
        (("s1", 1, "now"), "confirmed"),
        (("s1", 1, "9" * 30 + "-0"), "confirmed"),
        (("s1", 1, "") * 513, "sessions"),
    ],
)
async def test_keep_alive_refuses_what_is_malformed(
    store: TimedStore, redis: Client, args: tuple[str | int, ...], field: str
) -> None:
    await store.open()
    store.tick(1)
    before = await contents(redis, store)
    refusal = await code_of(store, "keep_alive", *args)
    assert re.match(rf"INVALID_MESSAGE (field=)?{field}\b", refusal), refusal
    assert await contents(redis, store) == before


async def test_keep_alive_takes_32_sessions(store: TimedStore) -> None:
    session = await store.open()
    assert await store.keep_alive([(session.session, 1, "")] * 32) == [None] * 32


async def test_keep_alive_answers_for_each_session(store: TimedStore) -> None:
    first, second = await store.open("s1"), await store.open("s2")
    await store.close_session(second.session, second.epoch)
    replies = await store.keep_alive([(second.session, 1, ""), (first.session, 1, "")])
    assert isinstance(replies[0], SessionClosedError)
    assert replies[1] is None


async def test_pressure_refuses_open_and_ingest_and_nothing_else(store: TimedStore) -> None:
    session = await store.open()
    await store.say(session, 0)
    await store.set_backpressure("memory", is_active=True, seen=81, limit=80)
    for attempt in (store.open("s2"), store.say(session, 1)):
        with pytest.raises(Backpressure) as refused:
            await attempt
        assert refused.value.retry_after_ms > 0
    assert (await store.say(session, 0)).status == "duplicate"
    assert (await store.finalize_utterance(session.session, 1, 0)).status == "ok"
    assert (await store.resume(session.session, "t2")).epoch == 2
    assert await store.keep_alive([(session.session, 2, "")]) == [None]
    await store.set_backpressure("memory", is_active=False, seen=70, limit=80)
    session = await store.resume(session.session, "t2")
    assert (await store.say(session, 1)).status == "ok"
    assert await store.close_session(session.session, 2) == "ok"


async def test_rule_18_a_tenant_with_too_many_waiting_jobs_is_refused_alone(
    store: TimedStore,
) -> None:
    await store.configure_cell({"tenant_queue_max": 2}, overwrite=True)
    busy, other = await store.open("busy"), await store.open("other", tenant="other")
    await store.say(busy, 0, end_of_utterance=True)
    await store.say(busy, 1)
    await store.say(await store.open("same"), 0, end_of_utterance=True)
    for attempt in (store.open("more"), store.say(busy, 2)):
        with pytest.raises(Refused) as refused:
            await attempt
        assert (refused.value.code, refused.value.fields) == (
            "BACKPRESSURE",
            {"retry_after_ms": "5000", "cause": "tenant_queue", "tenant": "acme", "seen": "2",
             "limit": "2"},
        )  # fmt: skip
    assert (await store.say(other, 0)).status == "ok"
    assert (await store.finalize_utterance(busy.session, 1, 1)).status == "ok"
    await store.dispatch()
    assert len(await events(store, "JobQueued")) == 3


async def test_rule_33_a_tenant_with_too_many_sessions_is_refused_alone(
    store: TimedStore, redis: Client
) -> None:
    await store.configure_cell({"tenant_sessions_max": 2}, overwrite=True)
    first, second = await store.open("first"), await store.open("second")

    async def is_refused() -> bool:
        before = await contents(redis, store)
        try:
            await store.open("third")
        except Backpressure as refused:
            assert refused.fields == {
                "retry_after_ms": "1000", "cause": "tenant_sessions", "tenant": "acme",
                "seen": "2", "limit": "2",
            }  # fmt: skip
            assert await contents(redis, store) == before
            return True
        return False

    assert await is_refused()
    assert await store.open("first") == first, "a repeated call gets the same reply"
    assert (await store.resume(second.session, "t2")).epoch == 2
    await store.open("other", tenant="other")
    await store.close_session(first.session, first.epoch)
    assert await is_refused(), "the records of a closed session take memory"
    store.tick(Settings().session_retention_ms)
    await store.timers()
    await store.open("third")
    members = await redis.smembers(store.keys.tenant_sessions("acme"))
    assert sorted(members) == [b"second", b"third"]
