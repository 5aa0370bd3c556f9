"""Each kind of timer is lost: verify names the state that it ends, and the repair ends it or sets
the timer again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.scripts.cell_state import zset
from tests.verify import scene as scene_module
from tests.verify.scene import (
    Scene,
    Step,
    avoiding,
    close_first,
    half_dispatched_again,
    held_result,
    many_leases,
    missing_model,
    no_step,
    open_utterances,
    retryable,
    timer_kinds,
)
from tests.verify.test_repair import repairer_of
from tests.verify.test_verify import project, verified

failing_writes, scenes = scene_module.failing_writes, scene_module.scenes


async def drain_later(scene: Scene) -> None:
    await scene.store.drain_node(scene.node.node, scene.node.epoch, within_ms=5_000)


async def drain_now(scene: Scene) -> None:
    await scene.store.drain_node(scene.node.node, scene.node.epoch, within_ms=0)


REQUIRED: dict[str, Step] = {
    "age": no_step,
    "avoid": avoiding,
    "backoff": retryable,
    "close": close_first,
    "drain": drain_later,
    "gap": held_result,
    "gone": drain_now,
    "idle": no_step,
    "leases": no_step,
    "lost": many_leases,
    "node": no_step,
    "pause": open_utterances,
    "playback": no_step,
    "retire": Scene.end,
    "retry": half_dispatched_again,
    "suspension": missing_model,
    "wait": no_step,
}
"""What brings a cell into a state that needs the timer."""
COMPLETED = {"avoid", "drain", "lost", "retry"}
"""A repair ends the state of these timers at once: the time at which it ends is not known, or has
come."""


def test_each_kind_of_timer_has_a_case() -> None:
    assert set(REQUIRED) == timer_kinds()


@pytest.mark.parametrize("kind", REQUIRED)
async def test_a_lost_timer_is_found_and_repaired(
    scenes: Callable[[], Awaitable[Scene]], kind: str
) -> None:
    scene = await scenes()
    await REQUIRED[kind](scene)
    store, key = scene.store, scene.store.keys.timers
    await project(store)
    assert (await verified(store)).violations == [], "a state with its timer is no violation"
    lost = [member for member in await zset(store, key) if member.startswith(f"{kind}|")]
    assert lost
    await scene.redis.zrem(key, *lost)
    report = await verified(store)
    assert {violation.invariant for violation in report.violations} == {"I8"}
    named = [each for each in report.violations if f"without a {kind} timer" in each.what]
    assert named, report.violations
    done = await repairer_of(store).apply("a lost timer", "test")
    assert done.left == []
    is_set_again = not set(lost).isdisjoint(await zset(store, key))
    assert is_set_again == (kind not in COMPLETED)
    await scene.end()
    assert await scene.states() <= {"closed"}
    assert (await verified(store)).violations == []
