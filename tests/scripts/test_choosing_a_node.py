"""Rules 12, 15, 16, 17 and 29: which node gets the job, why, and with which context."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.schema.events import Affinity, ClassSeen, OtherClasses
from eventsched.store.node_commands import NodeGrant, NodeResult
from tests.fixtures_store import TimedStore
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import assigned, last, logged, reply, speak

TTS: dict[str, Any] = {"features": ["tts"], "features_hash": "0123456789abcdef"}


async def ran_on(store: TimedStore) -> list[str]:
    return [event.node.partition(".")[2] for event in await logged(store, "JobDispatched")]


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (None, "NO_POOL_FOR_LANG_PAIR"),
        ({"sources": ["de"]}, "NO_POOL_FOR_LANG_PAIR"),
        ({"targets": ["fr"]}, "NO_POOL_FOR_LANG_PAIR"),
        ({"features": ["vad"]}, "NO_POOL_FOR_LANG_PAIR"),
        ({"features": ["tts"], "full": True}, "NO_AVAILABLE_NODE"),
        ({"features": ["tts"], "drain": True}, "NO_AVAILABLE_NODE"),
        ({"features": ["tts"], "suspension": True}, "NO_AVAILABLE_NODE"),
    ],
)
async def test_rule_15_the_two_reasons_to_wait(
    store: TimedStore, node: dict[str, Any] | None, reason: str
) -> None:
    if node is not None:
        fields = dict(node)
        states = [fields.pop(state, None) for state in ("full", "drain", "suspension")]
        grant = await store.join(slots=1, **fields)
        if any(states):
            await speak(store, "before", **TTS)
            await store.dispatch()
        if node.get("drain"):
            await store.drain_node(grant.node, grant.epoch, within_ms=60_000)
        if node.get("suspension"):
            (message,) = await assigned(store, grant)
            await reply(
                store,
                grant,
                message["j"],
                status="failed",
                code="MODEL_NOT_AVAILABLE",
                feature="tts",
            )
    session = await speak(store, "s1", count=2, **TTS)
    await store.dispatch()
    queued = [e for e in await logged(store, "JobQueued") if e.session == session.session]
    assert [event.data.reason for event in queued] == [reason, reason]
    receipt = await store.say(session, 2, end_of_utterance=True)
    assert receipt.finalized == (2,)
    await check(store, idle=False)


async def test_rule_15_a_requirement_whose_last_able_node_went_waits_for_another_reason(
    store: TimedStore,
) -> None:
    node = await store.join(slots=1)
    await speak(store, "s1", count=2)
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_AVAILABLE_NODE"
    await store.drain_node(node.node, node.epoch, within_ms=0)
    await speak(store, "s2")
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_POOL_FOR_LANG_PAIR"
    await check(store)


async def test_rule_17_a_first_attempt_avoids_no_node(store: TimedStore) -> None:
    await store.join()
    await speak(store, "s1")
    await store.dispatch()
    assert (await last(store, "JobDispatched")).last == ""


async def test_rule_16_the_least_loaded_then_the_smallest_id_by_bytes(store: TimedStore) -> None:
    for name, slots in (("b", 2), ("a", 4), ("B", 1), ("c", 8)):
        await store.join(name, slots=slots)
    for i in range(15):
        await speak(store, f"s{i}")
        await store.dispatch()
        await check(store)
    loads = {"B": 1, "a": 4, "b": 2, "c": 8}
    live = dict.fromkeys(loads, 0)
    for name in await ran_on(store):
        free = {n: 1000 * live[n] // loads[n] for n in loads if live[n] < loads[n]}
        assert name == min(free, key=lambda n: (free[n], n.encode()))
        live[name] += 1


async def test_rule_16_classes_compete_by_their_heads(store: TimedStore) -> None:
    """A tie between the heads of two classes goes to the smaller id, capitals first."""
    await store.join("a", features=["tts"], slots=2)
    await store.join("B", slots=2)
    for i in range(4):
        await speak(store, f"s{i}")
    await store.dispatch()
    assert await ran_on(store) == ["B", "a", "B", "a"]
    await check(store)


async def test_rule_16_an_id_that_begins_another_goes_first(store: TimedStore) -> None:
    await store.join("ab", features=["tts"])
    await store.join("a")
    await speak(store, "s1")
    await store.dispatch()
    assert await ran_on(store) == ["a"]


@pytest.mark.parametrize("place", range(9))
async def test_rule_16_ids_are_ordered_by_their_first_different_byte(
    store: TimedStore, place: int
) -> None:
    """The name that is first by bytes ends with the digit that would sort last."""
    for letter, features in (("b", ["tts"]), ("Z", []), ("_", ["vad"])):
        end = "9" if letter == "Z" else "0"
        await store.join(f"{'n' * place}{letter}{end * (9 - place)}", features=features, slots=1)
    for i in range(3):
        await speak(store, f"s{i}")
    await store.dispatch()
    assert [name[place] for name in await ran_on(store)] == ["Z", "_", "b"]
    await check(store)


async def test_rule_16_auto_is_a_language_like_any_other(store: TimedStore) -> None:
    await store.join("n1", sources=["en"])
    await speak(store, "s1", source="auto")
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_POOL_FOR_LANG_PAIR"
    await store.join("n2", sources=["auto"])
    assert await ran_on(store) == ["n2"]


async def test_rule_16_affinity_to_the_node_of_the_turn_then_of_the_session(
    store: TimedStore,
) -> None:
    await store.join("n2", slots=4)
    session = await store.open()
    for seq in range(11):  # 10 s end the utterance and not the turn
        await store.say(session, seq, ms=1_000)
    await store.dispatch()
    await store.join("n1", slots=4)
    await store.say(session, 11, end_of_utterance=True)
    await store.dispatch()
    await store.say(session, 12, end_of_utterance=True)
    await store.dispatch()
    dispatches = [event.data for event in await logged(store, "JobDispatched")]
    assert [(d.turn, d.rule) for d in dispatches] == [(0, "load"), (0, "turn"), (1, "session")]
    assert await ran_on(store) == ["n2", "n2", "n2"]
    assert dispatches[0].affinity is None
    assert dispatches[1].affinity == Affinity(node=store.keys.full("n2"))
    await check(store)


async def make_unusable(store: TimedStore, node: NodeGrant, why: str) -> None:
    """Make the last node of the session unusable for this reason."""
    if why == "full":
        await speak(store, "other", **TTS)
        await store.dispatch()
    if why == "draining":
        await store.drain_node(node.node, node.epoch, within_ms=60_000)
    if why == "gone":
        await store.drain_node(node.node, node.epoch, within_ms=0)
    if why == "suspended":
        message = (await assigned(store, node))[-1]
        await reply(
            store, node, message["j"], status="failed", code="MODEL_NOT_AVAILABLE", feature="tts"
        )
    if why == "unable":
        await store.join("n1", token="newer", slots=2, targets=["fr"], features=["tts"])


@pytest.mark.parametrize("why", ["full", "draining", "gone", "suspended", "unable"])
async def test_rule_17_the_event_says_why_the_affinity_node_was_not_taken(
    store: TimedStore, why: str
) -> None:
    node = await store.join("n1", features=["tts"], slots=1 if why == "full" else 2)
    session = await speak(store, "s1", **TTS)
    await store.dispatch()
    (message,) = await assigned(store, node)
    await reply(store, node, message["j"])
    if why == "draining":  # without a lease a draining node is gone at once
        await speak(store, "busy", **TTS)
        await store.dispatch()
    if why == "suspended":
        await speak(store, "busy", **TTS)
        await store.dispatch()
    await store.join("n2", features=["tts"], slots=4)
    await make_unusable(store, node, why)
    if why == "full":
        assert (await ran_on(store))[-1] == "n1"
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    dispatch = await last(store, "JobDispatched")
    assert (await ran_on(store))[-1] == "n2"
    assert dispatch.affinity == Affinity(node=node.node, why=why)
    await check(store)


async def test_rule_17_a_node_without_the_language_pair_is_unable_despite_suspensions(
    store: TimedStore,
) -> None:
    await store.join("n1", targets=["es"], slots=4)
    french = await store.join("n2", targets=["fr"], features=["tts"], slots=4)
    session = await speak(store, "s1", targets=["es", "fr"])
    await speak(store, "s2", targets=["fr"], **TTS)
    await store.dispatch()
    message = (await assigned(store, french))[-1]
    await reply(
        store, french, message["j"], status="failed", code="MODEL_NOT_AVAILABLE", feature="tts"
    )
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    spanish, _ = [event.data for event in await logged(store, "JobDispatched")][-2:]
    assert spanish.affinity == Affinity(node=french.node, why="unable")
    await check(store)


async def test_rule_17_the_evidence_names_the_chosen_class_and_the_next_ones(
    store: TimedStore,
) -> None:
    await store.join("n1", slots=4)
    await store.join("n2", slots=1)
    draining = await store.join("n3", slots=1)
    await store.join("x1", features=["tts"], slots=2)
    await store.join("fr", targets=["fr"])
    for i in range(4):
        await speak(store, f"s{i}")
    await store.dispatch()
    assert await ran_on(store) == ["n1", "n2", "n3", "x1"]
    await store.drain_node(draining.node, draining.epoch, within_ms=60_000)
    await speak(store, "now")
    await store.dispatch()
    registered = {e.node: e.data.cls for e in await logged(store, "NodeRegistered")}
    plain = ClassSeen(
        id=registered[store.keys.full("n1")],
        head=store.keys.full("n1"),
        load=250,
        free=1,
        full=1,
        draining=1,
    )
    tts = ClassSeen(
        id=registered[store.keys.full("x1")],
        head=store.keys.full("x1"),
        load=500,
        free=1,
    )
    dispatch = await last(store, "JobDispatched")
    assert dispatch.classes == [plain, tts]
    assert dispatch.other_classes is None
    assert (dispatch.rule, dispatch.policy, dispatch.compared, dispatch.winner) == (
        "load",
        1,
        0,
        None,
    )
    await check(store)


async def test_rule_17_the_evidence_names_eight_classes_and_counts_the_others(
    store: TimedStore,
) -> None:
    """Ten classes: the node of the first one is full, and the last one has two nodes."""
    for no in range(10):
        await store.join(f"n{no}", features=[f"f{no}"], slots=2 if no else 1)
    await store.join("n9b", features=["f9"], slots=2)
    await speak(store, "first")
    session = await speak(store, "s1")
    await store.dispatch()
    assert await ran_on(store) == ["n0", "n1"]
    dispatch = await last(store, "JobDispatched")
    assert [seen.head for seen in dispatch.classes] == [
        store.keys.full(f"n{no}") for no in range(1, 9)
    ]
    assert dispatch.other_classes == OtherClasses(classes=2, free=2, full=1)
    await store.say(session, 1, end_of_utterance=True)
    await store.dispatch()
    dispatch = await last(store, "JobDispatched")
    assert dispatch.rule == "session"
    heads = [(seen.head.partition(".")[2], seen.load) for seen in dispatch.classes]
    assert heads == [("n1", 500), *((f"n{no}", 0) for no in range(2, 9))]
    await check(store)


async def test_rule_17_classes_without_a_free_node_are_counted_alone(store: TimedStore) -> None:
    await store.join("a", features=["x"], slots=1)
    await store.join("b", features=["y"], slots=3)
    draining = await store.join("c", features=["z"], slots=1)
    for session in ("s1", "s2", "s3"):
        await speak(store, session)
    await store.dispatch()
    assert await ran_on(store) == ["a", "b", "c"]
    await store.drain_node(draining.node, draining.epoch, within_ms=60_000)
    await speak(store, "s4")
    await store.dispatch()
    dispatch = await last(store, "JobDispatched")
    assert [seen.head for seen in dispatch.classes] == [store.keys.full("b")]
    assert dispatch.other_classes == OtherClasses(classes=2, full=1, draining=1)
    await check(store)


async def test_rule_17_a_fill_says_what_it_compared(store: TimedStore) -> None:
    node = await store.join("n1", targets=["es", "fr"], slots=2)
    await speak(store, "run", count=2)
    await store.dispatch()
    await speak(store, "s1", ms=200, count=2)  # tags 0 and 1,000
    await speak(store, "s2", targets=["fr"], tenant="tiny", priority=2)
    await store.dispatch()
    for message in await assigned(store, node):
        await reply(store, node, message["j"])
    fills = [e.data for e in await logged(store, "JobDispatched") if e.data.rule == "fill"]
    assert [(f.compared, f.winner.tag, f.winner.priority) for f in fills] == [
        (2, 0, 1),
        (2, 1_000, 1),
    ]
    assert [(f.runner_up.priority, f.runner_up.tag) for f in fills] == [(2, 0), (2, 0)]
    assert fills[0].winner.member.startswith("0000000000000001:acme:")
    await reply(store, node, (await assigned(store, node))[-1]["j"])
    alone = await last(store, "JobDispatched")
    assert (alone.compared, alone.runner_up) == (1, None)
    await check(store)


async def test_rule_17_a_fill_of_many_slots_counts_the_requirements_that_are_left(
    store: TimedStore,
) -> None:
    for i, target in enumerate(("de", "es", "fr")):
        await speak(store, f"s{i}", targets=[target])
    await store.dispatch()
    await store.join("n1", targets=["de", "es", "fr"], slots=4)
    fills = [event.data for event in await logged(store, "JobDispatched")]
    assert [f.compared for f in fills] == [3, 2, 1]
    assert fills[2].runner_up is None


async def store_context(store: TimedStore, session: str, target: str, at: str) -> None:
    live, view = store.keys.active_revision("group"), store.keys.view("group", "1.0", session)
    await store.transport.command("SET", live, "1.0", key=live)
    pairs = ("v", b"\x80", f"context:{target}", b"\x91\x92\xa2hi\xc0", "at", at)
    await store.transport.command("HSET", view, *pairs, key=view)


async def test_rule_29_the_groups_context_is_copied_unread_and_named_in_the_event(
    store: TimedStore,
) -> None:
    node = await store.join(targets=["es", "fr"], slots=4)
    await store_context(store, "s1", "es", "900-3")
    await speak(store, "s1", targets=["es", "fr"])
    await speak(store, "s2")
    await store.dispatch()
    got = {(m["session"], m["target"]): m for m in await assigned(store, node)}
    contexts = {
        (event.session, event.data.target): event.data.context_at
        for event in await logged(store, "JobDispatched")
    }
    first, other = (store.keys.full("s1"), "es"), (store.keys.full("s1"), "fr")
    assert got[first]["b"] == b"\x91\x92\xa2hi\xc0"
    assert got[first]["context_at"] == "900-3"
    assert contexts[first] == "900-3"
    for key in (other, (store.keys.full("s2"), "es")):
        assert got[key]["b"] == b""
        assert got[key]["context_at"] == contexts[key] == ""


async def test_rule_29_a_job_that_waited_gets_the_context_of_its_dispatch(
    store: TimedStore,
) -> None:
    await speak(store, "s1")
    await store.dispatch()
    await store_context(store, "s1", "es", "900-7")
    node = await store.join()
    (message,) = await assigned(store, node)
    assert message["context_at"] == "900-7"
    assert message["b"] != b""


async def test_rule_12_one_job_per_target_each_once(store: TimedStore) -> None:
    node = await store.join(targets=["de", "es", "fr"], slots=4)
    await speak(store, "s1", targets=["fr", "de", "es"])
    assert await store.dispatch() == 3
    assert [m["target"] for m in await assigned(store, node)] == ["de", "es", "fr"]
    (message,) = [m for m in await assigned(store, node) if m["target"] == "fr"]
    session = store.keys.full("s1")
    assert message["j"] == f"acme:{session}:0:translation:fr:none"
    names = (
        "session",
        "utterance",
        "turn",
        "source",
        "encoding",
        "sample_rate",
        "count",
        "bytes",
        "ms",
        "padding_ms",
        "deadline_ms",
        "priority",
        "epoch",
        "attempt",
    )
    assert [message[name] for name in names] == [
        session,
        0,
        0,
        "en",
        "pcm16",
        16_000,
        1,
        3_200,
        100,
        280,
        store.at_ms + 31_000,
        1,
        1,
        1,
    ]


async def test_rule_17_evidence_follows_a_suspension_within_one_call(store: TimedStore) -> None:
    """The first result of the call shows a class of two; after the second one is left in it."""
    first = await store.join("n1", features=["tts"], slots=2)
    await speak(store, "s1", count=2, **TTS)
    await store.dispatch()
    second = await store.join("n2", features=["tts"], slots=4)
    first_job, second_job = [message["j"] for message in await assigned(store, first)]
    results = [
        NodeResult(
            job=first_job, attempt=1, status="failed", code="BROKEN", retryable=True, retry_in_ms=0
        ),
        NodeResult(
            job=second_job, attempt=1, status="failed", code="MODEL_NOT_AVAILABLE", feature="tts"
        ),
    ]
    assert await store.record_results(first.node, first.epoch, results) == [None, None]
    before, after = [event.data.classes for event in await logged(store, "JobDispatched")][-2:]
    assert [(seen.head, seen.free, seen.full) for seen in before] == [(second.node, 2, 0)]
    assert [(seen.head, seen.free, seen.full) for seen in after] == [(second.node, 1, 0)]
    await check(store)
