"""Entry ids: parsed, compared and built as two numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventsched
from eventsched.errors import ArchiveError
from eventsched.schema.ids import (
    AFTER_ALL,
    BEFORE_ALL,
    SEQUENCE_MAX,
    START,
    check_id,
    format_id,
    id_before,
    is_id,
    ms_of,
    padded_id,
    parse_id,
)

NUMBERS = st.integers(0, 10**15 - 1), st.integers(0, 10**6 - 1)
"""Numbers that fit the digits of a file name."""
NO_IDS = (
    "", "-", "5", "5-", "-5", "5-3-1", "5 -3", " 5-3", "5-3\n", "05-3", "5-03", "5-x", "+5-3",
    "5-\u0663", "9" * 20 + "-0", "0-" + "9" * 20,
    f"{SEQUENCE_MAX + 1}-0", f"0-{SEQUENCE_MAX + 1}",
)  # fmt: skip


def test_ids_compare_as_numbers() -> None:
    assert parse_id("9-5") < parse_id("10-1") < parse_id("10-11")
    assert parse_id("10-2") < parse_id("10-11")


def test_an_id_without_a_sequence_has_sequence_0() -> None:
    assert parse_id("1700000000000") == parse_id("1700000000000-0")


@given(*NUMBERS)
def test_parse_and_format_are_inverse(ms: int, seq: int) -> None:
    text = format_id(ms, seq)
    assert parse_id(text) == check_id(text) == (ms, seq)
    assert ms_of(text) == ms


def test_start_sorts_before_every_entry() -> None:
    assert parse_id(START) == BEFORE_ALL < parse_id("0-1") < parse_id("1700000000000-9") < AFTER_ALL


@pytest.mark.parametrize("text", NO_IDS)
def test_text_that_is_no_id_is_refused(text: str) -> None:
    assert not is_id(text)
    with pytest.raises(ArchiveError, match="is no entry id, such as 1700000000000-0"):
        check_id(text)
    with pytest.raises(ArchiveError):
        padded_id(text)


@pytest.mark.parametrize(
    "text",
    [START, "0-1", "1700000000000-0", "9" * 19 + "-" + "9" * 19, f"{SEQUENCE_MAX}-{SEQUENCE_MAX}"],
)
def test_text_that_redis_writes_is_an_id(text: str) -> None:
    assert is_id(text)
    assert format_id(*check_id(text)) == text


@pytest.mark.parametrize(
    ("entry_id", "lower"), [("5-3", "5-2"), ("5-0", f"4-{SEQUENCE_MAX}"), ("1-1", "1-0")]
)
def test_the_id_before_is_the_greatest_below(entry_id: str, lower: str) -> None:
    assert id_before(entry_id) == lower
    assert parse_id(lower) < parse_id(entry_id)


@given(*NUMBERS, *NUMBERS)
def test_padded_ids_sort_as_text_as_ids_sort_as_numbers(
    ms: int, seq: int, other_ms: int, other_seq: int
) -> None:
    text, other = format_id(ms, seq), format_id(other_ms, other_seq)
    assert (padded_id(text) < padded_id(other)) == (parse_id(text) < parse_id(other))


def test_no_other_module_takes_an_id_apart() -> None:
    folder = Path(eventsched.__file__).parent
    modules = [path for path in folder.rglob("*.py") if path != folder / "schema" / "ids.py"]
    assert len(modules) > 100
    assert [path.name for path in modules if 'partition("-")' in path.read_text()] == []
