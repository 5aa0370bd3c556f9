"""A stored record that lacks a field, or has another value in it, ends no function with an error of
Lua: the call, or the item of its batch, is refused with STATE_DAMAGED and changes nothing, or it
uses a fallback. A timer and an entry of the dispatch queue become dead letters.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from eventsched.errors import EventschedError, RecordDamaged, StateDamaged, UnexpectedReply
from eventsched.schema.events import ResultRecorded
from eventsched.store.cell_connection import CellConnection
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import Chunk
from tests.verify import scene as scene_module
from tests.verify.scene import Scene, Snapshot
from tests.verify.test_failed_writes import CALLS
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import verified

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
scenes = scene_module.scenes
CASES = (
    "append_audio", "append_audio, two targets", "finalize_utterances", "resume_session",
    "keep_alive", "start_playback", "end_playback", "close_session", "register_node",
    "heartbeat_node", "drain_node", "dispatch_jobs", "record_results",
    "record_results, after a held one", "record_results, no speech",
    "record_results, retryable failure", "record_results, failure",
    "record_results, missing model", "send_partials", "extend_lease", "fire_timers age",
    "fire_timers wait", "fire_timers node", "fire_timers idle", "fire_timers pause",
    "fire_timers leases", "fire_timers gap", "fire_timers close", "fire_timers backoff",
    "fire_timers retire", "record_seal",
)  # fmt: skip
"""Of the calls of test_failed_writes.py: those that read records of sessions, jobs and nodes."""
OF_SESSIONS = ("session:s1", "session:s8", "outcomes:s1", "out_of_order:s1")
COUNTERS = {"playbacks_started", "out_counted", "missing"}
"""Fields that a function only counts up: another value than a number is an error of the server."""
Damage = tuple[str, ...]


async def damages(scene: Scene) -> dict[str, Damage]:
    """The commands that damage one field of one record each, by what they damage."""
    redis: Any = scene.redis
    prefix = scene.store.keys.prefix
    found: dict[str, Damage] = {}
    for raw in sorted([key async for key in redis.scan_iter(f"{prefix}*")]):
        key = raw.decode()
        name = key.removeprefix(prefix)
        if name.startswith("job:"):
            found |= damaged_job(key, (await redis.get(key)).decode())
        elif name.startswith(("node:", *OF_SESSIONS)) or name == "settings":
            for field, value in (await redis.hgetall(key)).items():
                found[f"{name} without {field.decode()}"] = ("HDEL", key, field.decode())
                if name != "settings" and field.decode() not in COUNTERS:
                    found[f"{name} {field.decode()}=?"] = ("HSET", key, field.decode(), "?")
                if name.startswith("out_of_order:") and value.startswith(b"{"):
                    for part, core in without_each(value.decode()).items():
                        found[f"{name} without {part}"] = ("HSET", key, field.decode(), core)
    return found


def damaged_job(key: str, record: str) -> dict[str, Damage]:
    *parts, core = record.split("|", 9)
    found: dict[str, Damage] = {"job without core": ("SET", key, "|".join([*parts, "{"]))}
    for at in range(len(parts)):
        if parts[at]:
            changed = "|".join([*parts[:at], "", *parts[at + 1 :], core])
            found[f"{parts[0]} job without part {at}"] = ("SET", key, changed)
    for field, changed in without_each(core).items():
        found[f"{parts[0]} job without {field}"] = ("SET", key, "|".join([*parts, changed]))
    return found


def without_each(text: str) -> dict[str, str]:
    """The JSON object without each of its fields."""
    fields = json.loads(text)
    return {
        name: json.dumps({k: v for k, v in fields.items() if k != name}, separators=(",", ":"))
        for name in fields
    }


@pytest.fixture
def before_calls(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[None]]]:
    """What is called before each call of a function."""
    hooks: list[Callable[[], Awaitable[None]]] = []
    run = CellConnection.run

    async def hooked(self: CellConnection, script: str, *args: Any) -> Any:
        for hook in hooks:
            await hook()
        return await run(self, script, *args)

    monkeypatch.setattr(CellConnection, "run", hooked)
    return hooks


@pytest.mark.parametrize("name", CASES)
async def test_a_damaged_record_is_refused_or_has_a_fallback(
    scenes: Callable[[], Awaitable[Scene]],
    before_calls: list[Callable[[], Awaitable[None]]],
    name: str,
) -> None:
    before, step = CALLS[name]
    scene = await scenes()
    await before(scene)
    snapshot = await Snapshot.of(scene)
    commands = await damages(await snapshot.restore())
    for what, command in commands.items():
        scene = await snapshot.restore()
        await scene.redis.execute_command(*command)
        letters = await scene.redis.xlen(scene.store.keys.dead_letters)
        states: list[dict[bytes, bytes]] = []

        async def look(scene: Scene = scene, states: list[dict[bytes, bytes]] = states) -> None:
            states.append(await state_of(scene))

        before_calls[:] = [look]
        try:
            await step(scene)
        except StateDamaged as error:
            assert "field=" in str(error), what
            assert await state_of(scene) == states[-1], (what, str(error))
        except EventschedError as error:
            assert not isinstance(error, UnexpectedReply), (what, str(error))
        before_calls.clear()
        redis: Any = scene.redis
        for _, letter in (await redis.xrange(scene.store.keys.dead_letters))[letters:]:
            assert letter[b"reason"].startswith(b"STATE_DAMAGED record="), (what, letter)
            assert letter[b"partial"] == b"0", (what, letter)
    assert len(commands) > 50


async def state_of(scene: Scene) -> dict[bytes, bytes]:
    """The keys of the cell, without its clock."""
    keys = dict((await Snapshot.of(scene)).keys)
    del keys[scene.store.keys.clock.encode()]
    return keys


async def damage_job(scene: Scene, key: str, field: str) -> None:
    """Remove a field of the core of a job record."""
    full = scene.store.keys.job(key)
    record: Any = await scene.redis.get(full)
    command = damaged_job(full, record.decode())[f"running job without {field}"]
    await scene.redis.execute_command(*command)


async def test_a_damaged_job_is_refused_alone_and_the_other_results_count(
    scenes: Callable[[], Awaitable[Scene]],
) -> None:
    scene = await scenes()
    (damaged, _), (whole, _) = attempts = await scene.attempts()
    await damage_job(scene, damaged, "tp")
    results = [NodeResult(job=job, attempt=attempt, status="ok") for job, attempt in attempts]
    refused, other = await scene.store.record_results(scene.node.node, scene.node.epoch, results)
    assert other is None
    assert refused is not None
    assert (refused.code, refused.fields) == (
        "STATE_DAMAGED", {"record": f"job:{damaged}", "field": "tp"},
    )  # fmt: skip
    assert [event.job for event in await scene.store.log("ResultRecorded")] == [whole]
    assert not (await verified(scene.store)).is_clean
    assert (await repairer_of(scene.store).apply("a field is lost", "test")).left == []
    await scene.end()
    assert await scene.states() == {"closed"}


@pytest.mark.parametrize("traceparent", ["", f"00-{'a' * 32}-{'b' * 16}-01"])
async def test_a_chunk_that_ends_an_utterance_is_refused_before_it_is_stored(
    scenes: Callable[[], Awaitable[Scene]], traceparent: str
) -> None:
    """The session has delivered results, and lacks the number of the next one."""
    scene = await scenes()
    await scene.results()
    grant = scene.sessions[0]
    assert await scene.redis.hdel(scene.store.keys.session("s1"), "a:es")
    before = await state_of(scene)
    chunk = Chunk(
        session=grant.session, epoch=grant.epoch, seq=1, ms=100, payload=b"\x01" * 3_200,
        end_of_utterance=True, traceparent=traceparent,
    )  # fmt: skip
    (refused,) = await scene.store.append_audio([chunk])
    assert isinstance(refused, RecordDamaged)
    assert refused.fields == {"record": "session:s1", "field": "a:es"}
    assert await state_of(scene) == before


async def test_a_job_without_the_time_of_its_finalize_goes_on_without_its_age(
    scenes: Callable[[], Awaitable[Scene]],
) -> None:
    scene = await scenes()
    scene.store.tick(50)
    (old, _), (new, _) = await scene.attempts()
    await damage_job(scene, old, "finalized")
    await scene.results()
    ages = {
        event.job: event.data.age_ms
        for event in await scene.store.log("ResultRecorded")
        if isinstance(event.data, ResultRecorded)
    }
    assert ages == {old: 0, new: 50}


async def test_a_node_whose_record_is_damaged_is_not_chosen(
    scenes: Callable[[], Awaitable[Scene]],
) -> None:
    scene = await scenes()
    await scene.results()
    await scene.results()
    other = await scene.store.join("n2", slots=1, features=["tone"])
    await scene.redis.hdel(scene.store.keys.node("n1"), "slots")
    session = await scene.store.open("s9")
    await scene.store.say(session, 0, end_of_utterance=True)
    await scene.store.dispatch()
    (event,) = [e for e in await scene.store.log("JobDispatched") if e.session == session.session]
    assert event.node == other.node
