"""A subscription has no hidden holes: entries that were trimmed unread show as `truncated`."""

import msgspec
import pytest
from structlog.testing import capture_logs

from eventsched.client.subscription import (
    BYTES_MAX,
    ENTRIES_MAX,
    Subscription,
)
from eventsched.schema.ids import START
from eventsched.store.transport import Entry


def entry(number: int, kind: str = "result", **data: object) -> Entry:
    encoded = msgspec.json.encode(data)
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
    flat = [b"t", b"partial", b"i", b"%d" % after, b"d", b"{}", b"b", b"so far", b"a", b""]
    return f"{number}-0", flat


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
def test_an_entry_that_no_script_wrote_is_logged_and_skipped(flat: list[bytes]) -> None:
    subscription = Subscription("c0.s", START)
    with capture_logs() as lines:
        subscription.put([entry(1), ("1-5", flat), entry(2)])
    assert taken(subscription) == ["1-0", "2-0"]
    assert subscription.position == "2-0"
    assert [(line["session"], line["entry"]) for line in lines] == [("c0.s", "1-5")]


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
