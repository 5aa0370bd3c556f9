"""The header of each script agrees with its locals, its row in the table and its Python call."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_args

import pytest

from eventsched import errors
from eventsched.errors import Refused
from eventsched.schema import events
from eventsched.store import library as lua_library
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import Chunk, Finalize
from eventsched.store.transport import Arg
from tests.fixtures_store import SECRET, SECRET_SHA1, TimedStore
from tests.scripts.headers import header, source
from tests.scripts.lua_syntax import free_names, text, tree, walk

NAMES = lua_library.names()
VOCABULARY = {kind.__name__ for kind in get_args(events.AnyData)}
_FIRST = re.compile(r"#!lua( flags=(allow-oom|no-writes))?\n")
_ROW = re.compile(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", re.MULTILINE)


def code_of(name: str) -> str:
    """The script without its comments."""
    return re.sub(r"--.*", "", source(name))


@pytest.mark.parametrize("name", NAMES)
def test_no_flag_lets_a_function_reach_foreign_slots(name: str) -> None:
    assert _FIRST.match(source(name))


@pytest.mark.parametrize("name", NAMES)
def test_only_what_begins_work_stops_for_want_of_memory(name: str) -> None:
    first = source(name).partition("\n")[0]
    may_stop = {"open_session", "append_audio", "start_playback", "register_node"}
    assert (first == "#!lua") == (name in may_stop)


@pytest.mark.parametrize("name", NAMES)
def test_a_header_opens_with_the_name_and_has_every_part(name: str) -> None:
    assert source(name).split("\n")[1].startswith(f"-- {name}: ")
    parts = header(name)
    assert parts.keys == ("log_key", "absent_key")
    assert parts.args[0] == "now_arg"
    assert parts.reply
    assert parts.bound


@pytest.mark.parametrize("name", NAMES)
def test_arguments_become_the_locals_that_the_header_names(name: str) -> None:
    arguments = lua_library.Arguments.of(source(name))
    assert tuple(arguments.named) == header(name).args
    places = ", ".join(f"ARGV[{no}]" for no in range(1, len(arguments.named) + 1))
    assert (
        f"local {', '.join(arguments.named)} = {places}\n" in lua_library.library_of([name]).source
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_body_reads_an_argument_by_its_number(name: str) -> None:
    """But for the script whose arguments are sections of any length."""
    root = tree(source(name).partition("\n")[2])
    indexed = [text(node) for node in walk(root) if node.type == "bracket_index_expression"]
    by_number = [expression for expression in indexed if re.match(r"(?:KEYS|ARGV)\[", expression)]
    assert by_number == [] or lua_library.Arguments.of(source(name)).has_sections
    assert not re.search(r"ARGV\[\d+\]", "".join(by_number))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_beyond_the_named_ones_are_announced(name: str) -> None:
    reads_more = "ARGV" in free_names(source(name).partition("\n")[2])
    assert reads_more == header(name).has_more


@pytest.mark.parametrize("name", NAMES)
def test_items_have_the_fields_that_the_header_names(name: str) -> None:
    """The body reads all of these fields, and no other."""
    arguments, root = lua_library.Arguments.of(source(name)), tree(source(name).partition("\n")[2])
    if not arguments.item:
        return
    assert all(re.fullmatch(r"[a-z_0-9]+", field) for field in arguments.fields)
    indexed = [text(node) for node in walk(root) if node.type == "dot_index_expression"]
    read = {
        expression.partition(".")[2]
        for expression in indexed
        if expression.startswith(f"{arguments.item}.")
    }
    assert read == set(arguments.fields)


@pytest.mark.parametrize("name", NAMES)
def test_a_bound_of_items_is_the_one_that_the_loader_keeps(name: str) -> None:
    most = lua_library.Arguments.of(source(name)).items_max
    assert not most or f"at most {most}" in header(name).bound
    assert "INVALID_MESSAGE" in header(name).refusals


@pytest.mark.parametrize("name", NAMES)
def test_what_a_header_refuses_is_a_code_and_in_the_source(name: str) -> None:
    refusals, whole = header(name).refusals, lua_library.library_of([name]).source
    assert refusals <= set(errors.BY_CODE)
    for code in refusals:
        parts = ["validate.invalid(", f"'{code} field="] if code == "INVALID_MESSAGE" else [code]
        assert any(part in whole.replace("function validate.invalid(", "") for part in parts), code


@pytest.mark.parametrize("name", NAMES)
def test_what_a_script_refuses_itself_is_in_its_header(name: str) -> None:
    body = code_of(name)
    used = {code for code in errors.BY_CODE if re.search(rf"(?<!== )'{code}\b", body)}
    used |= {"INVALID_MESSAGE"}  # the loader refuses what is too long
    assert used <= header(name).refusals


@pytest.mark.parametrize("name", NAMES)
def test_what_a_header_appends_is_an_event_and_in_the_source(name: str) -> None:
    appended = header(name).events
    if appended is None:
        assert name == "fire_timers"
        return
    for kind in appended & VOCABULARY:
        assert re.search(rf"(?<!function )events\.{kind}\b", lua_library.library().source), kind


@pytest.mark.parametrize("name", NAMES)
def test_what_a_script_appends_itself_is_in_its_header(name: str) -> None:
    body = code_of(name)
    appended = header(name).events
    own = set(re.findall(r"\bevents\.([A-Z]\w+)", body))
    assert own <= VOCABULARY
    assert appended is None or own <= appended


def table() -> dict[str, tuple[str, str]]:
    """Script -> refusals and events of its row in lua/README.md."""
    page = (files("eventsched") / "lua" / "README.md").read_text(encoding="utf-8")
    return {row[1]: (row[4], row[5]) for row in _ROW.finditer(page)}


def test_the_table_has_a_row_for_every_script_and_no_other() -> None:
    assert sorted(table()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_what_its_header_says(name: str) -> None:
    refusals, appended = table()[name]
    parts = header(name)
    assert set(re.findall(r"[A-Z_]{4,}", refusals)) == parts.refusals
    if parts.events is None:
        assert appended.strip().startswith("any but")
    else:
        assert set(re.findall(r"[A-Z][A-Za-z]+", appended)) == parts.events & VOCABULARY


@dataclass
class Counting:
    """The real transport; records the number of arguments of each script."""

    inner: Any
    counts: dict[str, int]

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        self.counts[script] = len(args)
        assert len(keys) == len(header(script).keys)
        return await self.inner.run(script, keys, args)


async def test_the_typed_calls_give_as_many_arguments_as_the_headers_name(
    store: TimedStore,
) -> None:
    counts: dict[str, int] = {}
    counted = Store(Counting(store.transport, counts), store.cell, now_ms=lambda: store.at_ms)  # type: ignore[arg-type]
    session, node = store.keys.full("s1"), store.keys.full("n1")
    opened: dict[str, Any] = {
        "name": "s1", "token": "t", "secret_sha1": SECRET_SHA1, "tenant": "acme",
        "source": "en", "targets": ["es"], "features": [],
        "features_hash": "none", "encoding": "pcm16", "sample_rate": 16_000,
        "priority": 1,
        "room": "", "listen_language": "", "traceparent": "",
    }  # fmt: skip
    chunk = Chunk(session=session, epoch=1, seq=0, ms=20, payload=b"xx")
    finalize = Finalize(session=session, epoch=1, utterance=0)
    result = NodeResult(job="j", attempt=1, status="ok")
    calls: list[tuple[str, int, Callable[[], Awaitable[Any]]]] = [
        ("configure_cell", 0, lambda: counted.configure_cell({}, overwrite=False)),
        (
            "set_backpressure",
            0,
            lambda: counted.set_backpressure("memory", is_active=True, seen=1, limit=1),
        ),
        ("set_tenant_lag", 0, lambda: counted.set_tenant_lag("acme", 1)),
        ("set_tenant_backpressure", 0, lambda: counted.set_tenant_backpressure(
            "acme", "tenant_queue", is_active=True, seen=1, limit=1)),
        ("open_session", 0, lambda: counted.open_session(**opened)),
        ("resume_session", 0, lambda: counted.resume_session(session, SECRET, "t")),
        ("append_audio", 7, lambda: counted.append_audio([chunk])),
        ("finalize_utterances", 4, lambda: counted.finalize_utterances([finalize])),
        ("keep_alive", 3, lambda: counted.keep_alive([(session, 1, "")])),
        ("start_playback", 0, lambda: counted.mark_playback(
            session, 1, origin=session, target="es", utterance=0, started=True)),
        ("end_playback", 0, lambda: counted.mark_playback(
            session, 1, origin=session, target="es", utterance=0, started=False)),
        ("close_session", 0, lambda: counted.close_session(session, 1)),
        ("erase_session", 0, lambda: counted.erase_session(session, "0" * 16)),
        ("register_node", 0, lambda: counted.register_node(
            node=node, token="t", sources=["en"], targets=["es"], features=[], slots=1,
            version="")),
        ("heartbeat_node", 2, lambda: counted.heartbeat_node(node, 1, load=0, attempts=[("j", 1)])),
        ("record_results", 13, lambda: counted.record_results(node, 1, [result])),
        ("send_partials", 3, lambda: counted.send_partials(node, 1, [("j", 1, b"")])),
        ("extend_lease", 0, lambda: counted.extend_lease(node, 1, job="j", attempt=1, more_ms=1)),
        ("drain_node", 0, lambda: counted.drain_node(node, 1, within_ms=0)),
        ("dispatch_jobs", 0, counted.dispatch_jobs),
        ("fire_timers", 0, counted.fire_timers),
    ]  # fmt: skip
    for script, more, make in calls:
        try:
            await make()
        except Refused as refused:
            assert refused.code in header(script).refusals
        assert counts[script] == len(header(script).args) + more, script
        assert header(script).has_more == bool(more), script
