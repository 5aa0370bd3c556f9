"""The order of waiting jobs, and the counts of waiting jobs by tenant."""

from __future__ import annotations

from itertools import product

import pytest

from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import call
from tests.scripts.jobs_of import speak

PLACES = """#!lua flags=no-writes
-- include: queue
local places = {}
for at = 2, #ARGV, 3 do
  places[#places + 1] = queue.place_of({ priority = tonumber(ARGV[at]),
    tag = tonumber(ARGV[at + 1]), member = ARGV[at + 2] })
end
return places
"""


async def test_rule_18_jobs_are_ordered_by_priority_then_tag_then_entry(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "places", PLACES)
    members = [f"{entry:016d}:a" for entry in (9, 10)]
    jobs = list(product((0, 1, 2), (5, 70, 2**53 - 1), members))
    places = await call(store, "places", *[str(value) for job in jobs for value in job])
    assert places == sorted(places)
    assert len({*places}) == len(jobs)
    assert places[0] == b"0:0000000000000005:0000000000000009"


async def test_rule_18_a_tenant_without_waiting_jobs_has_no_count(store: TimedStore) -> None:
    node = await store.join(slots=1)
    for name, tenant, count in (("s1", "acme", 1), ("s2", "tiny", 1), ("s3", "acme", 2)):
        await speak(store, name, tenant=tenant, count=count)
    await store.dispatch()
    assert await store.read_hash(store.keys.tenant_queued) == {"acme": "2", "tiny": "1"}
    counts = []
    for _ in range(3):
        await store.answer(node, (await store.inbox(node))[-1])
        counts.append(await store.read_hash(store.keys.tenant_queued))
    assert counts == [{"acme": "2"}, {"acme": "1"}, {}]
