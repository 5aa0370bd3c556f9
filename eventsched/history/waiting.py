"""The waiting jobs of a cell by requirement, for `eventsched status`.

Owns: the reads for waiting jobs, with one round trip for many requirements; the reason of the wait.
Must not: write, decide.
Read next: status.py, lua/include/queue.lua.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from eventsched.history.node_status import ClassStatus
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store
from eventsched.store.replies import scores_of

SCAN_MAX = 2_000
"""Waiting jobs of one requirement and priority that are read to find the oldest."""
MEMBERS_MAX = 10_000
"""Waiting jobs that are read in one round trip."""
PRIORITIES = range(3)


class WaitingJobs(msgspec.Struct, frozen=True, kw_only=True):
    """The waiting jobs of one requirement."""

    source: str
    target: str
    features: list[str]
    jobs: int
    oldest_ms: int
    """Time since the oldest job began to wait; of backoffs, since the oldest one should have
    ended."""
    reason: str
    """NO_POOL_FOR_LANG_PAIR: no node declares it. NO_AVAILABLE_NODE: those that do are busy.
    retry_backoff: the jobs wait before their next attempts."""


async def read_waiting(
    store: Store, now_ms: int, settings: Settings, classes: Sequence[ClassStatus]
) -> list[WaitingJobs]:
    """Return the waiting jobs of each requirement that has some, in the order of requirements.

    The jobs that back off follow.
    """
    requirements = sorted(await store.read_hash(store.keys.requirements))
    queues = {
        store.keys.waiting(priority, requirement): requirement
        for requirement in requirements
        for priority in PRIORITIES
    }
    counts = await store.read_many([("ZCARD", key) for key in queues])
    lengths = {key: count for key, count in zip(queues, counts, strict=True) if count}
    jobs: Counter[str] = Counter()
    oldest: dict[str, bytes] = {}
    for key, count in lengths.items():
        jobs[_requirement_of(queues[key])] += count
    for key, member in (await _oldest_members(store, lengths)).items():
        requirement = _requirement_of(queues[key])
        oldest[requirement] = min(member, oldest.get(requirement, member))
    oldest_ms = await _waiting_ms(store, now_ms, settings, oldest)
    abilities = _Abilities(classes)
    waiting = [
        _waiting_jobs(requirement, jobs[requirement], oldest_ms.get(requirement, 0), abilities)
        for requirement in sorted(jobs)
    ]
    return waiting + await _read_backoffs(store, now_ms)


def _requirement_of(queue: str) -> str:
    """The requirement of a queue, whose name may end with the node that its jobs avoid."""
    return queue.partition("|")[0]


async def _read_backoffs(store: Store, now_ms: int) -> list[WaitingJobs]:
    """Return the jobs that back off, of the 10,000 whose backoffs end first, by requirement."""
    key = store.keys.backoffs
    (reply,) = await store.read_many([("ZRANGE", key, 0, MEMBERS_MAX - 1, "WITHSCORES")])
    ends: dict[str, list[int]] = {}
    for member, score in scores_of(reply):
        ends.setdefault(member.decode().partition(" ")[0], []).append(int(float(score)))
    return [
        _row(requirement, len(ends_ms), max(0, now_ms - min(ends_ms)), "retry_backoff")
        for requirement, ends_ms in sorted(ends.items())
    ]


async def _oldest_members(store: Store, lengths: Mapping[str, int]) -> dict[str, bytes]:
    """Return the member with the lowest place of each queue, by its key."""
    oldest: dict[str, bytes] = {}
    for keys in _batches({key: min(count, SCAN_MAX) for key, count in lengths.items()}):
        replies = await store.read_many([("ZRANGE", key, 0, SCAN_MAX - 1) for key in keys])
        oldest |= {key: min(reply) for key, reply in zip(keys, replies, strict=True) if reply}
    return oldest


def _batches(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Yield the keys of `sizes` in lists of at most MEMBERS_MAX in total, or of one key."""
    batch: list[str] = []
    total = 0
    for key, size in sizes.items():
        if batch and total + size > MEMBERS_MAX:
            yield batch
            batch, total = [], 0
        batch.append(key)
        total += size
    if batch:
        yield batch


async def _waiting_ms(
    store: Store, now_ms: int, settings: Settings, oldest: Mapping[str, bytes]
) -> dict[str, int]:
    """Return for how long each job of `oldest` waits: since `queue_timeout_ms` before its deadline.

    A job without a deadline got a slot in the meantime.
    """
    timers = store.keys.timers
    deadlines = await store.read_many(
        [("ZSCORE", timers, b"wait|" + member.partition(b":")[2]) for member in oldest.values()]
    )
    return {
        requirement: max(0, now_ms - int(float(deadline)) + settings.queue_timeout_ms)
        for requirement, deadline in zip(oldest, deadlines, strict=True)
        if deadline is not None
    }


class _Abilities:
    """The languages and features that the nodes of the capability classes declare."""

    def __init__(self, classes: Sequence[ClassStatus]) -> None:
        self._by_source: dict[str, list[tuple[frozenset[str], frozenset[str]]]] = {}
        for each in classes:
            for source in each.sources:
                declared = frozenset(each.targets), frozenset(each.features)
                self._by_source.setdefault(source, []).append(declared)

    def has(self, source: str, target: str, features: Sequence[str]) -> bool:
        """Return whether the nodes of one class declare all of them."""
        return any(
            target in targets and declared.issuperset(features)
            for targets, declared in self._by_source.get(source, ())
        )


def _waiting_jobs(
    requirement: str, jobs: int, oldest_ms: int, abilities: _Abilities
) -> WaitingJobs:
    row = _row(requirement, jobs, oldest_ms, "NO_AVAILABLE_NODE")
    if abilities.has(row.source, row.target, row.features):
        return row
    return msgspec.structs.replace(row, reason="NO_POOL_FOR_LANG_PAIR")


def _row(requirement: str, jobs: int, oldest_ms: int, reason: str) -> WaitingJobs:
    source, target, joined = requirement.split(":", 2)
    return WaitingJobs(
        source=source,
        target=target,
        features=[feature for feature in joined.split(",") if feature],
        jobs=jobs,
        oldest_ms=oldest_ms,
        reason=reason,
    )
