"""What `--at`, `--since` and `--until` take."""

from __future__ import annotations

import time

import pytest

from eventsched.errors import InvalidMessage
from eventsched.history.position import parse_moment


@pytest.mark.parametrize(
    ("text", "before", "first"),
    [
        ("1764085603123-4", "1764085603123-3", "1764085603123-4"),
        ("log/1764085603123-4", "1764085603123-3", "1764085603123-4"),
        ("1764085603123-0", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("1764085603123", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("2025-11-25T15:46:43.123Z", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("2025-11-25T16:46:43.123+01:00", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("0-0", "0-0", "0-0"),
    ],
)
def test_an_id_is_that_entry_and_a_time_its_whole_millisecond(
    text: str, before: str, first: str
) -> None:
    moment = parse_moment(text, "--at")
    assert (moment.before, moment.first) == (before, first)


def test_a_time_ends_with_the_last_entry_of_its_millisecond() -> None:
    assert parse_moment("1764085603123", "--at").last == "1764085603123-1000000000000000000"
    assert parse_moment("1764085603123-4", "--at").last == "1764085603123-4"


def test_a_time_without_a_zone_is_the_readers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_moment("2025-11-26 00:46:43.123", "--at").ms == 1_764_085_603_123
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "yesterday", "2026", "12:30", "1-2-3", "-1", "1969-01-01"])
def test_what_is_no_moment_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_moment(text, "--since")
    assert caught.value.fields["field"] == "--since"
    assert "such" in str(caught.value) or "give an entry's id" in str(caught.value)
