"""Figures per item and the medians of rounds; no assertion is about speed."""

from __future__ import annotations

import os

import pytest

from benchmarks.micro import measure
from benchmarks.micro.figures import BenchFailed, Round, percentiles, spread_of
from benchmarks.micro.measure import Stolen, cpu_of, in_rounds, metering, ratio
from benchmarks.micro.stage import open_stage


def test_a_spread_is_the_median_with_the_extremes_in_four_digits() -> None:
    spread = spread_of([3.0, 1.23456, 20_000.4])
    assert (spread.median, spread.low, spread.high) == (3.0, 1.235, 20_000.0)


def test_percentiles_are_the_sorted_values_at_their_share_of_the_count() -> None:
    figures = percentiles(float(value) for value in reversed(range(1_000)))
    assert figures == {
        "p50_ms": 500.0, "p90_ms": 900.0, "p99_ms": 990.0, "p999_ms": 999.0, "max_ms": 999.0,
    }  # fmt: skip


def test_percentiles_of_nothing_are_no_figures() -> None:
    with pytest.raises(BenchFailed):
        percentiles([])


def test_ratios_are_between_parts() -> None:
    assert ratio({"a": {"x": 3.0}, "b": {"x": 2.0}}, "a", "b", "x") == 1.5


async def test_the_first_round_warms_up_and_does_not_count() -> None:
    values = iter([100.0, 1.0, 2.0, 3.0])
    steps: list[int] = []

    async def measure_round() -> Round:
        return Round({"part": {"x": next(values)}}, {"r": 2.0})

    rounds = await in_rounds(3, measure_round, steps.append)
    assert (rounds.parts["part"]["x"].median, rounds.parts["part"]["x"].high) == (2.0, 3.0)
    assert rounds.ratios["r"].median == 2.0
    assert steps == [1, 2, 3, 4]


async def test_rounds_with_much_stolen_cpu_are_repeated_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Stolen, "percent", lambda _: 50.0)
    calls = 0

    async def measure_round() -> Round:
        nonlocal calls
        calls += 1
        return Round({"part": {"x": float(calls)}})

    rounds = await in_rounds(2, measure_round, lambda _: None)
    assert (rounds.repeated, calls) == (measure.REPEATS_MAX, 1 + measure.REPEATS_MAX + 2)
    assert rounds.stolen_percent == 50.0


async def test_commands_scripts_and_bytes_are_counted_per_item() -> None:
    async with open_stage() as stage:
        async with metering(stage.redis) as cost:
            for number in range(10):
                await stage.redis.eval("return redis.call('SET', KEYS[1], '1')", 1, f"k{number}")
                await stage.redis.get(f"k{number}")
        figures = cost.per_item(10)
    assert (figures["script_calls"], figures["commands"]) == (1, 2)
    assert figures["net_in_bytes"] > 50
    assert figures["script_p999_us"] > 0
    assert figures["client_cpu_us"] > 0


def test_the_cpu_of_an_ended_process_is_unknown() -> None:
    assert cpu_of(2**22 + 1) is None
    assert cpu_of(os.getpid()) is not None
