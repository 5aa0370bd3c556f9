"""The buffer of a session's chunks: bounds, confirmation, resending (rule 7, resume)."""

import pytest

from eventsched.client import append_buffer
from eventsched.client.append_buffer import (
    PENDING_BYTES_MAX,
    STORED_CHUNKS_MAX,
    AppendBuffer,
    StoredLimits,
)
from eventsched.store.session_commands import Chunk


def chunk(seq: int, size: int = 1) -> Chunk:
    return Chunk(session="c0.s", epoch=1, seq=seq, ms=100, payload=bytes(size))


def filled(count: int, size: int = 1) -> AppendBuffer:
    """A buffer in which the chunks 0 to `count` - 1 are pending."""
    buffer = AppendBuffer()
    buffer.add([chunk(seq, size) for seq in range(count)])
    return buffer


def numbers(chunks: list[Chunk]) -> list[int]:
    return [chunk.seq for chunk in chunks]


def resent(buffer: AppendBuffer, batch: list[Chunk], expected: int) -> list[Chunk]:
    return buffer.resend(batch, expected=expected, chunks_max=16, bytes_max=1_000_000)


def next_batch(buffer: AppendBuffer) -> list[Chunk]:
    return buffer.batch(chunks_max=16, bytes_max=1_000)


# --- pending chunks ---------------------------------------------------------------------------


def test_numbers_continue_where_the_session_is() -> None:
    buffer = AppendBuffer(next_seq=7)
    buffer.add([chunk(7), chunk(8)])
    assert buffer.next_seq == 9
    assert numbers(next_batch(buffer)) == [7, 8]


def test_a_chunk_is_pending_until_it_is_confirmed() -> None:
    buffer = filled(3)
    assert numbers(next_batch(buffer)) == numbers(next_batch(buffer)) == [0, 1, 2]
    buffer.confirm(2)
    assert (len(buffer), numbers(next_batch(buffer))) == (1, [2])
    buffer.confirm(1)
    assert (len(buffer), next_batch(buffer), buffer.next_seq) == (0, [], 3)


def test_a_batch_holds_as_many_chunks_as_one_call_takes() -> None:
    assert numbers(filled(20).batch(chunks_max=16, bytes_max=1_000)) == list(range(16))


@pytest.mark.parametrize(("bytes_max", "count"), [(30, 3), (39, 3), (40, 4)])
def test_a_batch_holds_as_many_bytes_as_one_call_takes(bytes_max: int, count: int) -> None:
    assert len(filled(5, size=10).batch(chunks_max=16, bytes_max=bytes_max)) == count


def test_a_chunk_that_is_larger_than_a_call_is_a_batch_of_its_own() -> None:
    buffer = filled(2, size=50)
    assert numbers(buffer.batch(chunks_max=16, bytes_max=40)) == [0]


def test_the_buffer_is_full_beyond_its_bound_and_no_longer_once_some_is_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert PENDING_BYTES_MAX == 32 * 1024 * 1024
    monkeypatch.setattr(append_buffer, "PENDING_BYTES_MAX", 20)
    buffer = filled(2, size=10)
    assert not buffer.is_full
    buffer.add([chunk(2)])
    assert buffer.is_full
    buffer.confirm(1)
    assert not buffer.is_full


# --- refused chunks ---------------------------------------------------------------------------


def test_the_numbers_of_refused_chunks_are_free_again() -> None:
    buffer = filled(5)
    buffer.confirm(2)
    buffer.withdraw(1)
    assert (len(buffer), buffer.next_seq) == (0, 2)
    buffer.add([chunk(2)])
    assert numbers(next_batch(buffer)) == [2]


def test_chunks_of_earlier_calls_stay_when_a_later_call_is_refused() -> None:
    buffer = filled(5)
    buffer.withdraw(3)
    assert (numbers(next_batch(buffer)), buffer.next_seq) == ([0, 1, 2], 3)


def test_nothing_is_withdrawn_when_all_of_the_call_is_stored() -> None:
    buffer = filled(3)
    buffer.confirm(3)
    buffer.withdraw(1)
    assert buffer.next_seq == 3


def test_refused_chunks_no_longer_fill_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append_buffer, "PENDING_BYTES_MAX", 20)
    buffer = filled(3, size=10)
    buffer.withdraw(2)
    assert not buffer.is_full


# --- chunks that a server lost ----------------------------------------------------------------


def test_rule_7_confirmed_chunks_are_sent_again_before_the_batch() -> None:
    buffer = filled(6)
    buffer.confirm(4)
    assert numbers(resent(buffer, next_batch(buffer), 2)) == [2, 3, 4, 5]


def test_rule_7_the_batch_alone_is_sent_again_from_the_number_that_is_expected() -> None:
    buffer = filled(6)
    assert numbers(resent(buffer, next_batch(buffer), 4)) == [4, 5]


def test_rule_7_chunks_after_the_batch_are_not_sent_with_it() -> None:
    buffer = filled(6)
    buffer.confirm(2)
    batch = buffer.batch(chunks_max=2, bytes_max=1_000)
    assert numbers(resent(buffer, batch, 1)) == [1, 2, 3]


@pytest.mark.parametrize("expected", [0, 9])
def test_rule_7_a_gap_that_cannot_be_filled_sends_nothing(expected: int) -> None:
    buffer = AppendBuffer(next_seq=3)
    buffer.add([chunk(3), chunk(4)])
    buffer.confirm(1)
    assert resent(buffer, next_batch(buffer), expected) == []


def test_resending_changes_neither_pending_nor_stored_chunks() -> None:
    buffer = filled(4)
    buffer.confirm(2)
    batch = next_batch(buffer)
    assert resent(buffer, batch, 0) == resent(buffer, batch, 0)
    assert numbers(next_batch(buffer)) == [2, 3]


@pytest.mark.parametrize(
    ("chunks_max", "bytes_max", "count"), [(3, 1_000, 3), (9, 30, 3), (9, 35, 3), (9, 5, 1)]
)
def test_no_more_is_sent_again_than_one_call_takes(
    chunks_max: int, bytes_max: int, count: int
) -> None:
    buffer = filled(8, size=10)
    buffer.confirm(6)
    chunks = buffer.resend(
        next_batch(buffer), expected=1, chunks_max=chunks_max, bytes_max=bytes_max
    )
    assert numbers(chunks) == list(range(1, 1 + count))


# --- bounds of the stored chunks --------------------------------------------------------------


def first_held(buffer: AppendBuffer, count: int) -> int:
    """The lowest number that can be sent again, of `count` confirmed chunks."""
    return next(seq for seq in range(count + 1) if seq == count or resent(buffer, [], seq))


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        (StoredLimits(), 260),  # 4 s of chunks of 100 ms
        (StoredLimits(ms=1_000), 290),
        (StoredLimits(ms=1_050), 290),
        (StoredLimits(ms=60_000, bytes=50), 295),
        (StoredLimits(ms=60_000), 300 - STORED_CHUNKS_MAX),
        (StoredLimits(ms=0), 300),
    ],
)
def test_confirmed_chunks_are_held_within_each_bound(limits: StoredLimits, first: int) -> None:
    buffer = AppendBuffer(limits=limits)
    buffer.add([chunk(seq, 10) for seq in range(300)])
    buffer.confirm(300)
    assert first_held(buffer, 300) == first


def test_old_chunks_are_dropped_as_later_ones_are_confirmed() -> None:
    buffer = filled(40)
    buffer.confirm(40)
    assert first_held(buffer, 40) == 0
    buffer.add([chunk(40)])
    buffer.confirm(1)
    assert first_held(buffer, 41) == 1
