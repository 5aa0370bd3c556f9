"""Nodes for `test_retries`: `eventsched node tests.failures.retry_nodes:broken`."""

from __future__ import annotations

import anyio

import eventsched

broken = eventsched.Node("a-broken", sources=["en"], targets=["es"], slots=8)
sound = eventsched.Node("b-sound", sources=["en"], targets=["es"], slots=1)
patient = eventsched.Node("patient", sources=["en"], targets=["es"], slots=2)


@broken.job
async def fail(job: eventsched.Job) -> eventsched.Result:
    raise eventsched.JobError("GPU_LOST", retryable=True)


@sound.job
async def answer(job: eventsched.Job) -> eventsched.Result:
    await anyio.sleep(0.05)  # sleeps: the work of a model
    return eventsched.Result(text=f"attempt {job.attempt}")


@patient.job
async def fail_once(job: eventsched.Job) -> eventsched.Result:
    if job.attempt == 1:
        raise eventsched.JobError("GPU_BUSY", retry_in_ms=3_000)
    return eventsched.Result(text=f"attempt {job.attempt}")
