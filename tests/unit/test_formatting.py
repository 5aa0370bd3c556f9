"""Times of an archive may be any number."""

from __future__ import annotations

import pytest

from eventsched.formatting import LAST_MS, clock, day_and_clock, utc_time


@pytest.mark.parametrize("ms", [-(10**400), -1, LAST_MS, 253_402_300_800_000, 10**17, 10**400])
def test_a_time_that_no_calendar_has_is_shown_as_its_number(ms: int) -> None:
    assert clock(ms) == clock(ms, seconds=True) == day_and_clock(ms) == utc_time(ms) == str(ms)


def test_every_other_time_is_shown_by_the_calendar() -> None:
    assert utc_time(LAST_MS - 1_000) == "9999-12-30T23:59:59.000+00:00"
    assert utc_time(0) == "1970-01-01T00:00:00.000+00:00"
    for ms in (0, 1_700_000_000_123, LAST_MS - 1):
        assert day_and_clock(ms).endswith(f" {clock(ms)}")
        assert clock(ms) == f"{clock(ms, seconds=True)}.{ms % 1000:03d}"
