"""The benchmark of metrics and traces does its work."""

from __future__ import annotations

import pytest

from benchmarks.micro import telemetry
from tests.server_kinds import Server
from tests.telemetry.collectors import http_collector


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_each_variant_does_the_same_work_and_traces_are_exported(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "JOBS", 6)
    monkeypatch.setattr(telemetry, "WARM_UP", 1)
    monkeypatch.setattr(telemetry, "EXPORTED", 4)
    with http_collector() as collector:
        variants = await telemetry.server_costs(server.url, collector.url, together=2)
    assert [len(each.redis_s) for each in variants] == [4, 4, 4]
    assert all(each.us_a_job(each.redis_s, 2) > 0 for each in variants)
    assert len(collector.named("deliver")) == 8
