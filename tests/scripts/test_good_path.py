"""The main path by its scripts alone: chunk, finalize, dispatch, result, delivery, close."""

from __future__ import annotations

from tests.fixtures_store import TimedStore


async def test_one_utterance_goes_all_the_way(store: TimedStore) -> None:
    node = await store.join()
    session = await store.open()
    await store.say(session, 0)
    receipt = await store.say(session, 1, end_of_utterance=True)
    assert receipt.finalized == (0,) and receipt.utterance == 1
    assert await store.dispatch() == 1
    (message,) = await store.inbox(node)
    assert message["t"] == "assign" and message["count"] == 2 and message["ms"] == 200
    await store.answer(node, message)
    (entry,) = await store.out(session)
    assert entry["outcome"] == "result" and entry["i"] == f"1:{256 + len(entry['b'])}"
    assert await store.close_session(session.session, session.epoch) == "ok"
    assert await store.types() == [
        "NodeRegistered",
        "SessionOpened",
        "UtteranceFinalized",
        "JobDispatched",
        "ResultRecorded",
        "SessionClosing",
        "SessionClosed",
    ]
    assert [m["state"] for m in await store.out(session) if m["t"] == "state"] == [
        "closing",
        "closed",
    ]
