"""events.lua and events.py have the same events with the same fields of the same types."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any, get_args, get_origin

import msgspec
import pytest

from eventsched.schema import events
from tests.scripts.lua_syntax import calls, functions, tree, walk
from tests.scripts.lua_syntax import text as text_of

LUA = files("eventsched") / "lua"
SOURCE = (LUA / "include" / "events.lua").read_text(encoding="utf-8")
FUNCTIONS = functions(SOURCE)
STRUCTS: dict[str, Any] = {kind.__name__: kind for kind in get_args(events.AnyData)}
PARTS: dict[str, Any] = {
    "target": events.Target,
    "class_seen": events.ClassSeen,
    "other_classes": events.OtherClasses,
    "affinity": events.Affinity,
    "rank": events.Rank,
    "revision": events.Revision,
    "delivered": events.Delivered,
}
"""Structs within events, which have a function of their own."""
OPTIONAL_PARTS = tuple(
    kind | None for kind in (events.Affinity, events.Rank, events.OtherClasses, events.Delivered)
)
ALL = STRUCTS | PARTS
_KEY = re.compile(r'"(\w+)":(["\[{]?)')


def fields(struct: Any) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def body(name: str) -> str:
    """The function with the local functions of the file that it calls, and that these call."""
    sources, found = [FUNCTIONS[f"events.{name}"]], set[str]()
    for source in sources:
        helpers = {called for called, _ in calls(source) if called in FUNCTIONS}
        new = {helper for helper in helpers - found if "." not in helper}
        found |= new
        sources += [FUNCTIONS[helper] for helper in new]
    return "\n".join(sources)


def written(name: str) -> dict[str, str]:
    """Each field that the function writes, with the first character of its value if the text shows
    it.
    """
    fields_written = dict[str, str]()
    for node in walk(tree(body(name))):
        if node.type == "string":
            fields_written |= dict(_KEY.findall(text_of(node)))
        if node.type == "field" and (key := node.child_by_field_name("name")) is not None:
            fields_written[text_of(key)] = "?"
    fields_written |= dict.fromkeys(re.findall(r"\bdata\.(\w+) = ", body(name)), "?")
    fields_written |= dict.fromkeys(re.findall(r'"(\w+)":\' \.\. json\.quote\(', body(name)), '"')
    for function, begins in (("json.string_field", '"'), ("json.list_field", "[")):
        for _, arguments in calls(body(name), of=function):
            fields_written[text_of(arguments[0]).strip("'")] = begins
    return fields_written


def begins(kind: Any) -> str:
    """The first character of JSON of this type; empty for numbers."""
    if get_origin(kind) is list:
        return "["
    if kind is str or (get_args(kind) and all(isinstance(word, str) for word in get_args(kind))):
        return '"'
    return ""


def test_there_is_one_function_for_each_event_type() -> None:
    exported = {name.partition(".")[2] for name in FUNCTIONS if name.startswith("events.")}
    assert exported == set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_function_writes_the_fields_of_its_struct(name: str) -> None:
    assert set(written(name)) == set(fields(ALL[name]))


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_field_that_is_written_as_text_has_the_type_of_its_struct(name: str) -> None:
    kinds = fields(ALL[name])
    for field, start in written(name).items():
        if start == "?" or kinds[field] in (bool, *OPTIONAL_PARTS):
            continue
        assert start == begins(kinds[field]), f"{field}: {kinds[field]}"


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_a_function_appends_events_of_its_own_type(name: str) -> None:
    names = set(re.findall(r"'([A-Z]\w+)'", FUNCTIONS[f"events.{name}"]))
    assert names & set(STRUCTS) == {name}


def test_no_other_file_appends_an_event() -> None:
    for folder in (LUA, LUA / "include"):
        for file in folder.iterdir():
            if not file.name.endswith(".lua") or file.name == "events.lua":
                continue
            source = file.read_text(encoding="utf-8")
            for _, arguments in calls(source.partition("\n")[2], of="write"):
                words = [text_of(argument) for argument in arguments]
                assert not (words[0] == "'XADD'" and "'v'" in words), f"{file.name}: {words}"
