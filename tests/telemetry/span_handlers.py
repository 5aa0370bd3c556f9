"""Handlers that tell which span is current in them, and which ids their log lines have."""

from __future__ import annotations

from opentelemetry import trace
from structlog.contextvars import get_contextvars

import eventsched


def _seen() -> eventsched.Result:
    span = trace.get_current_span().get_span_context()
    fields = get_contextvars()
    logged = f"{fields.get('trace_id')}/{fields.get('span_id')}"
    return eventsched.Result(text=f"{span.trace_id:032x}/{span.span_id:016x} {logged}")


async def in_event_loop(_: eventsched.Job) -> eventsched.Result:
    return _seen()


def in_thread(_: eventsched.BlockingJob) -> eventsched.Result:
    return _seen()


def _infer(count: int) -> list[eventsched.Result]:
    with trace.get_tracer("application").start_as_current_span("inference"):
        return [eventsched.Result(text="hola")] * count


async def batch_in_event_loop(jobs: list[eventsched.Job]) -> list[eventsched.Result]:
    return _infer(len(jobs))


def batch_in_thread(jobs: list[eventsched.BlockingJob]) -> list[eventsched.Result]:
    return _infer(len(jobs))


async def failing_batch(_: list[eventsched.Job]) -> list[eventsched.Result]:
    raise eventsched.JobError("BROKEN", retryable=False)
