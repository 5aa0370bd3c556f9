"""The series of waiting jobs are bounded, whatever languages and features tenants choose."""

from __future__ import annotations

from eventsched.history.waiting import WaitingJobs
from eventsched.telemetry.cell_metrics import REQUIREMENTS_MAX, _of_waiting


def waiting(number: int, jobs: int, oldest_ms: int) -> WaitingJobs:
    return WaitingJobs(
        source="en", target="es", features=[f"f{number}"], jobs=jobs, oldest_ms=oldest_ms,
        reason="NO_AVAILABLE_NODE",
    )  # fmt: skip


def test_requirements_beyond_the_bound_are_one_series() -> None:
    few = [waiting(number, 1, 1_000 * number) for number in range(5_000)]
    many = [waiting(10_000 + number, 7, 500) for number in range(REQUIREMENTS_MAX)]
    samples = [(labels, value) for name, labels, value in _of_waiting(few + many)
               if name == "jobs_waiting"]  # fmt: skip
    assert len(samples) == REQUIREMENTS_MAX + 1
    assert sum(value for _, value in samples) == 5_000 + 7 * REQUIREMENTS_MAX
    assert dict(samples)["other", "NO_AVAILABLE_NODE"] == 5_000
    oldest = {labels: value for name, labels, value in _of_waiting(few + many)
              if name == "jobs_waiting_oldest_seconds"}  # fmt: skip
    assert oldest["other", "NO_AVAILABLE_NODE"] == 4_999
