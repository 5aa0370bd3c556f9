"""The text of a result: a function accepts what every reader decodes, and nothing else (rule 14,
suspended nodes).
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

import projections
from eventsched.projection.store import ProjectionStore
from eventsched.roles.backpressure import BackpressureMonitor
from eventsched.roles.projector import Projector
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.schema.nesting import NESTING_MAX
from tests.fixtures_store import TimedStore
from tests.scripts.added_scripts import add_script
from tests.scripts.jobs_of import assigned, last, logged, reply, speak
from tests.scripts.test_text import NOT_TEXT

READABLE = """#!lua
-- include: result_text
local replies = {}
for i = 2, #ARGV do replies[i - 1] = result_text.is_readable(ARGV[i]) end
return cjson.encode(replies)
"""
WORDS = [
    "",
    "hi",
    "niño",
    "你好世界",
    "😀",
    "a" * 31,
    "é" * 16,
    "x" * 255,
    "ж" * 200,
    "x" * 60_000,
]


def nested(levels: int) -> bytes:
    return b"\x81\xa1x" + b"\x91" * (levels - 2) + b"\x90"


BROKEN = {
    "cut": b"\x81",
    "cut in a value": b"\x81\xa4text\xa5hol",
    "longer than a map": b"\x80\x80",
    "no map": b"\xde\x00",
    "unused byte": b"\x81\xc1\xc1",
    "no text": b"\x81\xa4text\x05",
    "no key": b"\x81\x05\xa1a",
    "no UTF-8": b"\x81\xa4text\xa2\xff\xff",
    "missing text": b"\x81\xabsource_text\xc0",
    "negative count": b"\x81\xaacharacters\xff",
    "text as bytes": b"\x81\xa9encrypted\xa1x",
    "unknown field": b"\x81\xa1x\xa1y",
    "33 levels": nested(NESTING_MAX + 1),
    "32 levels": nested(NESTING_MAX),
    "no MessagePack": b"{}",
}


async def are_readable(store: TimedStore, bodies: list[bytes]) -> list[bool]:
    reply = await store.transport.run("readable", store.keys.declared, ["", *bodies])
    return list(json.loads(reply))


def is_decoded(body: bytes) -> bool:
    try:
        codec.decode_text(body)
    except codec.UnreadableText:
        return False
    return True


def drawn_text(draw: Random, *, most: int) -> Text:
    """A text, or an encrypted text, whose fields have at most `most` bytes each."""
    if draw.random() < 0.3:
        size = min(most, draw.choice([0, 1, 40, 255, 256, 30_000]))
        least = max(0, size - 512 + 3) // 4
        characters = max(least, draw.choice([0, 1, 127, 128, 255, 256, 65_535, 65_536]))
        return Text(encrypted=draw.randbytes(size), characters=characters)
    language = draw.choice(["", "en", "zh-Hant"])
    words = [each for each in WORDS if len(each.encode()) <= most]
    text = draw.choice([None, *words])
    return Text(source_text=draw.choice(words), text=text, language=language)


def mutated(draw: Random, body: bytes) -> bytes:
    """The body with bytes replaced, removed, doubled or added."""
    changed = bytearray(body)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(min(len(changed), 64) or 1)
        odd = draw.choice(
            [draw.randrange(256), *b"\x80\x81\x85\xa0\xbf\xc0\xc1\xc4\xd9\xda\xdb\xff"]
        )
        match draw.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([odd])
            case 1:
                del changed[at : at + draw.randint(1, 4)]
            case 2:
                changed[at:at] = changed[at : at + draw.randint(1, 16)]
            case _:
                changed[at:at] = bytes([odd])
    return bytes(changed)


async def test_rule_14_every_text_of_the_library_is_readable(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "readable", READABLE)
    draw = Random(1)
    bodies = [b"", *(codec.encode_text(drawn_text(draw, most=60_000)) for _ in range(300))]
    assert await are_readable(store, bodies) == [True] * len(bodies)


async def test_rule_14_what_a_function_accepts_every_reader_decodes(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_script(monkeypatch, "readable", READABLE)
    draw = Random(2)
    texts = [drawn_text(draw, most=400) for _ in range(500)]
    bodies = [mutated(draw, codec.encode_text(text)) for text in texts for _ in range(20)]
    bodies += [draw.randbytes(draw.randint(1, 12)) for _ in range(2_000)]
    bodies += [b"\x81\xa4text" + bytes([160 + len(odd)]) + odd for odd in NOT_TEXT]
    bodies += BROKEN.values()
    accepted = [
        body
        for body, is_readable in zip(bodies, await are_readable(store, bodies), strict=True)
        if is_readable
    ]
    assert [body for body in accepted if not is_decoded(body)] == []
    assert 200 < len(accepted) < len(bodies) // 2
    assert not set(BROKEN.values()) & set(accepted)


async def test_rule_14_a_ciphertext_is_as_long_as_its_characters_can_be(
    store: TimedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer one would be a context that the bounds of a group do not see (rule 28)."""
    add_script(monkeypatch, "readable", READABLE)
    bodies, expected = [], []
    for characters in (0, 1, 127, 128, 255, 256, 5_000, 15_000):
        for more in (0, 1):
            text = Text(encrypted=bytes(4 * characters + 512 + more), characters=characters)
            bodies.append(codec.encode_text(text))
            expected.append(not more)
    assert await are_readable(store, bodies) == expected


@pytest.mark.parametrize("key", ["", "0123456789abcdef"])
async def test_rule_14_only_a_session_with_a_key_has_an_encrypted_text(
    store: TimedStore, key: str
) -> None:
    node = await store.join("n1", slots=1)
    session = await speak(store, "s1", key=key)
    await store.dispatch()
    (message,) = await assigned(store, node)
    body = codec.encode_text(Text(encrypted=bytes(60), characters=3))
    assert await reply(store, node, message["j"], body=body) == "ok"
    if key:
        assert [entry["outcome"] for entry in await store.out(session)] == ["result"]
    else:
        ended = await last(store, "AttemptEnded")
        assert (ended.reason, ended.code) == ("failed", "RESULT_UNREADABLE")
        assert await store.out(session) == []


@pytest.mark.parametrize("key", ["", "0123456789abcdef"])
async def test_rule_23_an_encrypted_text_replaces_an_empty_result_of_a_session_with_a_key(
    store: TimedStore, key: str
) -> None:
    node = await store.join("n1", slots=2)
    await speak(store, "s1", count=2, key=key)
    await store.dispatch()
    _, second = await assigned(store, node)
    assert await reply(store, node, second["j"], status="no_speech") == "ok"
    body = codec.encode_text(Text(encrypted=bytes(60), characters=3))
    code = await reply(store, node, second["j"], body=body)
    assert code == ("ok" if key else "DUPLICATE_RESULT")
    assert len(await logged(store, "ResultReplaced")) == (1 if key else 0)


@pytest.mark.parametrize("name", BROKEN)
async def test_rule_14_a_broken_text_is_a_failed_attempt(store: TimedStore, name: str) -> None:
    broken = await store.join("n1", slots=1)
    session = await speak(store, "s1")
    await store.dispatch()
    (message,) = await assigned(store, broken)
    sound = await store.join("n2", slots=1)
    assert await reply(store, broken, message["j"], body=BROKEN[name]) == "ok"
    ended = await last(store, "AttemptEnded")
    assert (ended.reason, ended.code) == ("failed", "RESULT_UNREADABLE")
    (again,) = await assigned(store, sound)
    await store.answer(sound, again)
    assert [entry["outcome"] for entry in await store.out(session)] == ["result"]


async def test_rule_14_a_node_with_broken_texts_is_suspended_and_no_producer_refused(
    store: TimedStore,
) -> None:
    """Nothing becomes a dead letter, so the cell is under no backpressure."""
    await store.configure_cell({"dead_letters_max": 1}, overwrite=True)
    bad = await store.join("bad", slots=8)
    await speak(store, "s1", count=8)
    await store.dispatch()
    good = await store.join("good", slots=16)
    for message in await assigned(store, bad):
        assert await reply(store, bad, message["j"], body=BROKEN["unused byte"]) == "ok"
    suspended = await logged(store, "NodeSuspended")
    assert {(each.node, each.data.scope, each.data.reason) for each in suspended} == {
        (bad.node, "node", "RESULT_UNREADABLE")
    }
    for message in await assigned(store, good):
        await store.answer(good, message)
    views: Any = ProjectionStore(store.transport, store.cell, now_ms=lambda: store.at_ms)
    projector = Projector(views, projections.core)
    while (await projector.step()).state != "idle":
        pass
    assert await store.read_range(store.keys.dead_letters, "-", "+", 1) == []
    await BackpressureMonitor(store).step()
    await store.say(await store.open("s2"), 0)
    assert len(await logged(store, "ResultRecorded")) == 8
