"""Entry ids in functions: two numbers of 64 bits, which a number of Lua does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventsched
from eventsched.schema.ids import SEQUENCE_MAX, format_id, is_id, parse_id
from eventsched.store.client import Client

SOURCE = Path(eventsched.__file__).parent / "lua" / "include" / "entry_ids.lua"
CALLS = """
if not entry_ids.is_valid(ARGV[1]) then return {} end
local after = entry_ids.successor(ARGV[1])
return { after, entry_ids.precedes(ARGV[1], after) and 1 or 0,
  entry_ids.precedes(after, ARGV[1]) and 1 or 0 }
"""


async def called(redis: Client, entry_id: str) -> list[bytes | int]:
    source = SOURCE.read_text(encoding="utf-8").removesuffix("return entry_ids\n") + CALLS
    reply: list[bytes | int] = await redis.execute_command("EVAL", source, 0, entry_id)
    return reply


@pytest.mark.parametrize(
    "number", [0, 9, 10**15 - 1, 10**15, 2**53, 10**19 - 1, 1299 * 10**15 + 99, SEQUENCE_MAX - 1]
)
async def test_the_successor_is_the_next_id(redis: Client, number: int) -> None:
    assert await called(redis, f"7-{number}") == [f"7-{number + 1}".encode(), 1, 0]
    after = format_id(number + 1, 0).encode()
    assert await called(redis, f"{number}-{SEQUENCE_MAX}") == [after, 1, 0]


async def test_text_that_is_no_id_is_refused(redis: Client) -> None:
    high = SEQUENCE_MAX + 1
    for text in ("", "5", "-", "05-3", "5-03", f"{high}-0", f"0-{high}", "5-" + "9" * 5_000):
        assert not is_id(text)
        assert await called(redis, text) == []
    greatest = format_id(SEQUENCE_MAX, SEQUENCE_MAX)
    assert parse_id(greatest) == (SEQUENCE_MAX, SEQUENCE_MAX)
    assert await called(redis, greatest) == [greatest.encode(), 0, 0]
