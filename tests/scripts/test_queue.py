"""The order of waiting jobs, and the counts of waiting jobs by tenant."""

from __future__ import annotations

from itertools import product

import pytest

from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import call
from tests.scripts.jobs_of import speak

COMPARE = """#!lua flags=no-writes
-- include: queue
local jobs, order = {}, {}
for at = 2, #ARGV, 3 do
  jobs[#jobs + 1] = { priority = tonumber(ARGV[at]), tag = tonumber(ARGV[at + 1]),
    member = ARGV[at + 2] }
end
for _, a in ipairs(jobs) do
  for _, b in ipairs(jobs) do order[#order + 1] = queue.precedes(a, b) and 1 or 0 end
end
return order
"""


async def test_rule_18_jobs_are_ordered_by_priority_then_tag_then_entry(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "compare", COMPARE)
    jobs = list(product((0, 1), (5, 7), ("1:a", "2:a")))
    order = await call(store, "compare", *[str(value) for job in jobs for value in job])
    assert order == [int(a < b) for a, b in product(jobs, repeat=2)]


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
