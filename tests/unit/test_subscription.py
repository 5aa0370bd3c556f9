"""What a session hears has no holes: what was trimmed before it was read shows as `truncated`."""

import msgspec
import pytest
from structlog.testing import capture_logs

from eventsched.client.subscription import MAILBOX_BYTES, MAILBOX_ENTRIES, Subscription
from eventsched.schema.ids import START, id_before
from eventsched.store.transport import Entry


def entry(number: int, kind: str = "result", **data: object) -> Entry:
    told = msgspec.json.encode(data)
    flat = [b"t", kind.encode(), b"i", b"%d:0" % number, b"d", told, b"b", b"", b"a", b""]
    return f"{number}-0", flat


def taken(box: Subscription) -> list[str]:
    kinds = []
    while told := box.pop():
        kinds.append(told.kind if told.kind == "truncated" else told.id)
    return kinds


def test_from_the_start_everything_is_heard() -> None:
    box = Subscription("c0.s", START)
    box.put([entry(1), entry(2)])
    assert taken(box) == ["1-0", "2-0"]


def test_from_the_start_a_missing_first_entry_is_told() -> None:
    box = Subscription("c0.s", START)
    box.put([entry(3), entry(4)])
    assert taken(box) == ["truncated", "3-0", "4-0"]


def test_after_an_entry_that_is_kept_only_what_follows_is_heard() -> None:
    box = Subscription("c0.s", "2-0")
    assert box.position == id_before("2-0")
    box.put([entry(2), entry(3)])
    assert taken(box) == ["3-0"]


def test_after_an_entry_that_is_gone_truncated_is_told_once() -> None:
    box = Subscription("c0.s", "2-0")
    box.put([entry(7), entry(8)])
    assert taken(box) == ["truncated", "7-0", "8-0"]


def test_each_hole_is_told_once() -> None:
    box = Subscription("c0.s", START)
    box.put([entry(1), entry(5), entry(6)])
    box.put([entry(9)])
    assert taken(box) == ["1-0", "truncated", "5-0", "6-0", "truncated", "9-0"]


@pytest.mark.parametrize(
    "flat",
    [
        [b"hello", b"world"],
        [*entry(2)[1][:3], b"two", *entry(2)[1][4:]],
        [*entry(2)[1][:5], b"{", *entry(2)[1][6:]],
        [*entry(2)[1][:5], b"[]", *entry(2)[1][6:]],
        [b"t", b"\xff", *entry(2)[1][2:]],
        [b"t"],
    ],
)
def test_what_no_script_wrote_is_named_and_passed_by(flat: list[bytes]) -> None:
    box = Subscription("c0.s", START)
    with capture_logs() as told:
        box.put([entry(1), ("1-5", flat), entry(2)])
    assert taken(box) == ["1-0", "2-0"]
    assert box.position == "2-0"
    assert [(line["session"], line["entry"]) for line in told] == [("c0.s", "1-5")]


def test_a_full_mailbox_is_not_read_on_until_some_is_taken() -> None:
    box = Subscription("c0.s", START)
    box.put([entry(number) for number in range(1, MAILBOX_ENTRIES + 1)])
    assert not box.wants_more
    box.pop()
    assert box.wants_more


def test_bytes_fill_a_mailbox_too() -> None:
    box = Subscription("c0.s", START)
    entry_id, flat = entry(1)
    box.put([(entry_id, [*flat[:-1], bytes(MAILBOX_BYTES)])])
    assert not box.wants_more


def test_a_closing_session_is_read_to_its_end_and_no_further() -> None:
    box = Subscription("c0.s", START)
    box.put([entry(number) for number in range(1, MAILBOX_ENTRIES + 1)])
    box.drains = True
    assert box.wants_more
    box.put([entry(MAILBOX_ENTRIES + 1, "state", state="closed")])
    assert box.closed.is_set()
    assert not box.wants_more
