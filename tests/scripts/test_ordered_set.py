"""The sorted set of the Lua module `ordered_set` equals a sorted list after any changes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping

import pytest

from eventsched.schema.keys import Keys
from eventsched.store.client import Client
from eventsched.store.transport import RedisTransport
from tests.scripts.added_scripts import add_script

SCRIPT = """#!lua
-- include: ordered_set
local set, items, results = ordered_set.new(), {}, {}
for _, change in ipairs(cjson.decode(ARGV[2])) do
  local id, load, name = change[1], change[2], change[3]
  if items[id] then ordered_set.remove(set, items[id]) end
  items[id] = load >= 0 and { id = id, load = load, name = name } or nil
  if items[id] then ordered_set.insert(set, items[id]) end
  local ids, first = {}, ordered_set.first(set, 9)
  for i = 1, math.min(#first, 9) do ids[i] = first[i].id end
  local one, two = ordered_set.first_two(set)
  assert(one == first[1] and two == first[2])
  results[#results + 1] = table.concat(ids, ' ')
end
local all, sizes = {}, {}
for i, block in ipairs(set) do
  sizes[i] = #block
  for _, item in ipairs(block) do all[#all + 1] = item.id end
end
return cjson.encode({ results, all, sizes })
"""
COUNT = 400
Item = tuple[int, str, str]
"""Load, name, id."""


def ids_in_order(items: Mapping[str, Item]) -> list[str]:
    in_order = sorted(items.values(), key=lambda item: (item[0], item[1].encode(), item[2]))
    return [item[2] for item in in_order]


@pytest.mark.parametrize("seed", range(4))
async def test_the_first_items_after_each_change_and_all_at_the_end(
    redis: Client, cells: Callable[[], str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Few loads, so that names decide often; two items of one name, so that ids decide."""
    add_script(monkeypatch, "sorted_by", SCRIPT)
    rng, keys = random.Random(seed), Keys(cells())
    await redis.hset(keys.clock, "record", "server|0|0|0.1")
    loads = [0, 0, 250, 500] if seed % 2 else list(range(1_000))
    names = {f"c{no}": f"{rng.choice('aZ-_9')}{'n' * (no % 9)}{no // 2}" for no in range(COUNT)}
    items: dict[str, Item] = {}
    changes: list[tuple[str, int, str]] = []
    expected: list[str] = []
    for step in range(2_500):
        id_ = f"c{rng.randrange(COUNT)}"
        is_removed = rng.random() < (0.1 if step < 1_500 else 0.8)
        load = -1 if is_removed else rng.choice(loads)
        changes.append((id_, load, names[id_]))
        items.pop(id_, None)
        if not is_removed:
            items[id_] = (load, names[id_], id_)
        if step % 10 == 0:
            expected.append(" ".join(ids_in_order(items)[:9]))
    reply = await RedisTransport(redis, redis).run(
        "sorted_by", keys.declared, ["", json.dumps(changes)]
    )
    results, every, sizes = json.loads(reply)
    assert results[::10] == expected
    assert every == ids_in_order(items)
    assert all(0 < size <= 64 for size in sizes)
    assert len(sizes) > 1
