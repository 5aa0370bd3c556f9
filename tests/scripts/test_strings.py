"""The order of texts is that of their bytes, whatever the locale of the server."""

from __future__ import annotations

from itertools import product

import pytest

from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import call

COMPARE = """#!lua flags=no-writes
-- include: strings
local order = {}
for at = 2, #ARGV, 2 do
  order[#order + 1] = strings.precedes(ARGV[at], ARGV[at + 1]) and 1 or 0
end
return order
"""
TEXTS = ("", "a", "b", "aa", "ab", "ba", "aab", "aba", "aaab", "aaba", "aaaab", "aaaba", "aaaaa")


async def test_texts_are_ordered_by_their_bytes(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the four bytes that are compared at a time, and in the next four."""
    add_script(monkeypatch, "compare", COMPARE)
    pairs = list(product(TEXTS, repeat=2))
    order = await call(store, "compare", *[text for pair in pairs for text in pair])
    assert order == [int(a.encode() < b.encode()) for a, b in pairs]
