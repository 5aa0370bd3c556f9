"""The number of series of /metrics does not grow with sessions and tenants."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.series import SERIES_MAX, count_series, series_of
from eventsched.server.testing import LocalServer


async def test_the_series_of_many_sessions_and_tenants_have_a_bound(tmp_path: Path) -> None:
    """More tenants than requirements with series of their own; `python benchmarks/micro/series.py`
    does it with 10,000 sessions of 1,000 tenants."""
    with LocalServer(tmp_path, has_port=True) as server:
        gateway, process = await count_series(server.url, sessions=260, tenants=260)
    assert 100 < gateway < SERIES_MAX
    assert process < SERIES_MAX


def test_a_series_that_names_a_session_or_a_tenant_is_found() -> None:
    for label in ('session="c0.session-7"', 'tenant="tenant-7"'):
        with pytest.raises(BenchFailed, match="without bound"):
            series_of(f"eventsched_jobs_total{{{label}}} 1\n".encode())
