"""Free text of nodes and producers in any language: invalid UTF-8 is refused before anything is
written, and every text that is accepted can be read.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

import projections
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.store.client import Client
from eventsched.store.node_commands import NodeGrant
from tests.fixtures_store import SECRET_SHA1, TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.calls import call, code_of, contents
from tests.scripts.cell_state import check
from tests.scripts.jobs_of import speak

NOT_TEXT = [
    b"\xff\xfe",
    b"\x80",
    b"a\xc3",
    b"\xc3a",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xed\xa0\x80",
    b"\xf0\x80\x80\x80",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xe2\x82",
]
"""Stray and missing continuation bytes, overlong forms, a surrogate, beyond the last code point."""
ODD_TEXT = [b'"', b"\\", b"\\u0000", b"\x00", b"a\nb", b"a|b", b"a:b/c,d e", "😀".encode(), b"{}"]
ODD_TEXT += [b"%d%s", b"</script>", b"1e3", b" 1", b"\x7f", "ñ€\U0010ffff".encode()]
UTF8 = """#!lua
-- include: validate
local replies = {}
for i = 2, #ARGV do replies[i - 1] = validate.is_text(ARGV[i], 64) end
return cjson.encode(replies)
"""


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


async def test_rule_33_text_is_what_python_decodes_and_not_too_long(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "utf8", UTF8)
    draw = Random(1)
    edges = bytes([0, 65, 127, 128, 143, 144, 159, 160, 191, 192, 193, 194, 223, 224, 225])
    edges += bytes([236, 237, 238, 239, 240, 241, 243, 244, 245, 255])
    texts = [bytes(draw.choices(edges, k=draw.randint(0, 5))) for _ in range(3_000)]
    texts += [chr(draw.randrange(0xD800)).encode() for _ in range(500)]
    texts += [chr(draw.randrange(0xE000, 0x110000)).encode() for _ in range(500)]
    texts += [*NOT_TEXT, *ODD_TEXT, b"x" * 64, b"x" * 65]
    reply = json.loads(await store.transport.run("utf8", store.keys.declared, ["", *texts]))
    assert reply == [_is_utf8(text) and len(text) <= 64 for text in texts]
    assert 500 < sum(reply) < len(texts) - 500


TRACE = f"00-{'0af7651916cd43dd' * 2}-{'b7ad6b7169203331'}-01".encode()


async def test_rule_33_an_open_refuses_a_trace_context_of_another_form(
    redis: Client, store: TimedStore
) -> None:
    before = await contents(redis, store)
    near = [TRACE[1:], TRACE + b"0", TRACE.upper(), TRACE.replace(b"-", b"0"), TRACE[:-1] + b"\n"]
    near += [TRACE.replace(b"-b7", b"b7-"), TRACE.replace(b"00-", b"0-0"), b"x" * 255]
    for odd in [*NOT_TEXT, *ODD_TEXT, *near]:
        assert await code_of(store, "open_session", *_opening("s1", odd)) == (
            "INVALID_MESSAGE tp: a W3C traceparent or empty"
        )
    assert await contents(redis, store) == before
    for number, traceparent in enumerate([b"", TRACE]):
        opening = _opening(f"s{number}", traceparent)
        assert await call(store, "open_session", *opening) == [1, 0, 0, b"0-0"]
    await _is_readable(store)


def _opening(name: str, tp: bytes) -> list[Any]:
    return [
        name,
        "t",
        SECRET_SHA1,
        "acme",
        "en",
        "es",
        "",
        "none",
        "pcm16",
        16_000,
        1,
        "",
        "",
        tp,
        "",
    ]


async def test_rule_33_a_registration_refuses_a_version_that_is_no_text(
    redis: Client, store: TimedStore
) -> None:
    before = await contents(redis, store)
    for odd in [*NOT_TEXT, b"x" * 65]:
        refused = await code_of(store, "register_node", *_registration("n1", version=odd))
        assert refused.startswith("INVALID_MESSAGE version: ")
    assert await contents(redis, store) == before
    for number, odd in enumerate(ODD_TEXT):
        reply = await call(store, "register_node", *_registration(f"n{number}", version=odd))
        assert reply[0] == 1
    await _is_readable(store)


async def test_rule_33_a_registration_refuses_a_token_that_is_no_name(
    redis: Client, store: TimedStore
) -> None:
    before = await contents(redis, store)
    others = [text for text in ODD_TEXT if text != b"1e3"]
    for odd in [*NOT_TEXT, *others, b"", b"x" * 65, b"x" * 255]:
        refused = await code_of(store, "register_node", *_registration("n1", token=odd))
        assert refused == "INVALID_MESSAGE token: a name"
    assert await contents(redis, store) == before
    reply = await call(store, "register_node", *_registration("n1", token=b"x" * 64))
    assert reply[0] == 1


def _registration(name: str, token: bytes = b"t", version: bytes = b"") -> list[Any]:
    return [name, token, "en", "es", "", 2, version]


@pytest.mark.parametrize("status", ["ok", "no_speech", "failed"])
async def test_rule_33_a_result_whose_code_is_no_text_is_refused_and_its_job_runs_on(
    redis: Client, store: TimedStore, status: str
) -> None:
    node, jobs = await _running(store, len(ODD_TEXT))
    before = await contents(redis, store)
    for odd in [*NOT_TEXT, b"x" * 65]:
        result = _result(jobs[0], status, odd)
        refused = await code_of(store, "record_results", "n1", node.epoch, *result)
        assert refused == "INVALID_MESSAGE field=code limit=text of up to 64 bytes"
    assert await contents(redis, store) == before
    for job, odd in zip(jobs, ODD_TEXT, strict=True):
        result = _result(job, status, odd)
        assert await call(store, "record_results", "n1", node.epoch, *result) == [b"ok"]
    await check(store)
    await _is_readable(store)


def _result(job: str, status: str = "ok", code: bytes = b"") -> list[Any]:
    text = codec.encode_text(Text(text="hola"))
    return [job, 1, status, code, 0, "", "", text, b"", b"", "", "", ""]


@pytest.mark.parametrize("odd", [*NOT_TEXT, b"", b"a b", b'"', b"x" * 65])
async def test_rule_34_a_report_of_a_node_without_a_name_is_refused_and_not_recorded(
    redis: Client, store: TimedStore, odd: bytes
) -> None:
    _, (job,) = await _running(store, 1)
    before = await contents(redis, store)
    reports: dict[str, list[Any]] = {
        "record_results": [odd, 1, *_result(job)],
        "send_partials": [odd, 1, job, 1, b"{}"],
        "extend_lease": [odd, 1, job, 1, 1_000],
    }
    for script, args in reports.items():
        assert await code_of(store, script, *args) == "INVALID_MESSAGE node: a name"
    assert await contents(redis, store) == before


@pytest.mark.parametrize(
    ("field", "args"),
    [
        ("set", [b"\xff", "me", 1_000, ""]),
        ("owner", ["core", b"\xff", 1_000, ""]),
        ("owner", ["core", "", 1_000, ""]),
        ("lease_ms", ["core", "me", "x", ""]),
        ("group", ["core", "me", 1_000, b"\xff"]),
        ("projections", ["core", "me", 1_000, "core", b"\xff", 1]),
        ("projections", ["core", "me", 1_000, "core", "job", "x"]),
    ],
)
async def test_rule_34_a_lease_of_a_set_without_a_name_is_refused(
    redis: Client, store: TimedStore, field: str, args: list[Any]
) -> None:
    before = await contents(redis, store)
    refused = await code_of(store, "acquire_set_lease", *args)
    assert refused.startswith(f"INVALID_MESSAGE {field}: ")
    assert await contents(redis, store) == before


async def _running(store: TimedStore, count: int) -> tuple[NodeGrant, list[str]]:
    """A node and `count` jobs that run on it."""
    node = await store.join("n1", slots=count)
    await speak(store, "s1", count=count)
    assert await store.dispatch() == count
    return node, [message["j"] for message in await store.inbox(node)]


async def _is_readable(store: TimedStore) -> None:
    """Every event can be decoded and folded."""
    views = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
    projector = Projector(views, projections.core)
    while (await projector.step()).state != "idle":
        pass
    assert await store.log()
    assert await store.read_range(store.keys.dead_letters, "-", "+", 1) == []
