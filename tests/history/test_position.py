"""Positions as `--at`, `--since` and `--until` accept them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsched.errors import InvalidMessage
from eventsched.history.position import parse_position


@pytest.mark.parametrize(
    ("text", "before", "first"),
    [
        ("1764085603123-4", "1764085603123-3", "1764085603123-4"),
        ("log/1764085603123-4", "1764085603123-3", "1764085603123-4"),
        ("1764085603123-0", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("1764085603123", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("2025-11-25T15:46:43.123Z", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("2025-11-25T16:46:43.123+01:00", "1764085603122-1000000000000000000", "1764085603123-0"),
        ("1764085603", "1764085602999-1000000000000000000", "1764085603000-0"),
        (" 17640856030 ", "17640856029999-1000000000000000000", "17640856030000-0"),
        ("0-0", "0-0", "0-0"),
    ],
)
def test_an_id_is_its_entry_and_a_time_is_its_millisecond(
    text: str, before: str, first: str
) -> None:
    position = parse_position(text, "--at")
    assert (position.before, position.first) == (before, first)


def test_a_time_ends_with_the_last_entry_of_its_millisecond() -> None:
    assert parse_position("1764085603123", "--at").last == "1764085603123-1000000000000000000"
    assert parse_position("1764085603123-4", "--at").last == "1764085603123-4"


def test_a_time_without_a_zone_is_the_readers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert parse_position("2025-11-26 00:46:43.123", "--at").ms == 1_764_085_603_123
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.integers(0, 10**20 - 1), st.integers(1, 20))
def test_the_number_of_digits_says_the_unit(value: int, length: int) -> None:
    digits = str(value).zfill(length)[-length:]
    if length in (10, 11):
        assert parse_position(digits, "--at").ms == int(digits) * 1_000
    elif length == 13:
        assert parse_position(digits, "--at").ms == int(digits)
    elif length != 8:  # a date
        with pytest.raises(InvalidMessage, match=f"13 .* expected, got {length} in '{digits}'"):
            parse_position(digits, "--at")


def test_a_date_without_hyphens_is_a_date() -> None:
    assert parse_position("20251125", "--at").ms == parse_position("2025-11-25", "--at").ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "20251125154643",
        "\u0661" * 10,
        "1764085603.5",
        "2026",
        "12:30",
        "1-2-3",
        "-1",
        "1969-01-01",
    ],
)
def test_text_that_is_no_position_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        parse_position(text, "--since")
    assert caught.value.fields["field"] == "--since"
    assert "such" in str(caught.value) or "give an entry's id" in str(caught.value)
