"""Each benchmark runs, in a tiny size, and reports the fields that programs read."""

from __future__ import annotations

import json

import pytest

from eventsched.bench.suite import BENCHES
from eventsched.cli.app import main

PER_ITEM = {
    "rate_per_s", "redis_cpu_us", "client_cpu_us", "script_calls", "commands", "net_in_bytes",
    "net_out_bytes", "memory_bytes",
}  # fmt: skip
PARTS = {
    "dispatch": {"dispatch"},
    "jobs": {"session and group projected", "no projector", "all four views projected"},
    "raw": {"ping", "xadd", "script", "xadd pipelined", "xrange", "log"},
}
CURVES = {"dispatch": {"nodes": [16, 64, 200, 500, 1_000], "pairs": [1, 10, 100]}}


def test_every_benchmark_is_listed_here() -> None:
    assert set(PARTS) == set(BENCHES)


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_prints_one_json_object(
    name: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert main(["bench", name, "--json", "--rounds", "1", "--scale", "0.01"]) == 0
    report = json.loads(capfdbinary.readouterr().out)
    assert report["bench"] == name
    assert report["rounds"] == 1
    assert report["server"].split()[0] in ("Redis", "Valkey")
    assert set(report["parts"]) == PARTS[name]
    curves = {name: [one["x"] for one in points] for name, points in report["curves"].items()}
    assert curves == CURVES.get(name, {})
    for part, figures in report["parts"].items():
        assert part == "log" or set(figures) >= PER_ITEM
        assert all(one["low"] <= one["median"] <= one["high"] for one in figures.values())


def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "raw", "--rounds", "1", "--scale", "0.01"]) == 0
    told = capsys.readouterr().out
    assert "xadd pipelined" in told
    assert "redis_cpu_us" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--url", "redis://127.0.0.1:1"], "a server of its own"),
        (["--rounds", "0"], "1 to 100"),
        (["--scale", "0"], "0.001 to 100"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "raw", *given]) == 1
    assert told in capsys.readouterr().err
