"""Each benchmark runs with little work and reports the expected fields."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.micro import console_reads, console_viewers, growth_classes, sessions, stage
from benchmarks.micro.gateway_sessions import GatewaySessions
from benchmarks.micro.growth import FLOOD, ROWS, exponent
from benchmarks.micro.growth_row import lowest_cost
from benchmarks.micro.measure import in_rounds
from benchmarks.micro.program import main
from benchmarks.micro.sessions import Sessions, passes
from benchmarks.micro.stage import open_stage
from benchmarks.micro.suite import BENCHES
from eventsched.loadtest.rttm import SAMPLES

PER_ITEM = {
    "rate_per_s", "redis_cpu_us", "client_cpu_us", "script_calls", "commands", "net_in_bytes",
    "net_out_bytes", "memory_bytes",
}  # fmt: skip
OTHER_FIGURES = {
    "growth": {"exponent", "at most"},
    "console": set(),  # requests have others than viewers
}
PARTS = {
    "append": {"append", "xadd pipelined"},
    "archive": {"redis to sealed", "gather and fold", "seal", "verify", "one session"},
    "console": {
        *(f"request: {name}" for name in (
            "overview: status", "overview: status again", "nodes: status", "status, with all nodes",
            "sessions: first page", "session: record", "session: timeline", "session: events",
            "session: events of a job", "job: why", "node: events", "nodes: list",
            "waiting: first page", "dead letters: first page", "projections", "control log: a page",
        )),
        *(f"viewers: {name}" for name in (
            "nobody", "overview", "sessions", "nodes", "node", "waiting", "dead letters",
            "projections",
        )),
    },
    "dispatch": {"dispatch", "xadd pipelined"},
    "gateway": {
        "echo", "gateway", "direct results", "gateway results", "one viewer", "many viewers",
    },
    "growth": {row.name for row in ROWS},
    "jobs": {"session and group views", "no views", "all four views"},
    "latency": {"200/s", "2000/s"},
    "project": {"rebuild", "xrange"},
    "raw": {"ping", "xadd", "script", "xadd pipelined", "xrange", "log"},
}  # fmt: skip
CURVES = {"dispatch": {"nodes": [16, 64, 200, 500, 1_000], "pairs": [1, 10, 100]}}


RATIOS = {
    "append": {"append / xadd pipelined, rate_per_s"},
    "gateway": {"gateway / echo, rate_per_s", "many viewers / one viewer, redis_cpu_us"},
    "growth": {FLOOD},
    "dispatch": {
        "1,000 nodes / 16, redis_cpu_us", "100 pairs / 1, redis_cpu_us",
        "dispatch / xadd pipelined, redis_cpu_us",
    },
    "project": {"rebuild / xrange, rate_per_s"},
}  # fmt: skip


def test_every_benchmark_is_tested_here() -> None:
    assert {*PARTS, "sessions", "gateway-sessions"} == set(BENCHES)


@pytest.mark.parametrize("name", PARTS)
def test_a_benchmark_prints_one_json_object(
    name: str, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the warm-up, which is the same round again (test_measure.py)."""
    monkeypatch.setattr(stage, "in_rounds", partial(in_rounds, warm_up=False))
    monkeypatch.setattr(growth_classes, "NODES", 64)
    monkeypatch.setattr(console_viewers, "WARM_UP_S", 0.0)
    monkeypatch.setattr(console_reads, "VIEWED_S", 0.05)
    monkeypatch.setattr(console_reads, "VIEWERS_PERCENT_MAX", 1e6)  # of so short a time
    monkeypatch.setattr(console_reads, "can_paint", lambda gateway: False)
    assert main([name, "--json", "--rounds", "1", "--scale", "0.01"]) == 0
    report = json.loads(capfdbinary.readouterr().out)
    assert report["bench"] == name
    assert report["rounds"] == 1
    assert report["server"].split()[0] in ("Redis", "Valkey")
    assert set(report["parts"]) == PARTS[name]
    curves = {name: [point["x"] for point in points] for name, points in report["curves"].items()}
    assert curves == CURVES.get(name, {})
    assert set(report["ratios"]) == RATIOS.get(name, set())
    for part, figures in report["parts"].items():
        assert part == "log" or set(figures) >= OTHER_FIGURES.get(name, PER_ITEM)
        assert all(each["low"] <= each["median"] <= each["high"] for each in figures.values())


def test_an_exponent_compares_the_smallest_with_the_largest_size() -> None:
    assert exponent({10: 5.0, 100: 80.0, 1_000: 5.0}) == pytest.approx(0)
    assert exponent({10: 5.0, 1_000: 500.0}) == pytest.approx(1)
    assert exponent({10: 5.0, 1_000: 50_000.0}) == pytest.approx(2)


def test_the_lowest_cost_of_each_call_counts_and_then_that_of_a_long_call() -> None:
    assert lowest_cost([3.0, 2.0, 4.0]) == 2.0
    assert lowest_cost([[1.0, 2.0, 3.0]]) == 3.0
    assert lowest_cost([[1.0, 90.0, 3.0], [80.0, 2.0, 70.0, 5.0]]) == 3.0
    calls = [float(cost) for cost in range(100)]
    assert lowest_cost([calls, calls[::-1]]) == 45.0


@pytest.mark.parametrize("bench", [Sessions, GatewaySessions])
async def test_sessions_are_counted_level_by_level(
    bench: type[Sessions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "RETRY_ROUNDS", 1)
    (tmp_path / "one.rttm").write_text((SAMPLES / "kitchen.rttm").read_text())
    async with open_stage() as stage:
        report = await bench(seconds=2, levels=(20,), traces=str(tmp_path)).run(stage)
    (points,) = report.curves.values()
    assert [point.x for point in points] == [20]
    figures = points[0].figures
    assert set(figures) >= {"p50_ms", "p99_ms", "late_chunks", "redis_cpu_percent", *PER_ITEM}
    assert (figures["lost"].high, figures["doubled"].high) == (0, 0)
    assert figures["utterances_per_s"].low > 0
    largest = report.parts["largest that holds"]["sessions"].median
    assert largest == (20 if passes(figures) else 0)


def test_a_folder_without_traces_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sessions", "--traces", str(tmp_path)]) == 1
    assert "no *.rttm in" in capsys.readouterr().err


def test_without_json_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["raw", "--rounds", "1", "--scale", "0.01"]) == 0
    output = capsys.readouterr().out
    assert "xadd pipelined" in output
    assert "redis_cpu_us" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "redis://127.0.0.1:1"], "a server of its own"),
        (["--rounds", "0"], "1 to 100"),
        (["--scale", "0"], "0.001 to 100"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["raw", *arguments]) == 1
    assert message in capsys.readouterr().err
