"""Each write of each call fails once; the repeated call, timers or a repair complete the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest

from eventsched.errors import CellUnknown, EventschedError, UnexpectedReply
from eventsched.schema.events import UtteranceFinalized
from eventsched.schema.keys import name_of
from eventsched.store import library as lua_library
from eventsched.store.cell_connection import CellConnection
from eventsched.store.client import Client
from eventsched.store.transport import RedisTransport
from tests.fixtures_store import TimedStore
from tests.scripts.session_state import assert_order
from tests.session_buffer import buffer_of
from tests.verify import scene as scene_module
from tests.verify.scene import (
    BACKOFF_MS_MAX,
    SETTINGS,
    WRITES_MAX,
    Scene,
    Snapshot,
    Step,
    abandon,
    almost_failing,
    archive_lease,
    avoiding,
    before_dispatch,
    clock_back,
    close_first,
    close_in_a_room,
    closed_with_a_key,
    configure,
    damaged,
    dead_letters,
    discard_dead_letters,
    drain,
    drop_group,
    drop_indexes,
    erase,
    extend_lease,
    fails,
    finalize_others,
    fire,
    foreign_consumers,
    foreign_group,
    gone_for_long,
    half_dispatched_again,
    has_no_consumers,
    has_no_index,
    has_no_old_ids,
    heartbeat,
    held_result,
    in_a_room,
    in_turn,
    is_abandoned,
    is_adjusted,
    is_configured,
    is_dropped,
    is_retired,
    is_sealed,
    is_set_aside,
    is_trimmed,
    long_log,
    lost_audio,
    many_leases,
    missing_model,
    new_set,
    no_step,
    old_index,
    old_jobs,
    old_node_indexes,
    open_in_room,
    open_utterances,
    other_owner,
    partials,
    pass_in_silence,
    pass_time,
    passed_the_trimmed,
    presence,
    read_archive,
    rebuild,
    recipients,
    register,
    release_archive,
    remove_consumers,
    repair,
    request_drain,
    retire_jobs,
    retired,
    retry_dead_letters,
    retryable,
    save,
    say_more,
    say_two_targets,
    seal,
    set_aside,
    short_suspension,
    take_over,
    timer_kinds,
    trim,
    trim_by_hand,
    trim_node_indexes,
    two_targets,
    unread_letters,
    up_to_now,
)
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import verified

failing_writes, scenes = scene_module.failing_writes, scene_module.scenes


async def without_retry_timer(scene: Scene) -> None:
    """Only a repair continues the job."""
    timers = [member for member in await scene.timers() if member.startswith("retry|")]
    assert await scene.redis.zrem(scene.store.keys.timers, *timers) == len(timers)


CALLS: dict[str, tuple[Step, Step]] = {
    "append_audio": (no_step, say_more),
    "append_audio, two targets": (two_targets, say_two_targets),
    "append_audio, old jobs": (old_jobs, retire_jobs),
    "finalize_utterances": (open_utterances, finalize_others),
    "open_session": (no_step, open_in_room),
    "resume_session": (
        no_step, lambda scene: scene.store.resume(scene.sessions[1].session, "tok"),
    ),
    "keep_alive": (
        no_step, lambda scene: scene.store.keep_alive([(scene.sessions[0].session, 1, "")]),
    ),
    "start_playback": (
        lambda scene: scene.play(started=False), lambda scene: scene.play(started=True),
    ),
    "end_playback": (no_step, lambda scene: scene.play(started=False)),
    "close_session": (no_step, close_first),
    "close_session, in a room": (in_a_room, close_in_a_room),
    "erase_session": (closed_with_a_key, erase),
    "dispatch_jobs": (before_dispatch, lambda scene: scene.store.dispatch()),
    "heartbeat_node": (no_step, heartbeat),
    "register_node": (no_step, register),
    "drain_node": (no_step, drain),
    "record_results": (no_step, lambda scene: scene.results()),
    "record_results, to a room": (recipients, lambda scene: scene.results()),
    "record_results, after a held one": (held_result, lambda scene: scene.results()),
    "record_results, no speech": (
        no_step, lambda scene: scene.results(status="no_speech", code="ASR_EMPTY"),
    ),
    "record_results, retryable failure": (no_step, retryable),
    "record_results, failing node": (almost_failing, retryable),
    "record_results, failure": (no_step, lambda scene: scene.results(status="failed", code="X")),
    "record_results, missing model": (no_step, missing_model),
    "send_partials": (no_step, partials),
    "extend_lease": (no_step, extend_lease),
    "retry_dead_letters": (dead_letters, retry_dead_letters),
    "discard_dead_letters": (unread_letters, discard_dead_letters),
    "request_drain": (no_step, request_drain),
    "fire_timers age": (pass_in_silence(SETTINGS.queue_timeout_ms // 2), fire),
    "fire_timers wait": (pass_in_silence(SETTINGS.queue_timeout_ms), fire),
    "fire_timers node": (pass_in_silence(SETTINGS.node_lost_ms), fire),
    "fire_timers playback": (pass_in_silence(15_000, SETTINGS.playback_ms - 15_000), fire),
    "fire_timers idle": (pass_in_silence(20_000, 20_000, 20_000), fire),
    "fire_timers pause": (in_turn(open_utterances, pass_time(SETTINGS.pause_ms)), fire),
    "fire_timers leases": (pass_time(10_000, 10_000, 10_001, 1_000), fire),
    "fire_timers gap": (in_turn(held_result, pass_time(10_000, 10_000, 10_000)), fire),
    "fire_timers close": (in_turn(close_first, pass_time(10_000, 10_000, 10_000)), fire),
    "fire_timers drain": (
        in_turn(
            lambda scene: scene.store.drain_node(
                scene.node.node, scene.node.epoch, within_ms=5_000
            ),
            pass_time(5_000),
        ),
        fire,
    ),
    "fire_timers gone": (gone_for_long, fire),
    "fire_timers lost": (in_turn(many_leases, pass_time(1)), fire),
    "fire_timers suspension": (in_turn(short_suspension, pass_time(5_000)), fire),
    "fire_timers backoff": (in_turn(retryable, pass_time(BACKOFF_MS_MAX)), fire),
    "fire_timers avoid": (avoiding, fire),
    "fire_timers retire": (retired, fire),
    "fire_timers retry": (half_dispatched_again, fire),
    "acquire_set_lease": (other_owner, take_over),
    "acquire_set_lease, new set": (
        in_turn(long_log, trim), new_set,
    ),
    "save_views": (say_more, save),
    "start_rebuild+promote_revision+drop_revision": (no_step, rebuild),
    "read_archive": (no_step, read_archive),
    "read_archive, clock set back": (clock_back, read_archive),
    "record_seal": (archive_lease, seal),
    "record_seal, next segment": (in_turn(archive_lease, up_to_now), seal),
    "abandon_archive": (in_turn(archive_lease, seal, release_archive), abandon),
    "set_aside_archive": (archive_lease, set_aside),
    "drop_consumer_group": (foreign_group, drop_group),
    "remove_idle_consumers": (in_turn(foreign_group, foreign_consumers), remove_consumers),
    "trim_log": (long_log, trim),
    "drop_session_indexes": (old_index, drop_indexes),
    "trim_node_indexes": (old_node_indexes, trim_node_indexes),
    "configure_cell": (no_step, configure),
    "renew_presence": (no_step, presence),
    "set_backpressure": (
        no_step,
        lambda scene: scene.store.set_backpressure("memory", is_active=True, seen=2, limit=1),
    ),
    "set_tenant_backpressure": (
        no_step,
        lambda scene: scene.store.set_tenant_backpressure(
            "acme", "tenant_queue", is_active=True, seen=2, limit=1
        ),
    ),
    "set_tenant_lag": (no_step, lambda scene: scene.store.set_tenant_lag("acme", 1)),
    "repair_state": (damaged, repair),
    "repair_job": (in_turn(half_dispatched_again, without_retry_timer), repair),
    "repair_job, lost audio": (lost_audio, repair),
    "repair_trim": (trim_by_hand, repair),
}  # fmt: skip
"""By script, for `fire_timers` with the kind of the timer: what precedes the call, and the call."""
CHECKS: dict[str, Step] = {
    "acquire_set_lease, new set": passed_the_trimmed,
    "read_archive, clock set back": is_adjusted,
    "record_seal": is_sealed,
    "record_seal, next segment": is_sealed,
    "abandon_archive": is_abandoned,
    "set_aside_archive": is_set_aside,
    "drop_consumer_group": is_dropped,
    "remove_idle_consumers": has_no_consumers,
    "trim_log": is_trimmed,
    "drop_session_indexes": has_no_index,
    "fire_timers gone": is_retired,
    "trim_node_indexes": has_no_old_ids,
    "configure_cell": is_configured,
    "repair_trim": is_trimmed,
}
"""What is true after the repeated call, besides what `verify` checks."""


class Called(NamedTuple):
    """The scripts of a case, and the kind of its timer or an empty text."""

    scripts: list[str]
    timer: str

    @classmethod
    def by(cls, case: str) -> Called:
        scripts, _, timer = case.partition(",")[0].partition(" ")
        return cls(scripts.split("+"), timer)


def test_each_script_that_writes_and_each_timer_has_a_case() -> None:
    """A new one needs a case in CALLS."""
    called = [Called.by(case) for case in CALLS]
    writing = {
        name for name in lua_library.names()
        if not lua_library._read(f"{name}.lua").startswith("#!lua flags=no-writes")
    }  # fmt: skip
    assert {script for each in called for script in each.scripts} == writing
    assert {each.timer for each in called} - {""} == timer_kinds()
    assert set(CHECKS) <= set(CALLS)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The scripts that were called."""
    scripts: set[str] = set()
    run = CellConnection.run

    async def recording(self: CellConnection, script: str, *args: Any) -> Any:
        scripts.add(script)
        return await run(self, script, *args)

    monkeypatch.setattr(CellConnection, "run", recording)
    return scripts


@pytest.mark.parametrize("name", CALLS)
async def test_a_failed_write_is_completed(
    scenes: Callable[[], Awaitable[Scene]], called: set[str], name: str
) -> None:
    before, step = CALLS[name]
    scripts, timer = Called.by(name)
    repaired: dict[int, list[str]] = {}
    scene = await scenes()
    await before(scene)
    due = await scene.timers()
    assert not timer or [m for m in due if m.partition("|")[0] == timer], due
    snapshot = await Snapshot.of(scene)
    checked: list[Snapshot] = []
    for write_no in range(1, WRITES_MAX):
        scene = await snapshot.restore()
        called.clear()
        if not await fails(scene, step, write_no):
            break
        with suppress(EventschedError):  # the call had taken effect
            await step(scene)
        repeated = await Snapshot.of(scene)
        if repeated in checked:
            continue  # an earlier write led to the same state, which has been completed
        checked.append(repeated)
        await scene.end()
        report = await verified(scene.store)
        if report.is_clean:
            if report.is_complete:
                assert_order(await scene.store.log())
        else:
            found = [f"{each.invariant} {each.where} {each.what}" for each in report.violations]
            repaired[write_no] = found
            done = await repairer_of(scene.store).apply("a failed write", "test")
            assert done.left == [], (write_no, found, [(c.where, c.what) for c in done.applied])
            await scene.end()
        assert await scene.states() <= {"closed"}, (write_no, repaired.get(write_no))
        await assert_all_audio_is_finalized(scene)
        await CHECKS.get(name, no_step)(scene)
    else:
        raise AssertionError(f"{name} has more than {WRITES_MAX} writes")
    assert called.issuperset(scripts)
    assert write_no > 1, "the call writes"


async def assert_all_audio_is_finalized(scene: Scene) -> None:
    """Every chunk of a session that has closed is in an utterance."""
    if not await scene.views.is_log_complete():
        return
    finalized = await scene.store.log("UtteranceFinalized")
    for session in scene.sessions:
        name = name_of(session.session)
        fields = await scene.store.read_hash(scene.store.keys.session(name))
        if not fields:
            continue  # retired
        chunks = 0
        for event in finalized:
            if event.session == session.session:
                assert isinstance(event.data, UtteranceFinalized)
                assert event.data.first_seq == chunks
                chunks += event.data.count
        assert chunks == int(buffer_of(fields)["next_seq"]), name


async def test_a_failed_write_of_a_new_cell_is_completed(
    redis: Client, cells: Callable[[], str]
) -> None:
    """Until all settings are stored, no other script accepts the cell."""
    settings = msgspec.to_builtins(SETTINGS)
    for write_no in range(1, WRITES_MAX):
        store = TimedStore(RedisTransport(redis, redis), cells())
        key = f"{store.keys.prefix}fault"
        await redis.set(key, write_no)
        try:
            await store.configure_cell(settings, overwrite=False, manual_clock=True)
        except UnexpectedReply:
            with pytest.raises(CellUnknown):
                await store.open()
        finally:
            left = int(await redis.getdel(key) or 0)
        if left > 0:
            break
        await store.configure_cell(settings, overwrite=False, manual_clock=True)
        assert await store.read_settings() == SETTINGS
        await store.open()
    assert write_no == 4
