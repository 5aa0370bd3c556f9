"""Every argument of every script has a limit (rule 33, limits). The arguments are those of the
headers, so no script and no argument can be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventsched.errors import InvalidMessage, Refused
from eventsched.store import library as lua_library
from eventsched.store.client import Client
from eventsched.store.transport import Arg
from tests.fixtures_store import TimedStore
from tests.scripts.calls import contents
from tests.scripts.headers import source

NAMES = lua_library.names()


def arguments_of(script: str) -> list[tuple[str, int]]:
    """(name, most bytes) of the arguments of a call with two items, or with three in sections."""
    arguments = lua_library.Arguments.of(source(script))
    repeated = list(arguments.fields.items()) * min(2, arguments.items_max)
    if arguments.has_sections:
        repeated = [("sections", lua_library.SECTION_BYTES_MAX)] * 3
    return [*arguments.named.items(), *repeated]


def calls_with_one_long_argument(script: str) -> Iterator[tuple[str, int, list[Arg]]]:
    """(name, most bytes, arguments) of a call for each argument, in two forms."""
    arguments = arguments_of(script)
    for at, (name, most) in enumerate(arguments):
        for character in ("x", "9"):
            args: list[Arg] = ["1"] * len(arguments)
            args[at] = character * (most + 1)
            yield name, most, args


async def call(store: TimedStore, script: str, args: list[Arg]) -> None:
    await store.transport.run(script, store.keys.declared, args)


@pytest.mark.parametrize("script", NAMES)
async def test_rule_33_an_argument_that_is_too_long_is_refused_before_anything_is_written(
    store: TimedStore, redis: Client, script: str
) -> None:
    session, node = await store.open(), await store.join()
    await store.say(session, 0, end_of_utterance=True)
    await store.dispatch()
    assert await store.inbox(node)
    before = await contents(redis, store)
    for name, most, args in calls_with_one_long_argument(script):
        with pytest.raises(InvalidMessage) as refused:
            await call(store, script, args)
        assert refused.value.fields == {"field": name, "limit": f"at most {most} B"}
    assert await contents(redis, store) == before


@pytest.mark.parametrize("script", NAMES)
async def test_rule_33_a_call_without_all_its_arguments_is_refused(
    store: TimedStore, redis: Client, script: str
) -> None:
    await store.open()
    before = await contents(redis, store)
    named = list(lua_library.Arguments.of(source(script)).named)
    for count in range(len(named)):
        with pytest.raises(InvalidMessage):
            await call(store, script, ["1"] * count)
    assert await contents(redis, store) == before


async def test_rule_33_an_argument_may_be_as_long_as_its_limit(store: TimedStore) -> None:
    """Each limit is the one of the header, and not a smaller one."""
    for script in NAMES:
        arguments = arguments_of(script)
        args: list[Arg] = ["x" * min(most, 4_096) for _, most in arguments]
        try:
            await call(store, script, args)
        except Refused as refused:
            assert not refused.fields.get("limit", "").endswith("4096 B"), script
            assert " B" not in refused.fields.get("limit", "").removeprefix("text of"), script
        except Exception as error:  # noqa: BLE001 - a script may also stop at a count that is none
            assert "user_function" in str(error), script


async def test_rule_33_no_limit_is_larger_than_a_call_can_need() -> None:
    large = {
        (script, name): most
        for script in NAMES
        for name, most in arguments_of(script)
        if most > lua_library.ARGUMENT_BYTES_MAX
    }
    assert {name for (_, name), most in large.items() if most > 65_536} == {
        "payload", "body", "audio", "sections",
    }  # fmt: skip


SAVE: list[Arg] = [
    "", "core", "", "1", "0-0", "4-0", "5-0", "1", "1000",
    "1", "job", "1.2",
    "2", "e1", "e2", "2", "2", "4", "e3", "5-0", "1", "v", "e4", "5-0", "0", "v",
    "1", "6", "e5", "5-0", "1", "v", "f", "w",
    "1", "1", "3", "s1", "4-0", "5-0",
    "1", "1", "3", "n1", "4-0", "5-0",
    "1", "5-0", "Odd", "{}", "why",
]  # fmt: skip
"""Sections of each kind."""
REPAIR: list[Arg] = [
    "", "5-0", "", "", "", "cell", "a change", "", "", "why", "by",
    "1", "c0.s1", "1", "counters", "count", "7",
    "2", "4", "HSET", "counters", "count", "8", "2", "DEL", "counters",
]  # fmt: skip
COUNTS = {
    "save_views": [9, 12, 15, 16, 17, 26, 27, 34, 35, 36, 40, 41, 42, 46],
    "repair_state": [11, 13, 17, 18, 23],
}
"""The places of the counts in these calls."""


@pytest.mark.parametrize(
    ("script", "args", "reply"),
    [("save_views", SAVE, b"fenced"), ("repair_state", REPAIR, b"moved")],
)
async def test_sections_that_are_not_whole_are_refused_before_anything_is_written(
    store: TimedStore, redis: Client, script: str, args: list[Arg], reply: bytes
) -> None:
    await store.open()
    before = await contents(redis, store)
    assert await store.transport.run(script, store.keys.declared, args) == reply
    for at in COUNTS[script]:
        for count in ("", "x", "-1", "1.5", "0x1", "99", "999999999", "1e300"):
            wrong = [*args[:at], count, *args[at + 1 :]]
            with pytest.raises(InvalidMessage):
                await call(store, script, wrong)
    if script == "repair_state":  # a second key of DEL would have no prefix of the cell
        with pytest.raises(InvalidMessage):
            await call(store, script, [*args[:-3], "3", "DEL", "counters", "elsewhere"])
    first = COUNTS[script][0]
    for wrong in [*(args[:count] for count in range(first, len(args))), [*args, "0"]]:
        with pytest.raises(InvalidMessage):
            await call(store, script, wrong)
    assert await contents(redis, store) == before
