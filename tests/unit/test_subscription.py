"""A subscription has no hidden holes: entries that were trimmed unread show as `truncated`."""

from collections.abc import Sequence

import msgspec
import pytest
from structlog.testing import capture_logs

from eventsched.client.results import Failed, Listener, Missing, NoSpeech, Result, read_outcome
from eventsched.client.subscription import (
    BYTES_MAX,
    ENTRIES_MAX,
    Subscription,
)
from eventsched.schema.ids import START
from eventsched.store.transport import Entry

OUTCOME = {
    "session": "c0.s2", "utterance": 0, "target": "es", "delivery_no": 0, "outcome": "failed",
    "log": "1-0", "code": "JOB_TIMEOUT",
}  # fmt: skip
PARTIAL = {"session": "c0.s2", "utterance": 0, "target": "es"}
DATA: dict[str, dict[str, object]] = {
    "result": OUTCOME, "partial": PARTIAL, "state": {"state": "closing"},
}  # fmt: skip
ERROR = b'{"error_type":"ValueError","error_message":"no \\u001b[2J","error_place":"a.py:12"}'
LISTENER = Listener("c0.s", None, is_encrypted=False, room="")


def entry(number: int, kind: str = "result", **data: object) -> Entry:
    encoded = msgspec.json.encode(DATA[kind] | data)
    flat = [b"t", kind.encode(), b"i", b"%d:0" % number, b"d", encoded, b"b", b"", b"a", b""]
    return f"{number}-0", flat


def taken(subscription: Subscription) -> list[str]:
    """Take all entries: their ids, or `truncated`."""
    words = []
    while popped := subscription.pop():
        words.append(popped.kind if popped.kind == "truncated" else popped.id)
    return words


def partial(number: int, after: int) -> Entry:
    """A partial result that follows the entry `after`."""
    _, flat = entry(after, "partial")
    flat = [*flat[:3], b"%d" % after, *flat[4:7], b"so far", *flat[8:]]
    return f"{number}-0", flat


def failed(number: int, body: bytes) -> Entry:
    """An outcome that says why its job failed."""
    id_, flat = entry(number, outcome="failed", code="HANDLER_ERROR")
    return id_, [*flat[:7], body, *flat[8:]]


def kinds_taken(subscription: Subscription) -> list[tuple[str, str]]:
    """Take all entries: their kinds and ids."""
    entries: list[tuple[str, str]] = []
    while popped := subscription.pop():
        entries.append((popped.kind, popped.id))
    return entries


def test_partial_results_are_put_after_the_entries_that_they_follow() -> None:
    """Their position is that of the entry before them."""
    subscription = Subscription("c0.s", START, wants_partials=True)
    partials = [partial(5, after=0), partial(6, after=1), partial(7, after=2), partial(8, after=9)]
    subscription.put([entry(1), entry(2)], partials)
    assert kinds_taken(subscription) == [
        ("partial", START), ("result", "1-0"), ("partial", "1-0"), ("result", "2-0"),
        ("partial", "2-0"), ("partial", "2-0"),
    ]  # fmt: skip
    assert (subscription.position, subscription.partials_position) == ("2-0", "8-0")


def test_a_partial_result_that_arrives_after_a_later_entry_is_left_out() -> None:
    subscription = Subscription("c0.s", START, wants_partials=True)
    subscription.put([entry(1), entry(2)])
    subscription.put([], [partial(5, after=1), partial(6, after=2)])
    assert kinds_taken(subscription) == [
        ("result", "1-0"), ("result", "2-0"), ("partial", "2-0"),
    ]  # fmt: skip


def test_partial_results_before_the_entry_that_a_session_continues_after_are_left_out() -> None:
    subscription = Subscription("c0.s", "2-0", wants_partials=True)
    subscription.put([], [partial(3, after=1)])
    subscription.put([entry(2), entry(3)], [partial(4, after=1), partial(5, after=2)])
    assert kinds_taken(subscription) == [("partial", "2-0"), ("result", "3-0")]


def test_a_partial_result_hides_no_hole() -> None:
    subscription = Subscription("c0.s", START, wants_partials=True)
    subscription.put([entry(1), entry(4)], [partial(5, after=2)])
    assert [kind for kind, _ in kinds_taken(subscription)] == [
        "result", "partial", "truncated", "result",
    ]  # fmt: skip


def test_from_the_start_every_entry_is_taken() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(1), entry(2)])
    assert taken(subscription) == ["1-0", "2-0"]


def test_from_the_start_a_missing_first_entry_is_reported() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(3), entry(4)])
    assert taken(subscription) == ["truncated", "3-0", "4-0"]


def test_after_an_entry_that_exists_only_later_ones_are_taken() -> None:
    subscription = Subscription("c0.s", "2-0")
    assert subscription.position == "1-18446744073709551615"
    subscription.put([entry(2), entry(3)])
    assert taken(subscription) == ["3-0"]


def test_after_an_entry_that_is_gone_truncated_is_reported_once() -> None:
    subscription = Subscription("c0.s", "2-0")
    subscription.put([entry(7), entry(8)])
    assert taken(subscription) == ["truncated", "7-0", "8-0"]


def test_each_hole_is_reported_once() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(1), entry(5), entry(6)])
    subscription.put([entry(9)])
    assert taken(subscription) == ["1-0", "truncated", "5-0", "6-0", "truncated", "9-0"]


def without(name: str) -> Entry:
    """An entry whose data lacks a field."""
    data = msgspec.json.encode({key: each for key, each in OUTCOME.items() if key != name})
    return "1-5", [*entry(2)[1][:5], data, *entry(2)[1][6:]]


NOT_OURS: dict[str, Sequence[bytes]] = {
    "other fields": [b"hello", b"world"],
    "no number": [*entry(2)[1][:3], b"two", *entry(2)[1][4:]],
    "no json": [*entry(2)[1][:5], b"{", *entry(2)[1][6:]],
    "no object": [*entry(2)[1][:5], b"[]", *entry(2)[1][6:]],
    "no utf-8": [b"t", b"\xff", *entry(2)[1][2:]],
    "no value": [b"t"],
    "another kind": [b"t", b"truncated", *entry(2)[1][2:]],
    "an invented kind": [b"t", b"x" * 1_000, *entry(2)[1][2:]],
    "an invented state": entry(2, "state", state="open")[1],
    "no state": entry(2, "state", state=None)[1],
    "a partial result of no utterance": entry(2, "partial", utterance=-1)[1],
    "a partial result of no session": entry(2, "partial", session="s1")[1],
}
NOT_OURS |= {f"no {name}": without(name)[1] for name in OUTCOME if name != "code"}
NOT_OURS |= {
    f"{name} {value!r}": entry(2, "result", **{name: value})[1]
    for name, values in {
        "session": (None, {"a": 1}, "s1", "../../etc", "c0.a/b", "c0.s1\n", "c0." + "x" * 65),
        "utterance": (None, "0", 1.5, 1e308, {"a": 1}, -1, -2, 2**53, 10**30, True),
        "target": (None, ["es"], "", "ES", "es\n", "es/1", "english"),
        "delivery_no": (None, "x", -1, 2**53, 0.5),
        "outcome": (None, "zzz", "partial", "RESULT", 1),
        "log": (None, "", "1", "1-0\n", "x-y", 1),
        "code": (None, 5, ["A"], {"A": 1}),
        "omitted": (None, "all", 1, ["audio"]),
    }.items()
    for value in values
}


@pytest.mark.parametrize("flat", NOT_OURS.values(), ids=NOT_OURS)
def test_an_entry_that_no_script_wrote_is_logged_and_skipped(flat: list[bytes]) -> None:
    """A program that can write to the server can put anything into an outbox."""
    subscription = Subscription("c0.s", START)
    with capture_logs() as lines:
        subscription.put([entry(1), ("1-5", flat), entry(2)])
    assert taken(subscription) == ["1-0", "2-0"]
    assert subscription.position == "2-0"
    assert [(line["session"], line["entry"]) for line in lines] == [("c0.s", "1-5")]
    assert len(lines[0]["error"]) <= 200


def test_an_outcome_that_was_overwritten_shows_as_truncated() -> None:
    subscription = Subscription("c0.s", START)
    with capture_logs():
        subscription.put([entry(1), entry(2, outcome="zzz"), entry(3)])
    assert taken(subscription) == ["1-0", "truncated", "3-0"]


@pytest.mark.parametrize("outcome", ["failed", "no_speech", "missing"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("JOB_TIMEOUT", "JOB_TIMEOUT"),
        ("", ""),
        ("X\ntalk  u1 es  result  send the money", ""),
        ("job timeout", ""),
        ("JOB_TIMEOUT\n", ""),
        ("A" * 64, "A" * 64),
        ("A" * 65, ""),
    ],
)
async def test_a_code_that_is_none_is_empty(outcome: str, code: str, expected: str) -> None:
    """A handler, or a program that can write to the server, could forge a line with it."""
    subscription = Subscription("c0.s", START)
    subscription.put([entry(1, outcome=outcome, code=code)])
    popped = subscription.pop()
    assert popped is not None
    received = await read_outcome(popped, LISTENER)
    assert isinstance(received, Failed | NoSpeech | Missing)
    assert (received.outcome, received.code) == (outcome, expected)


@pytest.mark.parametrize(
    ("body", "is_encrypted", "expected"),
    [
        (ERROR, False, "ValueError: no \\x1b[2J at a.py:12"),
        (ERROR, True, ""),
        (b"", False, ""),
        (b"[]", False, ""),
        (b"\xff", False, ""),
        (b'{"error_type":1}', False, ""),
        (b'{"error_type":"%s"}' % (b"A" * 257), False, ""),
    ],
)
async def test_a_failed_outcome_says_why_in_one_line(
    body: bytes, is_encrypted: bool, expected: str
) -> None:
    """Nothing of it concerns an encrypted session, and no body of another form ends a listener."""
    subscription = Subscription("c0.s", START)
    subscription.put([failed(1, body)])
    popped = subscription.pop()
    assert popped is not None
    received = await read_outcome(popped, LISTENER._replace(is_encrypted=is_encrypted))
    assert isinstance(received, Failed)
    assert (received.code, received.error) == ("HANDLER_ERROR", expected)


@pytest.mark.parametrize(
    ("omitted", "is_omitted"), [("audio", (True, False)), ("text", (True, True))]
)
async def test_a_result_names_what_the_server_left_out(
    omitted: str, is_omitted: tuple[bool, bool]
) -> None:
    """An empty text is then no text of the node, and a text says nothing about the audio."""
    subscription = Subscription("c0.s", START)
    subscription.put([entry(1, outcome="result", code="", omitted=omitted)])
    popped = subscription.pop()
    assert popped is not None
    for listener in (LISTENER, LISTENER._replace(is_encrypted=omitted == "text")):
        received = await read_outcome(popped, listener)
        assert isinstance(received, Result)
        assert (received.text, received.audio, received.is_encrypted) == (None, None, False)
        assert (received.is_audio_omitted, received.is_text_omitted) == is_omitted


async def test_a_missing_outcome_may_have_no_utterance() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(1, outcome="missing", utterance=-1, code="NO_OUTCOME")])
    popped = subscription.pop()
    assert popped is not None
    assert await read_outcome(popped, LISTENER) == Missing(
        id="1-0", session="c0.s2", utterance=-1, target="es", delivery_no=0, log="1-0",
        code="NO_OUTCOME",
    )  # fmt: skip


def test_a_full_subscription_is_not_read_until_an_entry_is_taken() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(number) for number in range(1, ENTRIES_MAX + 1)])
    assert not subscription.wants_more
    subscription.pop()
    assert subscription.wants_more


def test_bytes_fill_a_subscription_as_well() -> None:
    subscription = Subscription("c0.s", START)
    entry_id, flat = entry(1)
    subscription.put([(entry_id, [*flat[:-1], bytes(BYTES_MAX)])])
    assert not subscription.wants_more


def test_a_closing_session_is_read_to_its_end_and_no_further() -> None:
    subscription = Subscription("c0.s", START)
    subscription.put([entry(number) for number in range(1, ENTRIES_MAX + 1)])
    subscription.drains = True
    assert subscription.wants_more
    subscription.put([entry(ENTRIES_MAX + 1, "state", state="closed")])
    assert subscription.closed.is_set()
    assert not subscription.wants_more
