"""Rule 13, node registration: registering, heartbeats, draining, loss of a node."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from eventsched.schema.events import NodeDraining
from eventsched.store.operator_commands import Act
from eventsched.store.transport import Arg
from tests.fixtures_store import START_MS, TimedStore
from tests.scripts.cell_state import check, members, zset
from tests.scripts.jobs_of import (
    assigned,
    cancelled,
    finish_one,
    last,
    logged,
    refusal,
    reply,
    speak,
)

ACT = Act(by="ann@host", why="new driver", request="r1")


async def test_rule_13_a_registration_has_an_epoch_and_a_place_to_read_from(
    store: TimedStore,
) -> None:
    node = await store.join(sources=["en", "de"], features=["tts"], version="1.2")
    assert (node.epoch, node.inbox_from, node.heartbeat_ms) == (1, "0-0", 5_000)
    registration = await last(store, "NodeRegistered")
    assert (registration.sources, registration.targets, registration.features) == (
        ["de", "en"],
        ["es"],
        ["tts"],
    )
    assert (registration.slots, registration.version, registration.epoch) == (2, "1.2", 1)
    await check(store)


async def test_rule_13_the_same_token_again_gets_the_same_reply_and_changes_nothing(
    store: TimedStore,
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    before = await store.types()
    store.tick(100)
    assert await store.join() == node
    assert await store.types() == before
    assert [m["attempt"] for m in await assigned(store, node)] == [1]


async def test_rule_13_the_same_token_registered_at_once_by_many_is_one_registration(
    store: TimedStore,
) -> None:
    grants = []

    async def register() -> None:
        grants.append(await store.join())

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(register)
    assert {grant.epoch for grant in grants} == {1}
    assert await store.types() == ["NodeRegistered"]


MALFORMED: dict[str, tuple[dict[str, Any], str]] = {
    "no slots": ({"slots": 0}, "slots"),
    "a long version": ({"version": "x" * 65}, "version"),
    "too many slots": ({"slots": 257}, "slots"),
    "no token": ({"token": ""}, "token"),
    "nothing recognised": ({"sources": []}, "sources"),
    "nothing translated": ({"targets": []}, "targets"),
    "65 languages": (
        {"sources": [f"a{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(65)]},
        "sources",
    ),
    "1,025 pairs": (
        {
            "sources": [f"a{chr(97 + i)}" for i in range(25)],
            "targets": [f"b{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(41)],
        },
        "targets",
    ),
    "17 features": ({"features": [f"s{i}" for i in range(17)]}, "features"),
    "a language with a colon": ({"sources": ["en:es"]}, "sources"),
    "a language with a bar": ({"sources": ["en|es"]}, "sources"),
    "one letter": ({"targets": ["e"]}, "targets"),
    "four letters": ({"targets": ["engl"]}, "targets"),
    "an open tag": ({"targets": ["en-"]}, "targets"),
    "a target of auto": ({"targets": ["auto"]}, "targets"),
    "a feature with a colon": ({"features": ["a:b"]}, "features"),
    "a feature of 65 letters": ({"features": ["a" * 65]}, "features"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_rule_33_and_34_a_malformed_registration_is_refused_and_changes_nothing(
    store: TimedStore, case: str
) -> None:
    fields, field = MALFORMED[case]
    refused = await refusal(store.join(**fields))
    assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", field)
    assert await store.types() == []
    assert await members(store, store.keys.classes) == set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sources", "es,en"), ("sources", "en,en"), ("sources", "en,,es"), ("sources", "en,"),
        ("targets", "fr,es"), ("targets", "es,es"), ("targets", "es,es-419,es"),
        ("features", "b,a"), ("features", "a,a"), ("features", "a,B"), ("features", ","),
    ],
)  # fmt: skip
async def test_rule_34_words_that_are_not_sorted_or_not_distinct_are_refused(
    store: TimedStore, field: str, value: str
) -> None:
    """A set of abilities has one text, so it is one capability class. The reply has the remedy."""
    fields = {"sources": "en,es", "targets": "es,es-419,fr", "features": "B,a"}

    async def register(words: dict[str, str]) -> Any:
        args: list[Arg] = [store.at_ms, "n1", "t", *words.values(), 2, ""]
        return await store.transport.run("register_node", store.keys.declared, args)

    refused = await refusal(register(fields | {field: value}))
    assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", field)
    assert refused.fields["limit"].endswith("sorted by bytes, each once")
    assert await store.types() == []
    assert (await register(fields))[0] == 1


async def test_rule_33_the_largest_registration_is_taken(store: TimedStore) -> None:
    """64 languages on one side and 1,024 pairs, 16 features of 64 characters, 256 slots."""
    languages = [f"a{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(64)]
    features = [f"s{i}".ljust(64, "x") for i in range(16)]
    await store.join(sources=languages, targets=languages[:16], features=features, slots=256)
    registration = await last(store, "NodeRegistered")
    assert (len(registration.sources), len(registration.targets), len(registration.features)) == (
        64,
        16,
        16,
    )
    assert registration.slots == 256
    await store.join("n2", sources=languages[:16], targets=languages)
    assert (await last(store, "NodeRegistered")).targets == sorted(languages)
    await check(store)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a|b", "a" * 65])
async def test_rule_34_a_malformed_node_name_is_refused(store: TimedStore, name: str) -> None:
    refused = await refusal(store.join(node=store.keys.full(name)))
    assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", "node")
    assert await store.types() == []


@pytest.mark.parametrize(
    "language", ["auto", "en", "deu", "pt-BR", "zh-Hant", "es-419", "de-12345678"]
)
async def test_rule_34_a_language_may_be(store: TimedStore, language: str) -> None:
    await store.join(sources=[language])
    assert (await last(store, "NodeRegistered")).sources == [language]


async def test_rule_33_a_cell_has_4096_classes(store: TimedStore) -> None:
    for i in range(4_096):
        await store.join(f"n{i}", features=[f"s{i}"])
    refused = await refusal(store.join("other", features=["one-more"]))
    assert refused.code == "INVALID_MESSAGE"
    assert (refused.fields["field"], refused.fields["limit"]) == (
        "class", "4096 capability classes in a cell",
    )  # fmt: skip
    assert refused.fields["remedy"]
    assert (await store.join("known", features=["s7"])).epoch == 1
    assert len(await logged(store, "NodeRegistered")) == 4_097


async def test_rule_13_a_new_registration_supersedes_and_the_older_process_gets_an_error(
    store: TimedStore,
) -> None:
    old = await store.join(slots=1)
    await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, old)
    new = await store.join(token="newer", slots=1)
    assert new.epoch == 2
    assert (await store.types())[3:] == [
        "JobDispatched",
        "NodeLost",
        "NodeRegistered",
        "AttemptEnded",
        "JobDispatched",
    ]
    assert (await last(store, "NodeLost")).reason == "superseded"
    assert (await last(store, "NodeLost")).leases == 1
    ended = await last(store, "AttemptEnded")
    assert (ended.reason, ended.epoch, ended.attempt) == ("superseded", 1, 1)
    await check_causes(store)
    again = await last(store, "JobDispatched")
    assert (again.epoch, again.attempt) == (2, 2)
    refused = await refusal(store.heartbeat_node(old.node, 1, load=0, attempts=[]))
    assert refused.code == "NODE_SUPERSEDED"
    assert (await refusal(store.drain_node(old.node, 1, within_ms=0))).code == "NODE_SUPERSEDED"
    assert await reply(store, old, message["j"]) == "NODE_MISMATCH"
    await check(store)


async def test_rule_13_a_new_registration_reads_its_inbox_after_the_entries_of_the_older_one(
    store: TimedStore,
) -> None:
    old = await store.join(slots=1)
    await speak(store, "s1")
    await store.dispatch()
    key = store.keys.inbox("n1")
    before = await store.last_id(key)
    store.tick(10)
    new = await store.join(token="newer", slots=1)
    assert new.inbox_from == before
    unread = await store.read_range(key, f"({new.inbox_from}", "+", 10)
    kinds = [fields[1] for _, fields in unread]
    assert kinds == [b"cancel", b"assign"]
    assert (await cancelled(store, old))[0]["epoch"] == 1


async def test_rule_13_a_new_registration_starts_with_all_slots_free(store: TimedStore) -> None:
    await store.join(slots=2)
    await speak(store, "s1", count=2)
    await store.dispatch()
    store.tick(15_000)
    await store.fire_timers()
    node = await store.join(token="newer", slots=2)
    await speak(store, "s2", count=1)
    await store.dispatch()
    await check(store)
    assert len([e for e in await logged(store, "JobDispatched") if e.data.epoch == node.epoch]) == 2


async def test_rule_13_a_heartbeat_keeps_a_node_alive(store: TimedStore) -> None:
    node = await store.join()
    for _ in range(4):
        store.tick(14_999)
        assert await store.heartbeat_node(node.node, node.epoch, load=3, attempts=[]) == []
        await store.timers()
    assert await store.types() == ["NodeRegistered"]
    store.tick(15_000)
    await store.timers()
    assert (await last(store, "NodeLost")).reason == "silent"


async def test_rule_13_a_heartbeat_never_resurrects(store: TimedStore) -> None:
    node = await store.join()
    store.tick(15_000)
    await store.timers()
    for _ in range(2):
        refused = await refusal(store.heartbeat_node(node.node, node.epoch, load=0, attempts=[]))
        assert refused.code == "NODE_UNKNOWN"
    assert (await store.join()).epoch == 2
    assert (await store.types())[1:] == ["NodeLost", "NodeRegistered"]
    await check(store)


RETENTION_MS = 86_400_000


async def test_rule_13_a_node_that_is_gone_is_retired_after_its_retention(
    store: TimedStore,
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    await store.drain_node(node.node, node.epoch, within_ms=0)  # the inbox has entries
    store.tick(RETENTION_MS - 1)
    await store.timers()
    assert (await node_keys(store)) == {"inbox:n1", "node:n1"}
    store.tick(1)
    await store.timers()
    assert (await last(store, "NodeRetired")).epoch == 1
    assert await node_keys(store) == set()
    assert "gone|n1" not in await zset(store, store.keys.timers)
    await check(store)


async def test_rule_13_a_lost_node_is_retired_after_its_last_heartbeat(store: TimedStore) -> None:
    node = await store.join()
    store.tick(10_000)
    await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
    store.tick(15_000)
    await store.timers()
    store.tick(RETENTION_MS - 15_000 - 1)
    await store.timers()
    assert await logged(store, "NodeRetired") == []
    store.tick(1)
    await store.timers()
    assert (await last(store, "NodeRetired")).epoch == 1


async def test_rule_13_a_node_that_returns_within_its_retention_is_not_retired(
    store: TimedStore,
) -> None:
    node = await store.join()
    await store.drain_node(node.node, node.epoch, within_ms=0)
    store.tick(RETENTION_MS - 10_000)
    node = await store.join(token="newer")
    assert node.epoch == 2
    store.tick(10_000)
    await store.timers()
    await store.drain_node(node.node, node.epoch, within_ms=0)
    store.tick(RETENTION_MS - 10_000 - 1)
    await store.timers()
    assert await logged(store, "NodeRetired") == []
    await check(store)
    store.tick(1)
    await store.timers()
    assert (await last(store, "NodeRetired")).epoch == 2


async def test_rule_13_epochs_of_a_name_rise_after_its_record_was_deleted(
    store: TimedStore,
) -> None:
    await store.configure_cell({"node_retention_ms": 1}, overwrite=True)
    epochs: dict[str, list[int]] = {"n1": [], "n2": []}

    async def serve(name: str, times: int) -> None:
        for _ in range(times):
            node = await store.join(name)
            await store.drain_node(node.node, node.epoch, within_ms=0)
            epochs[name].append(node.epoch)

    for name, times in (("n1", 1), ("n2", 3), ("n1", 2), ("n2", 1)):
        await serve(name, times)
        store.tick(1)
        await store.timers()
        assert await node_keys(store) == set()
    assert epochs == {"n1": [1, 5, 6], "n2": [2, 3, 4, 7]}
    assert len(await logged(store, "NodeRetired")) == 4
    await check(store)


async def test_rule_13_a_process_of_a_deleted_registration_is_refused(store: TimedStore) -> None:
    """Its attempt has the number that an attempt of the next registration has, too."""
    await store.configure_cell(
        {"node_retention_ms": 1, "queue_timeout_ms": 3_600_000}, overwrite=True
    )
    zombie = await store.join(slots=1)
    await speak(store, "s1")
    await store.dispatch()
    (assignment,) = await assigned(store, zombie)
    store.tick(15_000)
    await store.timers()
    store.tick(15_000)
    await store.timers()
    assert (await last(store, "NodeRetired")).epoch == 1
    job = assignment["j"]
    beat = store.heartbeat_node(zombie.node, zombie.epoch, load=0, attempts=[(job, 1)])
    assert (await refusal(beat)).code == "NODE_UNKNOWN"
    drain = store.drain_node(zombie.node, zombie.epoch, within_ms=0)
    assert (await refusal(drain)).code == "NODE_UNKNOWN"
    assert await reply(store, zombie, job, 1) == "LEASE_LOST"
    assert await node_keys(store) == set(), "a refused call stores nothing"
    successor = await store.join(token="successor", slots=1)
    assert successor.epoch == 2
    (second,) = await assigned(store, successor)
    assert (second["j"], second["attempt"]) == (job, 2)
    beat = store.heartbeat_node(zombie.node, zombie.epoch, load=0, attempts=[(job, 1)])
    assert (await refusal(beat)).code == "NODE_SUPERSEDED"
    drain = store.drain_node(zombie.node, zombie.epoch, within_ms=0)
    assert (await refusal(drain)).code == "NODE_SUPERSEDED"
    for attempt in (1, 2):
        assert await reply(store, zombie, job, attempt) == "NODE_MISMATCH"
    assert await reply(store, successor, job, 2) == "ok"
    await check(store)


async def test_rule_13_a_node_is_retired_after_the_last_of_its_leases(store: TimedStore) -> None:
    """The leases of an older registration are dispatched again first, 16 a call."""
    settings = {"node_retention_ms": 1, "queue_timeout_ms": 3_600_000}
    await store.configure_cell(settings, overwrite=True)
    await store.join(slots=40)
    await speak(store, "s1", count=40)
    while (await store.dispatch_jobs()).left:
        pass
    node = await store.join(token="newer", slots=1)
    await store.drain_node(node.node, node.epoch, within_ms=0)
    seen = []
    while not await logged(store, "NodeRetired"):
        store.tick(15_000)
        await store.fire_timers()
        seen.append((await leases_of(store, 1), await logged(store, "NodeRetired") != []))
    assert [left for left, is_retired in seen if is_retired] == [0]
    assert any(left for left, _ in seen), "leases were left after a retention"
    assert await node_keys(store) == set()


async def node_keys(store: TimedStore) -> set[str]:
    """Which keys of the nodes n1 and n2 and their inboxes exist."""
    keys = {
        f"{kind}:{name}": key(name)
        for kind, key in (("node", store.keys.node), ("inbox", store.keys.inbox))
        for name in ("n1", "n2")
    }
    return {
        name for name, key in keys.items() if await store.transport.command("EXISTS", key, key=key)
    }


async def leases_of(store: TimedStore, epoch: int) -> int:
    key = store.keys.leases("n1", epoch)
    return int(await store.transport.command("ZCARD", key, key=key))


async def test_rule_13_a_malformed_or_unknown_heartbeat_is_refused(
    store: TimedStore,
) -> None:
    node = await store.join()
    for epoch in (2, 99):
        refused = await refusal(store.heartbeat_node(node.node, epoch, load=0, attempts=[]))
        assert refused.code == "NODE_UNKNOWN"
    unknown = store.keys.full("nobody")
    assert (
        await refusal(store.heartbeat_node(unknown, 1, load=0, attempts=[]))
    ).code == "NODE_UNKNOWN"
    for epoch, load, field in ((-1, 0, "epoch"), (1, -1, "load")):
        refused = await refusal(store.heartbeat_node(node.node, epoch, load=load, attempts=[]))
        assert (refused.code, refused.fields["field"]) == ("INVALID_MESSAGE", field)
    many = [("job", 1)] * 257
    refused = await refusal(store.heartbeat_node(node.node, 1, load=0, attempts=many))
    assert refused.fields["field"] == "leases"


async def test_rule_13_a_heartbeat_names_the_attempts_that_the_node_no_longer_holds(
    store: TimedStore,
) -> None:
    node = await store.join(slots=2)
    await speak(store, "s1", count=2)
    await store.dispatch()
    first, second = [message["j"] for message in await assigned(store, node)]
    assert await reply(store, node, first) == "ok"
    held = [(first, 1), (second, 1), ("acme:none", 1)]
    lost = await store.heartbeat_node(node.node, node.epoch, load=1, attempts=held)
    assert lost == [first, "acme:none"]
    lost = await store.heartbeat_node(node.node, node.epoch, load=1, attempts=[(second, 2)])
    assert lost == [second]


async def test_rule_13_a_lost_node_is_dispatched_again_16_at_once_and_the_rest_later(
    store: TimedStore,
) -> None:
    lost = await store.join("n1", slots=40)
    await speak(store, "s1", count=40)
    await store.dispatch()
    store.tick(10_000)
    other = await store.join("n2", slots=64)
    store.tick(5_000)
    reply_ = await store.fire_timers()
    assert reply_.next_ms == reply_.now_ms
    assert len(await logged(store, "AttemptEnded")) == 16
    assert len(await assigned(store, other)) == 16
    assert (await last(store, "NodeLost")).leases == 40
    await check(store)
    late = (await assigned(store, lost))[-1]
    assert await reply(store, lost, late["j"]) == "LEASE_LOST"
    await store.timers()
    assert len(await assigned(store, other)) == 40
    assert {e.data.reason for e in await logged(store, "AttemptEnded")} == {"node_lost"}
    await check_causes(store)
    await check(store)


async def check_causes(store: TimedStore) -> None:
    """Each attempt of the node that was lost names the loss; what starts next names nothing."""
    (loss,) = await logged(store, "NodeLost")
    assert {e.cause for e in await logged(store, "AttemptEnded")} == {f"log/{loss.id}"}
    again = [e for e in await logged(store, "JobDispatched") if e.data.attempt > 1]
    assert {e.cause for e in again} == {""}


async def test_rule_13_a_superseded_node_is_dispatched_again_16_a_call_too(
    store: TimedStore,
) -> None:
    await store.join("n1", slots=20)
    await speak(store, "s1", count=20)
    await store.dispatch()
    await store.join("n1", token="newer", slots=20)
    assert len(await logged(store, "AttemptEnded")) == 16
    await check(store)
    await store.timers()
    assert len(await logged(store, "AttemptEnded")) == 20
    await check_causes(store)
    assert {e.data.epoch for e in (await logged(store, "JobDispatched"))[20:]} == {2}
    await check(store)


async def test_rule_13_a_draining_node_finishes_what_it_has_and_gets_nothing_new(
    store: TimedStore,
) -> None:
    node = await store.join(slots=2)
    await speak(store, "s1")
    await store.dispatch()
    assert await store.drain_node(node.node, node.epoch, within_ms=60_000) == 1
    await speak(store, "s2")
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_AVAILABLE_NODE"
    assert await store.heartbeat_node(node.node, node.epoch, load=1, attempts=[]) == []
    await check(store)
    await finish_one(store, node)
    assert (await store.types())[-3:] == ["JobQueued", "ResultRecorded", "NodeDrained"]
    assert len(await assigned(store, node)) == 1
    await check(store)


async def test_rule_13_a_node_that_holds_nothing_is_drained_at_once(store: TimedStore) -> None:
    node = await store.join()
    assert await store.drain_node(node.node, node.epoch, within_ms=60_000) == 0
    assert await store.types() == ["NodeRegistered", "NodeDraining", "NodeDrained"]
    refused = await refusal(store.drain_node(node.node, node.epoch, within_ms=60_000))
    assert refused.code == "NODE_UNKNOWN"
    assert len(await store.types()) == 3
    await check(store)


async def test_rule_13_leases_of_a_draining_node_after_its_time_are_dispatched_again(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=20)
    await speak(store, "s1", count=20)
    await store.dispatch()
    other = await store.join("n2", slots=20)
    assert await store.drain_node(node.node, node.epoch, within_ms=10_000) == 20
    assert await store.drain_node(node.node, node.epoch, within_ms=10_000) == 20
    assert len(await logged(store, "NodeDraining")) == 1
    store.tick(9_999)
    await store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
    await store.timers()
    assert await logged(store, "AttemptEnded") == []
    store.tick(1)
    await store.fire_timers()
    assert len(await logged(store, "AttemptEnded")) == 16
    await check(store)
    await store.timers()
    assert {e.data.reason for e in await logged(store, "AttemptEnded")} == {"drained"}
    assert len(await assigned(store, other)) == 20
    assert len(await cancelled(store, node)) == 20
    assert len(await logged(store, "NodeDrained")) == 1
    await check(store)


async def test_rule_13_draining_within_nothing_hands_back_at_once(store: TimedStore) -> None:
    node = await store.join("n1", slots=20)
    await speak(store, "s1", count=20)
    await store.dispatch()
    assert await store.drain_node(node.node, node.epoch, within_ms=0) == 4
    await store.timers()
    assert len(await logged(store, "NodeDrained")) == 1
    assert (await logged(store, "NodeDrained"))[0].ms == START_MS
    await check(store)


async def test_rule_13_an_operator_drains_a_node_which_does_not_register_again(
    store: TimedStore,
) -> None:
    node = await store.join(slots=2)
    await speak(store, "s1")
    await store.dispatch()
    reply = await store.request_drain(node.node, ACT, within_ms=60_000)
    assert (reply.epoch, reply.leases) == (node.epoch, 1)
    assert (await last(store, "NodeDraining")) == NodeDraining(
        epoch=1, by="ann@host", why="new driver"
    )
    await speak(store, "s2")
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_AVAILABLE_NODE"
    assert await store.heartbeat_node(node.node, node.epoch, load=1, attempts=[]) == []
    await finish_one(store, node)
    assert len(await logged(store, "NodeDrained")) == 1
    for call in (
        store.heartbeat_node(node.node, node.epoch, load=0, attempts=[]),
        store.drain_node(node.node, node.epoch, within_ms=0),
        store.join(),
    ):
        assert (await refusal(call)).code == "NODE_DRAINED"
    again = await store.join(token="another-process")
    assert again.epoch == 2
    assert await store.heartbeat_node(again.node, 2, load=0, attempts=[]) == []
    await check(store)


async def test_rule_13_a_node_that_an_operator_drains_hands_back_after_its_time(
    store: TimedStore,
) -> None:
    node = await store.join("n1", slots=2)
    await speak(store, "s1")
    await store.dispatch()
    other = await store.join("n2")
    await store.request_drain(node.node, ACT, within_ms=10_000)
    store.tick(10_000)
    await store.timers()
    assert (await last(store, "AttemptEnded")).reason == "drained"
    assert len(await assigned(store, other)) == 1
    await check(store)


async def test_rule_13_a_node_that_is_lost_in_a_drain_of_an_operator_stays_away(
    store: TimedStore,
) -> None:
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    await store.request_drain(node.node, ACT, within_ms=60_000)
    store.tick(15_000)
    await store.timers()
    assert (await last(store, "NodeLost")).reason == "silent"
    beat = store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
    assert (await refusal(beat)).code == "NODE_DRAINED"


async def test_rule_13_the_first_operator_of_a_drain_has_an_event_and_the_field(
    store: TimedStore,
) -> None:
    """Also if the node drains already: its process does not return, and the log says by whom."""
    node = await store.join()
    await speak(store, "s1")
    await store.dispatch()
    await store.drain_node(node.node, node.epoch, within_ms=60_000)
    await store.request_drain(node.node, ACT, within_ms=60_000)
    await store.request_drain(node.node, Act.of("bob@host", "me too"), within_ms=60_000)
    by = [event.data.by for event in await logged(store, "NodeDraining")]
    assert by == ["", "ann@host"]
    stored = await store.read_hash(store.keys.node("n1"))
    assert stored["drained_by"] == "ann@host"
    await check(store)
    await finish_one(store, node)
    assert (await refusal(store.join())).code == "NODE_DRAINED"


async def test_rule_13_a_repeated_request_drains_no_later_registration(store: TimedStore) -> None:
    node = await store.join()
    first = await store.request_drain(node.node, ACT, within_ms=0)
    await store.join(token="another-process")
    assert await store.request_drain(node.node, ACT, within_ms=0) == first
    assert len(await logged(store, "NodeDraining")) == 1
    unknown = store.keys.full("nobody")
    other = Act.of("ann@host", "again")
    refused = await refusal(store.request_drain(unknown, other, within_ms=0))
    assert refused.code == "NODE_UNKNOWN"
    refused = await refusal(store.request_drain(node.node, other, within_ms=300_001))
    assert refused.fields["field"] == "within_ms"


@pytest.mark.parametrize(("epoch", "within_ms"), [(-1, 0), (1, -1), (1, 300_001)])
async def test_rule_13_a_malformed_drain_is_refused(
    store: TimedStore, epoch: int, within_ms: int
) -> None:
    node = await store.join()
    refused = await refusal(store.drain_node(node.node, epoch, within_ms=within_ms))
    assert refused.code == "INVALID_MESSAGE"
    unknown = store.keys.full("nobody")
    assert (await refusal(store.drain_node(unknown, 1, within_ms=0))).code == "NODE_UNKNOWN"
    assert await store.types() == ["NodeRegistered"]


async def test_rule_13_a_silent_node_that_drains_is_lost(store: TimedStore) -> None:
    node = await store.join(slots=2)
    await speak(store, "s1")
    await store.dispatch()
    await store.drain_node(node.node, node.epoch, within_ms=60_000)
    store.tick(15_000)
    await store.timers()
    assert (await last(store, "NodeLost")).reason == "silent"
    assert await logged(store, "NodeDrained") == []
    await check(store)


async def test_rule_13_a_registration_serves_waiting_jobs(store: TimedStore) -> None:
    await speak(store, "s1")
    await store.dispatch()
    assert (await last(store, "JobQueued")).reason == "NO_POOL_FOR_LANG_PAIR"
    node = await store.join()
    assert (await store.types())[-2:] == ["NodeRegistered", "JobDispatched"]
    assert len(await assigned(store, node)) == 1
    await check(store)


async def test_pressure_refuses_registration_but_not_its_replay(store: TimedStore) -> None:
    node = await store.join()
    await store.set_backpressure("memory", is_active=True, seen=81, limit=80)
    refused = await refusal(store.join("n2"))
    assert refused.code == "BACKPRESSURE"
    assert int(refused.fields["retry_after_ms"]) > 0
    assert await store.join() == node
    await store.set_backpressure("memory", is_active=False, seen=70, limit=80)
    assert (await store.join("n2")).epoch == 1
    await check(store)


async def test_the_inbox_is_trimmed_to_the_oldest_live_attempt(store: TimedStore) -> None:
    node = await store.join(slots=2)
    for turn in range(4):
        await speak(store, f"s{turn}")
        await store.dispatch()
        store.tick(10)
        if turn:
            await finish_one(store, node)
    (left,) = await assigned(store, node)
    assert left["session"] == store.keys.full("s3")
    await finish_one(store, node)
    assert await assigned(store, node) == []
