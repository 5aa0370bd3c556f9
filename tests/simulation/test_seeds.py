"""A few seeds of the simulation in every run of the suite; `make sim` runs more."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from tests.simulation.run import report, run_many, some

SEEDS = 8


def test_no_promise_is_broken_under_faults() -> None:
    verdicts = run_many(first=0, count=SEEDS)
    assert [(verdict.seed, verdict.broken) for verdict in verdicts if verdict.broken] == []
    assert report(verdicts)["calls"] >= 300 * SEEDS
    assert all(sum(verdict.faults.values()) >= 5 for verdict in verdicts)


def test_a_seed_replays_exactly() -> None:
    first, second = run_many(first=7, count=1), run_many(first=7, count=1)
    assert first == second


def test_a_seed_ends_the_same_whether_or_not_live_state_is_cached() -> None:
    """Each seed runs in its own process, as in `run_many`: a seed sets global state."""
    with ProcessPoolExecutor(1) as pool:
        uncached, cached = (pool.submit(some, [7, 9], live).result() for live in (0, 1))
    assert uncached == cached
